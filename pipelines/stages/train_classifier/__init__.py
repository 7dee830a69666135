"""The clue network's training."""
