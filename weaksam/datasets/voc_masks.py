"""The masks of VOC's ``SegmentationObject``: which pixels of an image belong to which object of its XML.

A PNG with a palette numbers the objects from 1; 0 is background, 255 the void around objects, which belongs to none. The devkit
numbers them as the XML lists them, other writers may not: each mask goes to the object whose box it fits best.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from weaksam.boxes_np import iou_float64
from weaksam.errors import DataError
from weaksam.masks_np import Rle, encode_rle

VOID = 255
_LEAST_IOU = 0.5  # of a mask's box with an object's, to be of one object


def object_masks(
    data: bytes, boxes_xyxy: Sequence[tuple[float, float, float, float]], size_hw: tuple[int, int], where: str
) -> list[Rle | None]:
    """Return the mask of each object of an image, None for an object that none fits.

    Args:
        data: of the PNG.
        boxes_xyxy: of the objects.
        size_hw: that the XML states; 0 where it does not.
        where: the PNG, for messages.

    Raises:
        DataError: it is no picture of indices, or of another size.
    """
    numbers = _numbers(data, where)
    if any(stated and stated != side for stated, side in zip(size_hw, numbers.shape, strict=True)):
        raise DataError(
            f"{where}: expected {size_hw[1]} x {size_hw[0]} pixels (width x height) as the XML states, got "
            f"{numbers.shape[1]} x {numbers.shape[0]}; give the PNG of this picture, or remove it"
        )
    masks = [numbers == n for n in np.unique(numbers).tolist() if n not in (0, VOID)]
    found: list[Rle | None] = [None] * len(boxes_xyxy)
    if masks and found:
        wanted = np.array(boxes_xyxy, np.float32).reshape(-1, 4)
        iou = iou_float64(np.array([_box(mask) for mask in masks], np.float32), wanted)
        for n, k in zip(*linear_sum_assignment(-iou), strict=True):
            if iou[n, k] >= _LEAST_IOU:
                found[k] = encode_rle(masks[n])
    return found


def _numbers(data: bytes, where: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.mode not in ("P", "L"):
                raise DataError(
                    f"{where}: expected a PNG of numbers (with a palette, or grey), got mode {picture.mode}; a picture of "
                    "colours must be turned into one of indices"
                )
            return np.array(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where}: expected a PNG, got {error}; restore or remove it") from error


def _box(mask: NDArray[np.bool_]) -> list[int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
