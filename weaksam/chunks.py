"""How much of one image is worked on at a time: chunks of a size that no other image has a say in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

# What one step works on at a time. On a CPU tensors should stay near the cache, and below the 32 MB from which glibc asks
# the kernel for every one anew; a GPU needs hundreds of prompts at once to be busy.
_STEP_BYTES_CPU = 16 * 2**20
_STEP_BYTES_GPU = 2**30

Result = TypeVar("Result")


def chunk_size(bytes_each: int, device: torch.device) -> int:
    """How many things of ``bytes_each`` to work on together on this kind of device; at least 1."""
    return max(1, (_STEP_BYTES_CPU if device.type == "cpu" else _STEP_BYTES_GPU) // bytes_each)


def in_chunks(count: int, size: int, compute: Callable[[slice], Result]) -> Iterator[Result]:
    """Compute over ``range(count)`` in consecutive chunks and yield the result of each.

    Args:
        count: how many things of one image there are; of none, nothing is computed.
        size: how many to work on together. Where an accelerator has too little memory for a chunk, it is halved for the
            chunk and all that follow; results then differ by rounding from those of whole chunks.
        compute: called with the slice of each chunk, in ascending order.

    Raises:
        torch.OutOfMemoryError: the memory does not suffice for a single one.
    """
    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            result = compute(slice(start, stop))
        except torch.OutOfMemoryError:
            if stop - start == 1:
                raise
            size = (stop - start) // 2
            continue
        yield result
        start = stop
