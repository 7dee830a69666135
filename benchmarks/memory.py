"""How much larger a piece of work makes its process at the most (Linux)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def growth_mib(work: Callable[[], Result]) -> tuple[Result, float]:
    """Do a piece of work; return its result, and by how many MiB the process was larger at its largest than before."""
    Path("/proc/self/clear_refs").write_text("5")  # the largest size is that of now
    before = _status("VmRSS")
    result = work()
    return result, _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
