"""Semantic quasi-superpixels: of SAM's masks nearly disjoint ones, wholes before their parts (FMA method 5.1, RSW)."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = (2, 1, 0)  # of SAM's masks, in the order in which they are chosen: whole, part, subpart


def intersections(masks: Tensor) -> Tensor:
    """Count the pixels that each two of several masks share: bool ``[S, H, W]`` -> float32 ``[S, S]``."""
    flat = masks.flatten(1).float()
    return flat @ flat.T


def quasi_superpixels(level: Tensor, shared: Tensor, threshold: float) -> Tensor:
    """Choose masks: all wholes; then the parts, then the subparts, of which little lies in a mask that was chosen before.

    Masks of one level do not compete. Where there is no whole, the first level that has masks takes its place.

    Args:
        level: int64 ``[S]``, 0 subpart, 1 part, 2 whole.
        shared: ``[S, S]``, see ``intersections``; a mask shares all of itself with itself, one pixel or more.
        threshold: share of a mask that must not lie in one mask of those chosen; higher keeps more (published: .3).

    Returns:
        bool ``[S]``.
    """
    chosen = torch.zeros_like(level, dtype=torch.bool)
    inside = shared / shared.diagonal()[:, None]
    for number in LEVELS:
        of_level = level == number
        covered = inside[:, chosen].amax(dim=1) if chosen.any() else inside.new_zeros(len(level))
        chosen = chosen | (of_level & (covered < threshold))
    return chosen
