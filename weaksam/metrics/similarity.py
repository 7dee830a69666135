"""How alike the features of an image's proposals are (method 9.6, Fig. 6): redundant proposals have nearly the same ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine_matrix(features: Tensor) -> Tensor:
    """Cosine of the angle between every two features.

    Args:
        features: ``[N, D]``; one of length 0 points nowhere and has a cosine of 0 with all, itself included.

    Returns:
        float32 ``[N, N]`` in [-1, 1] up to rounding.
    """
    directions = F.normalize(features.float(), dim=1)
    return directions @ directions.T


def mean_off_diagonal(matrix: Tensor) -> float:
    """Mean of a square matrix ``[N, N]`` without its diagonal; NaN where N is 0 or 1."""
    number = len(matrix)
    if number < 2:
        return float("nan")
    values = matrix.double()
    return float((values.sum() - values.trace()) / (number * (number - 1)))
