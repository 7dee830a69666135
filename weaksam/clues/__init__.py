"""Clue sources: networks trained on image-level labels whose activation maps say where to prompt."""
