"""What a page shows of trainings."""
