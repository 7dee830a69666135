"""Semantic quasi-superpixels: of SAM's masks nearly disjoint ones, wholes before their parts (FMA method 5.1, RSW)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weaksam.masks_np import rle_inside
from weaksam.structures import PART, SUBPART, WHOLE, AutomaticMasks


def superpixels_among(masks: AutomaticMasks, threshold: float) -> AutomaticMasks:
    """Return the masks that are an image's quasi-superpixels, in their order; see ``quasi_superpixels``."""
    chosen = quasi_superpixels(masks.level, rle_inside(masks.mask_rle), threshold)
    return masks.take(np.flatnonzero(chosen).tolist())


def quasi_superpixels(level: NDArray[np.integer], inside: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Choose masks: all wholes; then the parts, then the subparts, of which little lies in a mask that was chosen before.

    Masks of one level do not compete. Where there is no whole, the first level that has masks takes its place.

    Args:
        level: ``[S]``, SUBPART, PART or WHOLE.
        inside: ``[S, S]``, the share of each mask (row) that lies in each (column); see ``rle_inside``.
        threshold: in (0, 1], share of a mask that must not lie in one mask of those chosen; higher keeps more (published: .3).

    Returns:
        bool ``[S]``.
    """
    chosen = np.zeros(len(level), np.bool_)
    for number in (WHOLE, PART, SUBPART):
        covered = inside[:, chosen].max(axis=1, initial=0.0)
        chosen = chosen | ((level == number) & (covered < threshold))
    return chosen
