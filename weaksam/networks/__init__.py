"""Backbones that several families use."""
