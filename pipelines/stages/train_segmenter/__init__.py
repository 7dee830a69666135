"""Segmenters trained on label maps."""
