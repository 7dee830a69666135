"""Masks that need no network: what a mask made of a box is worth only beside them.

Each rule takes an image and a box and gives a mask. A box already holds a good part of its object; the filled box and the
ellipse earn that part without looking at the image, GrabCut (Rother et al., 2004) looks at its colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weaksam.grab_cut import grab_cut
from weaksam.masks_np import Rle, encode_rle

MaskRule = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.bool_]]  # image, box -> mask


def ruled(rule: MaskRule, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> list[Rle]:
    """Return the masks ``[N]`` that a rule makes of boxes ``[N, 4]`` of one image; errors are the rule's."""
    return [encode_rle(rule(image, box_xyxy)) for box_xyxy in boxes_xyxy]


def filled_box(image: NDArray[np.uint8], box_xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The pixels of an image whose centres lie in a box; of a box between all centres, the pixel in which its own lies.

    Args:
        image: [H, W, 3]; only its size counts.
        box_xyxy: [4]; what sticks out of the image is left out.

    Returns:
        [H, W], of at least one pixel.

    Raises:
        ValueError: nothing of the box lies in the image.
    """
    mask = np.zeros(image.shape[:2], np.bool_)
    columns, rows = _pixels_of(box_xyxy, mask.shape)
    mask[rows, columns] = True
    return mask


def inscribed_ellipse(image: NDArray[np.uint8], box_xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The pixels of ``filled_box`` whose centres lie in the largest ellipse in the box, or on it; if there are none, all.

    Arguments, what is returned and raised are those of ``filled_box``.
    """
    mask = filled_box(image, box_xyxy)
    left, top, right, bottom = box_xyxy.astype(np.float64).tolist()
    # Distances from the centre of the ellipse, where 1 is half of its box.
    across = (2 * (np.arange(mask.shape[1]) + 0.5) - left - right) / (right - left)
    down = (2 * (np.arange(mask.shape[0]) + 0.5) - top - bottom) / (bottom - top)
    ellipse: NDArray[np.bool_] = mask & (across**2 + down[:, None] ** 2 <= 1)
    return ellipse if ellipse.any() else mask


class GrabCutInBox:
    """GrabCut: what in a box has other colours than its surroundings; the same image and box give the same mask.

    Where it fails, the mask is the filled box, and ``fell_back`` counts it: a box that fills the image has no surroundings,
    and in small boxes and those of one colour with the image around them nothing is left.
    """

    def __init__(self) -> None:
        self.masks = 0  # so far
        self.fell_back = 0  # of them

    def __call__(self, image: NDArray[np.uint8], box_xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Cut one object out; this sets the seed of OpenCV's random numbers in this thread.

        Args:
            image: uint8 [H, W, 3] RGB.
            box_xyxy: [4]; what sticks out of the image is left out.

        Returns:
            [H, W], of at least one pixel, all of them of ``filled_box``.

        Raises:
            ValueError: nothing of the box lies in the image, or the image has another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected an image uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        box = filled_box(image, box_xyxy)
        cut = grab_cut(image, box)
        self.masks += 1
        if cut is None:
            self.fell_back += 1
            return box
        return cut


def _pixels_of(box_xyxy: NDArray[np.float32], size_hw: tuple[int, ...]) -> tuple[slice, slice]:
    """Columns and rows of the pixels of ``filled_box``."""
    box = box_xyxy.astype(np.float64).tolist()
    spans = []
    for low, high, side in zip(box[:2], box[2:], reversed(size_hw), strict=True):
        start, end = max(low, 0.0), min(high, float(side))
        if not start < end:
            raise ValueError(f"expected a box with a part in an image of {size_hw[0]} x {size_hw[1]} pixels, got {box}")
        first, beyond = math.ceil(start - 0.5), math.ceil(end - 0.5)
        middle = math.floor((start + end) / 2)
        spans.append(slice(first, beyond) if first < beyond else slice(middle, middle + 1))
    return spans[0], spans[1]
