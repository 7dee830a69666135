"""Masks made by hand, as SAM and what follows it have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weaksam.mask_runs import MaskRuns
from weaksam.masks_np import encode_rle, rle_area, rle_boxes
from weaksam.structures import WHOLE, AutomaticMasks


def automatic_masks(
    masks: Sequence[NDArray[np.bool_]], *, size_hw: tuple[int, int], level: Sequence[int] | None = None
) -> AutomaticMasks:
    """Describe masks ``[H, W]`` of one image, all wholes unless levels are given; number n was prompted at (n, 0)."""
    count, rles = len(masks), [encode_rle(mask) for mask in masks]
    return AutomaticMasks(
        size_hw=size_hw,
        mask_rle=rles,
        level=np.array([WHOLE] * count if level is None else level, np.int8),
        area=rle_area(rles).astype(np.int32),
        boxes_xyxy=rle_boxes(rles),
        predicted_iou=np.linspace(0.9, 0.8, count, dtype=np.float32),
        stability=np.full(count, 0.95, np.float32),
        point_xy=np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.float32),
        crop_xyxy=np.tile(np.array([0, 0, size_hw[1], size_hw[0]], np.float32), (count, 1)),
    )


def mask_runs(masks: NDArray[np.bool_]) -> MaskRuns:
    """Describe masks ``[S, H, W]`` by their runs; there may be none."""
    height, width = masks.shape[1:]
    return MaskRuns.of([encode_rle(mask) for mask in masks], (height, width))
