"""What the models share that compute in another precision than float32."""

from __future__ import annotations

import torch


def half_type(device: torch.device) -> torch.dtype:
    """The half precision of a device: float16 on a GPU, whose rounding is an eighth of bfloat16's at the same speed.

    On a CPU it is bfloat16: processors that have instructions for one have them for this one, and PyTorch computes float16
    products no faster than float32 there.
    """
    return torch.bfloat16 if device.type == "cpu" else torch.float16
