"""The type of a kind of files: how they are damaged, where they lie and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of files."""

    place: Callable[[Path], Path]  # makes what lies around the file in a folder; returns where the file itself belongs
    sound: Callable[[], list[bytes]]  # whole files, which are read
    damage: Callable[[Random, bytes, list[bytes]], bytes]  # one of them, and all to splice in
    read: Callable[[Path], object]  # as the commands do

    def make(self, rng: Random) -> bytes:
        """Return a damaged file."""
        files = self.sound()
        return self.damage(rng, rng.choice(files), files)


def alone(name: str) -> Callable[[Path], Path]:
    """Return the ``place`` of a file that nothing else lies around."""
    return lambda folder: folder / name
