"""Proposals: clues prompt SAM."""
