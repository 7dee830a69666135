"""How well the contour of a mask follows the true one: the boundary F of DAVIS, and the band of the boundary IoU.

A pixel of one contour is right if the other contour passes within a tolerance of it, 0.75 % of the image's diagonal.
The tolerance goes with the image and not with the object: a small object is judged the more mildly.

Boundary IoU (Cheng et al., 2021) is the IoU of what two masks have near their contours, 2 % of the diagonal to the inside.
There the border of the image is a contour as well.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.0075  # of the diagonal of the image
BAND = 0.02  # of the diagonal of the image


class BoundaryScores(NamedTuple):
    """Shares of contour pixels, in [0, 1]."""

    precision: float  # of the mask's contour, near the true one
    recall: float  # of the true contour, near the mask's

    @property
    def f(self) -> float:
        """Harmonic mean of precision and recall, 0 if both are 0."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def tolerance_pixels(size_hw: tuple[int, int]) -> int:
    """How far two contours may lie apart in an image of that size: whole pixels, rounded up, so at least 1."""
    return math.ceil(TOLERANCE * math.hypot(*size_hw))


def contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that have a pixel outside of it to the left, right, top or bottom: [H, W] -> [H, W].

    What cuts a mask off at the border of the image is not its contour: a mask that fills the image has none.
    """
    import cv2

    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = cv2.erode(mask.view(np.uint8), cross)  # beyond the border counts as inside
    edge: NDArray[np.bool_] = mask & (inside == 0)
    return edge


def band_pixels(size_hw: tuple[int, int]) -> int:
    """How wide the band along a contour is in an image of that size: whole pixels, at least 1."""
    return max(1, round(BAND * math.hypot(*size_hw)))


def band(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a mask with one outside of it, or outside of the image, at most ``width`` rows and columns away.

    [H, W] -> [H, W]; a mask has a band unless it is empty.
    """
    import cv2

    square = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
    of_pixels = mask.view(np.uint8)
    inside = cv2.erode(of_pixels, square, iterations=width, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    near: NDArray[np.bool_] = mask & (inside == 0)
    return near


def boundary_scores(mask: NDArray[np.bool_], true_mask: NDArray[np.bool_]) -> BoundaryScores:
    """Precision and recall of a mask's contour.

    Args:
        mask: [H, W].
        true_mask: [H, W].

    Returns:
        Of two masks without a contour, empty or filling the image, 1 and 1 if they are the same, else 0 and 0. Where only one
        has a contour, the share of no pixels is 1 and the other 0, which is an F of 0.

    Raises:
        ValueError: the masks are of different sizes.
    """
    if mask.shape != true_mask.shape:
        raise ValueError(f"expected two masks of one size, got {mask.shape} and {true_mask.shape}")
    tolerance = tolerance_pixels((mask.shape[0], mask.shape[1]))
    within = _rows_and_columns(mask | true_mask)
    found, true = contour(mask[within]), contour(true_mask[within])
    if not found.any() and not true.any():
        same = float(np.array_equal(mask, true_mask))
        return BoundaryScores(same, same)
    return BoundaryScores(_share_near(found, true, tolerance), _share_near(true, found, tolerance))


def _rows_and_columns(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The part of an image that holds all of a mask and, where there is one, a pixel more on every side.

    Contours do not change in it, and it takes less time than the image. Of an empty mask, it is the pixel at the origin.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _share_near(some: NDArray[np.bool_], others: NDArray[np.bool_], tolerance: int) -> float:
    """Share of ``some`` pixels with one of ``others`` within ``tolerance`` pixels, centre to centre; 1 of no pixels."""
    if not some.any():
        return 1.0
    if not others.any():
        return 0.0
    import cv2

    distance = cv2.distanceTransform((~others).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[some] <= tolerance).mean())
