"""Measures: proposal recall and classification mean average precision."""
