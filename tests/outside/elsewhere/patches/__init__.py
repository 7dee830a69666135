"""A clue source that is trained: a folder, so that recipes are read without torch."""
