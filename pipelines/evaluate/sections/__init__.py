"""What a page shows of evaluations."""
