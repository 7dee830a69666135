"""A retrained detector: a folder, so that recipes are read without torch."""
