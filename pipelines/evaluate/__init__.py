"""Figures against true boxes and labels."""
