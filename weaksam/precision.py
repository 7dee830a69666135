"""How models compute in another precision than float32: the one place that knows PyTorch's switches for it."""

from __future__ import annotations

import torch
from torch import Tensor

from weaksam.config.precision import Precision
from weaksam.errors import ConfigError


def half_type(device: torch.device) -> torch.dtype:
    """The half precision of a device: float16 on a GPU, whose rounding is an eighth of bfloat16's at the same speed.

    On a CPU it is bfloat16: processors that have instructions for one have them for this one, and PyTorch computes float16
    products no faster than float32 there.
    """
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def use_tf32(wanted: bool, device: torch.device) -> None:
    """Let a GPU round float32 factors to TF32, or keep it from it: PyTorch's own default is to round those of convolutions.

    The switch is of the whole process, so that models that compute at the same time must agree on it.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = wanted
        torch.backends.cudnn.allow_tf32 = wanted


def computing(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a network computes in ``precision``; softmax and norms are summed in float32 in each."""
    use_tf32(precision == "tf32", device)
    return torch.autocast(device.type, half_type(device), enabled=precision == "fast")


def require_finite(values: Tensor, option: str) -> None:
    """Raise ConfigError where half precision could not hold a number: what follows of it would be silently wrong."""
    if not values.isfinite().all():
        raise ConfigError(
            f"{option}: expected numbers that half precision holds, got larger ones with these weights; set {option}=exact"
        )
