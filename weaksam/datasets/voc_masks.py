"""The masks of VOC's ``SegmentationObject``: which pixels of an image belong to which object of its XML.

A PNG with a palette numbers the objects from 1; 0 is background, 255 the void around objects, which belongs to none. The devkit
numbers them as the XML lists them, other writers may not: each mask goes to the object of its class (``SegmentationClass``
tells it) whose box it fits best, and where two fit about alike to that of its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from weaksam.boxes_np import iou_float64
from weaksam.errors import DataError, ImageError
from weaksam.io.images import decode_numbers
from weaksam.masks_np import Rle, encode_rle

BACKGROUND, VOID = 0, 255
# IoU of a mask's box with an object's, to be of one object at all. The void takes two or three pixels off each side: of an
# object of ten pixels half the box's width and height remain.
_LEAST_IOU = 0.25
_OF_ITS_NUMBER = 0.1  # IoU that an object is ahead of others by the number of the mask


class Png(NamedTuple):
    """A file whose pixels are numbers."""

    data: bytes
    where: str  # for messages


class ObjectMasks(NamedTuple):
    """The masks of one image."""

    mask_rle: list[Rle | None]  # of each object, None where none fits
    left_out: int  # masks that fit no object


def object_masks(
    objects: Png,
    boxes_xyxy: Sequence[tuple[float, float, float, float]],
    size_hw: tuple[int, int],
    *,
    classes: Png | None = None,
    class_numbers: Sequence[int] = (),
) -> ObjectMasks:
    """Give the objects of an image their masks.

    Args:
        objects: the PNG that numbers the objects' pixels.
        boxes_xyxy: of the N objects.
        size_hw: that the XML states; a side of 0 is not known.
        classes: the PNG that numbers the classes' pixels; without one, boxes alone tell.
        class_numbers: [N], the class of each object as ``classes`` numbers it.

    Raises:
        DataError: a PNG is no picture of numbers, or of another size.
    """
    numbers = _numbers(objects, size_hw)
    found = [n for n in np.unique(numbers).tolist() if n not in (BACKGROUND, VOID)]
    masks = [numbers == n for n in found]
    class_map = None if classes is None else _numbers(classes, numbers.shape)
    given: list[Rle | None] = [None] * len(boxes_xyxy)
    if masks and given:
        wanted = np.array(boxes_xyxy, np.float32).reshape(-1, 4)
        fit = iou_float64(np.array([_box(mask) for mask in masks], np.float32), wanted)
        if class_map is not None:
            of_masks = np.array([_class_of(mask, class_map) for mask in masks])[:, None]
            fit = np.where((of_masks == BACKGROUND) | (of_masks == np.array(class_numbers)), fit, 0)
        is_of_number = np.array(found)[:, None] == np.arange(1, len(given) + 1)
        worth = np.where(fit >= _LEAST_IOU, fit + _OF_ITS_NUMBER * is_of_number, 0)
        for n, k in zip(*linear_sum_assignment(-worth), strict=True):
            if worth[n, k] > 0:
                given[k] = encode_rle(masks[n])
    return ObjectMasks(given, len(masks) - sum(rle is not None for rle in given))


def _numbers(png: Png, size_hw: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        numbers = decode_numbers(png.data)
    except ImageError as error:
        raise DataError(
            f"{png.where}: expected a PNG of numbers, got {error}; restore, convert or remove it"
        ) from error
    if any(known and known != side for known, side in zip(size_hw, numbers.shape, strict=True)):
        raise DataError(
            f"{png.where}: expected {size_hw[1] or '?'} x {size_hw[0] or '?'} pixels (width x height) as its XML and other PNG "
            f"say, got {numbers.shape[1]} x {numbers.shape[0]}; give the PNG of this picture, or remove it"
        )
    return numbers


def _class_of(mask: NDArray[np.bool_], class_map: NDArray[np.uint8]) -> int:
    """The class that most pixels of a mask have; ``BACKGROUND`` where none has one."""
    counts = np.bincount(class_map[mask], minlength=VOID + 1)
    counts[[BACKGROUND, VOID]] = 0
    return int(counts.argmax())


def _box(mask: NDArray[np.bool_]) -> list[int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
