"""Data sets: where images, their labels and their true objects come from."""
