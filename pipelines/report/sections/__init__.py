"""What a page shows of the run as a whole."""
