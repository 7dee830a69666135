"""What a page shows of analyses."""
