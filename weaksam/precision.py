"""How models compute in another precision than float32: the one place that knows PyTorch's switches for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def tf32_within(wanted: bool, device: torch.device) -> Iterator[None]:
    """``use_tf32`` for the body alone: whoever computes in this process before and after it has what it asked for."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    use_tf32(wanted, device)
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Let a network compute in ``precision`` in the body; softmax and norms are summed in float32 in each."""
    half = torch.autocast(device.type, half_type(device), enabled=precision == "fast")
    with tf32_within(precision == "tf32", device), half:
        yield


def require_finite(values: Tensor, option: str) -> None:
    """Raise ConfigError where half precision could not hold a number: what follows of it would be silently wrong."""
    if not values.isfinite().all():
        raise ConfigError(
            f"{option}: expected numbers that half precision holds, got larger ones with these weights; set {option}=exact"
        )
