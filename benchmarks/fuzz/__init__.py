"""What the readers do with damaged files: 10,000 of them by default, each read or refused by name, and nothing else.

``python -m benchmarks.fuzz`` prints the table. An input is decided by its kind, the seed and its number, so that
``python -m benchmarks.fuzz --seed S --kind KIND --only NUMBER`` makes it again, and shows what becomes of it.
"""
