"""How models compute in another precision than float32: the one place that knows PyTorch's switches for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
def computing(precision: Precision, network: nn.Module, option: str) -> Iterator[None]:
    """Let a network compute in ``precision`` in the body; softmax and norms are summed in float32 in each.

    Results are looked at where they arise, for a later layer may turn infinity into a common number: those of PyTorch's layers
    that compute products, and of each module with a true attribute ``computes_products``.

    Raises:
        ConfigError: one of its products or convolutions was too large for half precision; ``option`` is what chose it.
    """
    device = next(network.parameters()).device
    if precision != "fast":
        with tf32_within(precision == "tf32", device):
            yield
        return
    all_finite: list[Tensor] = []  # one flag for each result; read at the end, so that a GPU is waited for once

    def look(_module: nn.Module, _inputs: Any, result: Tensor) -> None:
        all_finite.append(result.isfinite().all())

    hooks = [module.register_forward_hook(look) for module in network.modules() if _computes_products(module)]
    try:
        with tf32_within(False, device), torch.autocast(device.type, half_type(device)):
            yield
    finally:
        for hook in hooks:
            hook.remove()
    if all_finite and not torch.stack(all_finite).all():
        raise _too_large(option)


def _computes_products(module: nn.Module) -> bool:
    known = isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    return known or bool(getattr(module, "computes_products", False))


def require_finite(values: Tensor, option: str, precision: Precision) -> None:
    """Raise ConfigError where a network computed what is no number: what follows of it would be silently wrong."""
    if values.isfinite().all():
        return
    if precision == "fast":
        raise _too_large(option)
    raise ConfigError(
        f"{option}: expected finite numbers of a network, got NaN or infinite ones in {precision} precision; its weights are "
        "damaged, or come from a training whose loss was not finite"
    )


def _too_large(option: str) -> ConfigError:
    return ConfigError(
        f"{option}: expected numbers that half precision holds, got larger ones with these weights; set {option}=exact"
    )
