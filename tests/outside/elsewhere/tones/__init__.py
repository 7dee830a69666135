"""A segmenter: a folder, so that recipes are read without torch."""
