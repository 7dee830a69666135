"""How the threads of a CPU wait for each other."""

import os

# Rounds of waiting in a loop before a thread sleeps; OpenMP's own 300,000 are milliseconds.
_SPINS = "1000"


def sleep_soon() -> None:
    """Let threads that wait for each other sleep soon, in this process and those that it starts; before torch is imported.

    A thread that waits in a loop keeps its core from the thread which it waits for, if another process has that one's core:
    together they then take longer than one after the other, at worst many times as long (``benchmarks/shared_cores.py``). What
    the environment says already stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
