"""How much of one image is worked on at a time: chunks of a size that no other image has a say in.

On a CPU the sizes are fixed. On an accelerator a chunk may take half of the memory that is free, up to a cap, and a power of
two of things at once: where there is room for the cap, which is the rule, every chunk of a model has one size, and elsewhere
only twice or half the memory changes it. What differs then is rounding, as where memory runs out and a chunk is halved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

# The largest tensor of a step on a CPU: it should stay near the cache, and below the 32 MB from which glibc asks the kernel
# for every one anew.
_TENSOR_BYTES_CPU = 16 * 2**20
# All that a step holds at once on an accelerator. It takes hundreds of SAM's prompts to keep one busy; more gain nothing.
_MOST_BYTES = 8 * 2**30
# The rest is for the fragments that an allocator leaves, and for another thread of the process that computes meanwhile.
_SHARE_OF_FREE = 0.5

Result = TypeVar("Result")


def chunk_size(device: torch.device, *, tensor_bytes: int, peak_bytes: int) -> int:
    """How many things to work on together on this device; at least 1.

    Args:
        device: where.
        tensor_bytes: of the largest tensor, for each of them: what counts on a CPU.
        peak_bytes: of all tensors that are held at once, for each of them: what counts on an accelerator.
    """
    if device.type == "cpu":
        return max(1, _TENSOR_BYTES_CPU // tensor_bytes)
    at_most = int(min(_MOST_BYTES, _SHARE_OF_FREE * free_bytes(device))) // peak_bytes
    return 1 << max(0, at_most.bit_length() - 1)


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still have of an accelerator: what nobody holds, and what its own allocator keeps unused.

    A process that shares the accelerator with others may have been given a part of its memory.
    """
    free, total = torch.cuda.mem_get_info(device)
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    own = torch.cuda.get_per_process_memory_fraction(device) * total
    return max(0, int(min(free + reserved, own) - allocated))


def in_chunks(count: int, size: int, compute: Callable[[slice], Result]) -> Iterator[Result]:
    """Compute over ``range(count)`` in consecutive chunks and yield the result of each.

    Args:
        count: how many things of one image there are; of none, nothing is computed.
        size: how many to work on together. Where an accelerator has too little memory for a chunk, what its allocator keeps
            is given back and the chunk is halved, as are all that follow; results then differ by rounding from those of
            whole chunks.
        compute: called with the slice of each chunk, in ascending order.

    Raises:
        Exception: the memory does not suffice for a single one (``is_out_of_memory``), or what else ``compute`` raises.
    """
    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            result = compute(slice(start, stop))
        except Exception as error:
            if stop - start == 1 or not is_out_of_memory(error):
                raise
        else:
            yield result
            start = stop
            continue
        size = (stop - start) // 2
        torch.cuda.empty_cache()  # after the exception, whose frames hold the tensors of the chunk


def is_out_of_memory(error: Exception) -> bool:
    """Whether an accelerator had too little memory: PyTorch's own allocator, a library's workspace, or the driver."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )


_OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
