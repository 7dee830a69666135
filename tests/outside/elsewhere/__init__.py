"""Another package: one member of each family, each in one file (or folder) and with one line in ``entry_points.txt``."""
