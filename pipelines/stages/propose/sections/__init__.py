"""What a page shows of proposals."""
