"""How far two correct computations of the same numbers may lie apart: the one rule that all tests use.

Processors, libraries, numbers of threads and sizes of a batch add the terms of a sum in different orders, and every order
rounds otherwise. Equal bits are therefore asked only of the *same* computation repeated on one machine: the same seed, a
resumed training, a file read twice. Everything else (a batch against its images, ours against the published layers, a
result worked by hand) is compared with ``near`` or ``assert_near``, and discrete answers that come of it (a box around
the pixels above a threshold, which of two wins) are compared where the numbers behind them lie further from the threshold
than rounding reaches.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

SAFETY = 8


def rounding(dtype: torch.dtype, length: int, magnitude: float = 1.0) -> float:
    """The largest difference that rounding alone makes.

    Each of ``length`` roundings after one another is off by at most eps / 2 of what was added up so far. Their errors
    point anywhere, so that together they grow like a random walk, with the square root of their number; ``SAFETY`` such
    walks are what no processor will show (Higham and Mary, 2019: the chance falls like exp(-SAFETY²/2)). Up to 64
    terms it is more than the worst case, ``length * eps``.

    Args:
        dtype: what was computed in, where several were: the coarsest.
        length: how many roundings a value has gone through: the terms of its sum, 1 for a few operations on numbers of
            one size, ``roundings_in(network)`` for what a network answers.
        magnitude: the sum of the absolute values of the terms, of which the largest result is a fair guess unless much
            cancels out.
    """
    return SAFETY * torch.finfo(dtype).eps * math.sqrt(length) * magnitude


def roundings_in(*networks: nn.Module) -> int:
    """``length`` of what networks answer one after another: the terms of each layer's sums, added up."""
    return sum(p.shape[1:].numel() for network in networks for p in network.parameters() if p.dim() > 1)


def near(
    expected: object, *, length: int = 1, magnitude: float | None = None, dtype: torch.dtype = torch.float32
) -> object:
    """``expected``, a number or a list or dict of numbers, for ``==`` with what was computed in ``dtype``.

    ``magnitude`` is each number's own unless given; where terms cancel, it must be.
    """
    relative = rounding(dtype, length)
    if magnitude is None:
        return pytest.approx(expected, rel=relative, abs=0.0, nan_ok=True)
    return pytest.approx(expected, rel=0.0, abs=relative * magnitude, nan_ok=True)


def assert_near(
    found: Tensor | ArrayLike, expected: Tensor | ArrayLike, *, length: int = 1, magnitude: float | None = None,
    dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    """Fail where two arrays of one shape differ by more than ``rounding`` allows; NaN equals NaN, infinity itself.

    Args:
        found: tensor, array or nested list.
        expected: the same, of the same shape.
        length: as of ``rounding``.
        magnitude: as of ``rounding``; the largest finite absolute value of ``expected`` unless given.
        dtype: what was computed in; unless given, the coarsest floating type of the two, float32 if neither has one.
    """
    a, b = (_tensor(values).detach().cpu() for values in (found, expected))
    assert a.shape == b.shape, f"{tuple(a.shape)} found, {tuple(b.shape)} expected"
    types = [values.dtype for values in (found, expected) if isinstance(values, (Tensor, np.ndarray, np.generic))]
    if dtype is None:
        floating = [t for t in (_torch_type(t) for t in types) if t.is_floating_point]
        dtype = max(floating, key=lambda t: torch.finfo(t).eps, default=torch.float32)
    a, b = a.double(), b.double()
    if magnitude is None:
        finite = b[b.isfinite()].abs()
        magnitude = finite.max().item() if finite.numel() else 0.0
    allowed = rounding(dtype, length, magnitude)
    torch.testing.assert_close(a, b, rtol=0.0, atol=allowed, equal_nan=True)


def _tensor(values: Tensor | ArrayLike) -> Tensor:
    return values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))


def _torch_type(dtype: object) -> torch.dtype:
    return dtype if isinstance(dtype, torch.dtype) else torch.from_numpy(np.empty(0, dtype)).dtype
