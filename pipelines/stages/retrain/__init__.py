"""Detectors trained on pseudo labels."""
