"""From a data set's own boxes to ``GroundTruth``: the part that VOC and COCO share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from weaksam.structures import GroundTruth

# Pixels by which a box may stick out of its image without being counted: COCO's corners are sums of rounded decimals.
_TOLERANCE = 0.02


class TrueObject(NamedTuple):
    """One annotated object; ``box_xyxy`` is exclusive and not yet cut to the image."""

    box_xyxy: tuple[float, float, float, float]
    class_index: int
    difficult: bool = False
    crowd: bool = False


def ground_truth_of(objects: Sequence[TrueObject], size_hw: tuple[int, int]) -> GroundTruth:
    """Cut the objects of one image to it.

    Args:
        objects: In any number.
        size_hw: The image's size; 0 where it is not known, and then nothing is cut at that side.

    Returns:
        The objects of which something lies inside the image, how many of them were cut, and how many others are left out
        because nothing of them remains (an empty or reversed box among them).
    """
    boxes = np.array([item.box_xyxy for item in objects], np.float64).reshape(-1, 4)
    height, width = (side or np.inf for side in size_hw)
    inside = boxes.clip(0, (width, height, width, height))
    kept = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    cut = (np.abs(inside - boxes) > _TOLERANCE).any(axis=1)
    return GroundTruth(
        boxes_xyxy=inside[kept].astype(np.float32),
        class_index=np.array([item.class_index for item in objects], np.int64)[kept],
        difficult=np.array([item.difficult for item in objects], bool)[kept],
        crowd=np.array([item.crowd for item in objects], bool)[kept],
        cut=int((cut & kept).sum()),
        left_out=int((~kept).sum()),
        size_hw=size_hw,
    )
