"""Boxes or masks: all in which the measures of the two differ is how far two of them overlap, and how large one is.

A measure is told which it compares, takes the regions of an image from here and indexes them like any array. Masks are
never made of boxes, nor boxes of masks: where the ones asked for are missing, there is nothing to measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from weaksam.boxes_np import inside_float64, iou_float64
from weaksam.errors import DataError
from weaksam.masks_np import Rle, rle_area, rle_iou
from weaksam.structures import GroundTruth

Of = Literal["boxes", "masks"]  # what is measured
Regions = NDArray[Any]  # of one image: boxes float32 XYXY [N, 4], or run-length encodings as objects [N]


class Found(Protocol):
    """What has boxes and perhaps masks: proposals, detections, pseudo ground truth, true objects."""

    @property
    def boxes_xyxy(self) -> NDArray[np.float32]:
        """``[N, 4]``."""

    @property
    def mask_rle(self) -> Sequence[Rle | None] | None:
        """``[N]``; None where there are boxes alone."""


def regions(of: Of, image_id: str | int, found: Found) -> Regions:
    """The boxes or masks of what was found in an image, or of the true objects that ``measurable`` left.

    Raises:
        DataError: masks are asked for, and there are none, or not one for each box.
    """
    if of == "boxes":
        return found.boxes_xyxy
    if found.mask_rle is None:
        raise DataError(
            f"image {image_id}: expected a mask for each of {len(found.boxes_xyxy)} boxes, got boxes alone; "
            "make masks of them first, or measure boxes"
        )
    if len(found.mask_rle) != len(found.boxes_xyxy):
        raise DataError(
            f"image {image_id}: expected a mask for each of {len(found.boxes_xyxy)} boxes, got {len(found.mask_rle)}"
        )
    masks = np.empty(len(found.mask_rle), np.object_)
    masks[:] = found.mask_rle
    return masks


def measurable(of: Of, image_id: str | int, truth: GroundTruth) -> GroundTruth:
    """The true objects that can be compared: of masks, those that have one.

    The others are as if they were not there: nobody has to find them, and nothing is right on them.
    ``objects_without_mask`` counts them.

    Raises:
        DataError: masks are asked for and the annotations state none, or not one for each box.
    """
    if of == "boxes":
        return truth
    return truth.take([n for n, mask in enumerate(regions(of, image_id, truth)) if mask is not None])


def objects_without_mask(truth: GroundTruth) -> int:
    """How many objects no measure of masks knows of, because the annotations state a box of them only."""
    return len(truth.class_index) if truth.mask_rle is None else sum(mask is None for mask in truth.mask_rle)


def overlap(
    image_id: str | int, a: Regions, b: Regions, *, crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """IoU of every region of one set with every region of another, both boxes or both masks: -> [N, M] in [0, 1].

    Args:
        image_id: for the message.
        a: N regions.
        b: M regions.
        crowd: [M]; how far a region overlaps a crowd is, as COCO has it, the share of the region inside. None: no crowds.

    Raises:
        DataError: masks are of images of different sizes.
    """
    if a.dtype == np.object_:
        try:
            return rle_iou(a.tolist(), b.tolist(), crowd=crowd)
        except DataError as error:
            raise DataError(
                f"image {image_id}: {error}; masks found and true ones must be of the same picture"
            ) from error
    iou = iou_float64(a, b)
    return iou if crowd is None else np.where(crowd, inside_float64(a, b), iou)


def areas(of: Regions) -> NDArray[np.float64]:
    """Area of each region in square pixels, [N]."""
    if of.dtype == np.object_:
        return rle_area(of.tolist()).astype(np.float64)
    boxes_xyxy = of.astype(np.float64)
    area: NDArray[np.float64] = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(min=0).prod(axis=1)
    return area
