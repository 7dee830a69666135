"""What superpixels could give at best: each of the class that most of it truly is, painted like a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam.label_maps import BACKGROUND, IGNORED, painting_order


def best_map(true_map: NDArray[np.uint8], masks: NDArray[np.bool_], level: Sequence[int]) -> NDArray[np.uint8]:
    """Return the map of superpixels that each have their true class: a bound for seeds that are painted of the same ones.

    It is nearly the best that labels of the superpixels can give, and not surely: where they overlap, another label could help.

    Args:
        true_map: ``[H, W]``; ignored pixels have no say in the class of a superpixel.
        masks: ``[S, H, W]``; S may be 0.
        level: ``[S]``, and of one level the ones that are more of one class: what lies on top, see ``painting_order``.

    Returns:
        ``[H, W]``, background where no superpixel is, and in those that are ignored as a whole. Without a superpixel the true
        map itself, ignored pixels as background: there each pixel of a seed takes its own class.
    """
    if not len(masks):
        return np.where(true_map == IGNORED, BACKGROUND, true_map).astype(np.uint8)
    counts = np.array([np.bincount(true_map[mask], minlength=IGNORED + 1) for mask in masks]).reshape(-1, IGNORED + 1)
    counts[:, IGNORED] = 0
    number, known = counts.argmax(axis=1), counts.sum(axis=1)  # of equal counts the first
    purity = counts.max(axis=1) / np.maximum(known, 1)
    label_map = np.full_like(true_map, BACKGROUND)
    for n in painting_order(level, purity.tolist()):
        label_map[masks[n]] = number[n]
    return label_map
