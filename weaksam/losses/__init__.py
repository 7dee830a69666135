"""Losses of the method as pure functions."""
