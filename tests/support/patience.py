"""How tests wait for what other processes and threads do: for a condition, and never for a number of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 900.0  # only what will never come takes so long, however busy the machine is


def wait_until(happened: Callable[[], object], *, every_s: float = 0.02, explain: Callable[[], str] = str) -> None:
    """Return once ``happened()`` is true; fail with ``explain()`` when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"still not so after {PATIENCE_S:.0f} s. {explain()}"
        time.sleep(every_s)
