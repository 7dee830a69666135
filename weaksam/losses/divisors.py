"""What losses are divided by where several workers share a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_processes(counts: Tensor) -> Tensor:
    """Return the mean of counts over the workers of a training, so that dividing by it and averaging gradients divides by
    the sum; of one process the counts themselves. In place where there are several.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
        return counts / torch.distributed.get_world_size()
    return counts
