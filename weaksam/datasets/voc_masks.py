"""Which pixels of an image belong to which object of its XML, where all pixels are numbered.

The objects are numbered from 1; 0 is background, 255 the void around objects, which belongs to none. The devkit numbers them as
the XML lists them, other writers do not: each mask goes to the object of its class whose box it fits best, and where two fit
about alike to that of its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weaksam.boxes_np import iou_float64
from weaksam.masks_np import Rle, encode_rle, tight_box

BACKGROUND, VOID = 0, 255
# IoU of a mask's box with an object's, to be of one object at all. The void takes two or three pixels off each side: of an
# object of ten pixels half the box's width and height remain.
_LEAST_IOU = 0.25
_OF_ITS_NUMBER = 0.1  # IoU that an object is ahead of others by the number of the mask


class NumberedObjects(NamedTuple):
    """The pixels of an image, numbered by objects."""

    numbers: NDArray[np.uint8]  # [H, W]
    class_of: Mapping[int, int]  # number -> VOC's number of its class, where that is known


class ObjectMasks(NamedTuple):
    """The masks of one image."""

    mask_rle: list[Rle | None]  # of each object, None where none fits
    left_out: int  # masks that fit no object


def object_masks(
    image: NumberedObjects, boxes_xyxy: Sequence[tuple[float, float, float, float]], class_numbers: Sequence[int]
) -> ObjectMasks:
    """Give the N objects of an image their masks, by their boxes and VOC's numbers of their classes."""
    from scipy.optimize import linear_sum_assignment  # a second, which every command would wait for

    numbers = image.numbers
    found = [n for n in np.unique(numbers).tolist() if n not in (BACKGROUND, VOID)]
    masks = [numbers == n for n in found]
    given: list[Rle | None] = [None] * len(boxes_xyxy)
    if masks and given:
        wanted = np.array(boxes_xyxy, np.float32).reshape(-1, 4)
        fit = iou_float64(np.array([tight_box(mask) for mask in masks], np.float32), wanted)
        of_masks = np.array([image.class_of.get(n, BACKGROUND) for n in found])[:, None]
        fit = np.where((of_masks == BACKGROUND) | (of_masks == np.array(class_numbers)), fit, 0)
        is_of_number = np.array(found)[:, None] == np.arange(1, len(given) + 1)
        worth = np.where(fit >= _LEAST_IOU, fit + _OF_ITS_NUMBER * is_of_number, 0)
        for n, k in zip(*linear_sum_assignment(-worth), strict=True):
            if worth[n, k] > 0:
                given[k] = encode_rle(masks[n])
    return ObjectMasks(given, len(masks) - sum(rle is not None for rle in given))


def classes_of(numbers: NDArray[np.uint8], class_map: NDArray[np.uint8]) -> dict[int, int]:
    """The class that most pixels of each object have, by the object's number; an object whose pixels have none is left out."""
    found = {}
    for n in np.unique(numbers).tolist():
        counts = np.bincount(class_map[numbers == n], minlength=VOID + 1)
        counts[[BACKGROUND, VOID]] = 0
        if n not in (BACKGROUND, VOID) and counts.any():
            found[n] = int(counts.argmax())
    return found
