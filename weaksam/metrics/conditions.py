"""IoU of classes in label maps by what makes them hard: other classes in the image, elongated shapes, classes side by side.

What is grouped are pairs of an image and a class that is truly in it. The pixels of a class are added up over all pairs of a
group before they are divided, like those of the IoU of whole sets; the mean goes over the classes that the group has.
Background is no class here, and pixels called a class in images without it belong to no group.

A label map does not tell objects of one class apart, so that what is elongated is the largest connected region of a class, and
what is side by side are classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weaksam.label_maps import BACKGROUND, IGNORED
from weaksam.metrics.classification import mean_of_known, share

CLASSES, ELONGATION, CONTACT = "classes in the image", "elongation", "contact"
_ELONGATED, _THIN = 1.5, 3.0  # length by width from which on
_VOID = 5  # pixels, the width of what VOC leaves undecided around an object
GROUPS = {  # in the order in which they are told
    CLASSES: ("1", "2", "3 or more"),
    ELONGATION: (f"below {_ELONGATED:g}", f"{_ELONGATED:g} to {_THIN:g}", f"{_THIN:g} or more"),
    CONTACT: ("apart from other classes", "beside another class"),
}


class GroupScores(NamedTuple):
    """Of one group."""

    condition: str
    group: str
    pairs: int  # of an image and a class
    mean_iou: float  # NaN without a pair


class ConditionedIou:
    """IoU by condition, fed image by image in any order.

    Args:
        num_classes: C, without background.
    """

    def __init__(self, num_classes: int) -> None:
        sizes = {condition: (len(groups), num_classes + 1) for condition, groups in GROUPS.items()}
        self._shared = {condition: np.zeros(size, np.int64) for condition, size in sizes.items()}
        self._either = {condition: np.zeros(size, np.int64) for condition, size in sizes.items()}
        self._pairs = {condition: [0] * len(groups) for condition, groups in GROUPS.items()}

    def add(self, label_map: NDArray[np.uint8], true_map: NDArray[np.uint8]) -> None:
        """Compare the map of one image with the true one, both ``[H, W]``; ignored pixels of the true one do not count."""
        counts = true_map != IGNORED
        there = [n for n in np.unique(true_map).tolist() if n not in (BACKGROUND, IGNORED)]
        for number in there:
            true, found = true_map == number, (label_map == number) & counts
            of_pair = {
                CLASSES: min(len(there), 3) - 1,
                ELONGATION: int(np.searchsorted([_ELONGATED, _THIN], elongation(true), side="right")),
                CONTACT: int(is_beside_another(true_map, number)),
            }
            for condition, group in of_pair.items():
                self._shared[condition][group, number] += np.count_nonzero(true & found)
                self._either[condition][group, number] += np.count_nonzero(true | found)
                self._pairs[condition][group] += 1

    def scores(self) -> list[GroupScores]:
        """Return what all images so far give, group by group."""
        return [
            GroupScores(condition, group, self._pairs[condition][n], self._mean_iou(condition, n))
            for condition, groups in GROUPS.items()
            for n, group in enumerate(groups)
        ]

    def _mean_iou(self, condition: str, group: int) -> float:
        return mean_of_known(share(self._shared[condition][group], self._either[condition][group]))


def elongation(mask: NDArray[np.bool_]) -> float:
    """Return how many times as long as wide the largest connected region of a mask is, pixels at a corner being connected.

    Length and width are those of the rectangle, in any direction, that has the same second moments.

    Args:
        mask: ``[H, W]``, of at least one pixel.

    Returns:
        1 or more.
    """
    from scipy.ndimage import label

    regions, _ = label(mask, np.ones((3, 3), np.int8))
    largest = np.bincount(regions[mask]).argmax()
    # A pixel is a square of side 1, whose own moment is a twelfth.
    moments = np.cov(np.argwhere(regions == largest).T, bias=True) + np.eye(2) / 12
    least, most = np.linalg.eigvalsh(moments)
    return float(np.sqrt(most / least))


def is_beside_another(true_map: NDArray[np.uint8], number: int) -> bool:
    """Return whether a pixel of a class in a map ``[H, W]`` has one of another class among its eight neighbours.

    Ignored pixels up to ``_VOID`` off a class count as its own: VOC draws its objects with such a rim.
    """
    from scipy.ndimage import binary_dilation

    neighbours, true = np.ones((3, 3), np.bool_), true_map == number
    with_rim = binary_dilation(true, neighbours, iterations=_VOID, mask=true | (true_map == IGNORED))
    around = binary_dilation(with_rim, neighbours)
    return bool((~np.isin(true_map[around], (BACKGROUND, IGNORED, number))).any())
