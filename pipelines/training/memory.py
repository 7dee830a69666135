"""How much memory of a GPU a training takes, and how many images its passes may have in what is free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch

from weaksam.chunks import free_bytes

# The rest is for images that are larger than those that were measured, and for the fragments that an allocator leaves.
_SHARE_OF_FREE = 0.8

Pass = TypeVar("Pass")


class Gauge:
    """Measures what passes of one image take of a GPU beside what stays: weights, gradients, states of optimisers."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most_bytes = 0  # of a pass

    def watched(self, passes: Iterator[Pass]) -> Iterator[Pass]:
        """Yield a phase's passes, and measure each from its loading until the next one is asked for.

        Not the first, in which the gradients come up; that one says nothing of the images.
        """
        yield next(passes)
        while True:
            before = torch.cuda.memory_allocated(self._device)
            forget_peak(self._device)
            one = next(passes, None)
            if one is None:
                return
            yield one
            self._most_bytes = max(self._most_bytes, torch.cuda.max_memory_allocated(self._device) - before)

    def images_that_fit(self, gradient_bytes: int) -> int:
        """Return how many images a pass may have, at least 1: between two steps, when weights and states alone are there."""
        room = int(_SHARE_OF_FREE * free_bytes(self._device)) - gradient_bytes
        return max(1, room // max(1, self._most_bytes))


def gauge_of(device: torch.device) -> Gauge | None:
    """Return one for a device; None where nobody knows how much memory is free, as on a CPU."""
    return Gauge(device) if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Let ``peak_mib`` count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float | None:
    """Return the most memory that tensors of this process have taken on its GPU; None on a CPU.

    It counts from the beginning of the training, or from the last pass that a gauge measured: later ones take no less.
    """
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
