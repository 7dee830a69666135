"""Mean IoU of label maps: one confusion matrix of all pixels, as VOC counts semantic segmentation; and their boundary IoU.

Pixels whose true class is 255 (void) do not count. A predicted 255, of which nobody decided, counts as background: that is what
is left of the image for those who use the map.

The mean goes over the classes, background among them, that occur in a true map or are predicted anywhere. One that occurs in
neither has no IoU, 0 of 0 pixels; one that is predicted and nowhere true has 0. Of VOC's sets, where all classes occur, this is
the mean over its 21.

Boundary IoU (Cheng et al., 2021) compares of each class the pixels that lie within 2 % of the image's diagonal of its contour.
They are added up over all images before they are divided, like those of the IoU. Contours are those of the maps as they are,
beside void, too: only afterwards pixels of void are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam.errors import DataError
from weaksam.label_maps import BACKGROUND, IGNORED
from weaksam.metrics.boundary import band, band_pixels
from weaksam.metrics.classification import mean_of_known, share


@dataclass(frozen=True, kw_only=True)
class LabelMapScores:
    """Of all images; shares in [0, 1], NaN where there is no pixel to divide by. Row and class 0 are the background."""

    confusion: NDArray[np.int64]  # [C + 1, C + 1] pixels, of the true class by the predicted one
    boundary_iou: NDArray[np.float64]  # [C + 1]

    @property
    def iou(self) -> NDArray[np.float64]:
        """Of each class, [C + 1]."""
        return _iou(self.confusion)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the pixels predicted as a class that are of it, [C + 1]."""
        return share(np.diagonal(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of the pixels of a class that are predicted as it, [C + 1]."""
        return share(np.diagonal(self.confusion), self.confusion.sum(axis=1))

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur."""
        return mean_of_known(self.iou)

    @property
    def mean_boundary_iou(self) -> float:
        """Mean over the classes that have a contour anywhere."""
        return mean_of_known(self.boundary_iou)

    @property
    def pixel_accuracy(self) -> float:
        """Share of all pixels that are predicted as what they are."""
        return float(share(np.trace(self.confusion), self.confusion.sum()))


class LabelMapQuality:
    """Quality of label maps, fed image by image in any order; holds (C + 1)² numbers, however many images there are.

    Args:
        num_classes: C, without background.
    """

    def __init__(self, num_classes: int) -> None:
        self._confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        self._band_shared = np.zeros(num_classes + 1, np.int64)
        self._band_either = np.zeros(num_classes + 1, np.int64)

    def add(self, image_id: str | int, label_map: NDArray[np.uint8], true_map: NDArray[np.uint8]) -> float:
        """Compare the map of one image with the true one.

        Args:
            image_id: for messages.
            label_map: ``[H, W]``.
            true_map: ``[H, W]``.

        Returns:
            The mean IoU of this image alone, over the classes that occur in it; NaN where no pixel counts.

        Raises:
            DataError: the maps are of different sizes, or one has a number of no class.
        """
        num_classes = len(self._confusion) - 1
        if label_map.shape != true_map.shape:
            raise DataError(
                f"image {image_id}: expected a label map of {_size(true_map)} pixels (height x width), as its true one has, "
                f"got {_size(label_map)}; both must be of the same picture"
            )
        counts = true_map != IGNORED
        predicted = np.where(label_map == IGNORED, np.uint8(BACKGROUND), label_map)
        most = max(int(predicted.max()), int(true_map.max(where=counts, initial=BACKGROUND)))
        if most > num_classes:
            raise DataError(
                f"image {image_id}: expected numbers of classes 0..{num_classes} and {IGNORED}, got {most}; "
                "map and classes must be of the same data set"
            )
        joint = true_map[counts].astype(np.int64) * (num_classes + 1) + predicted[counts]
        confusion = np.bincount(joint, minlength=self._confusion.size).reshape(self._confusion.shape)
        self._confusion += confusion
        occur = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
        width = band_pixels((true_map.shape[0], true_map.shape[1]))
        for c in occur.tolist():
            found, true = band(predicted == c, width) & counts, band(true_map == c, width) & counts
            self._band_shared[c] += np.count_nonzero(found & true)
            self._band_either[c] += np.count_nonzero(found | true)
        return mean_of_known(_iou(confusion))

    def scores(self) -> LabelMapScores:
        """Quality of all images so far."""
        return LabelMapScores(
            confusion=self._confusion.copy(), boundary_iou=share(self._band_shared, self._band_either)
        )


def background_map(true_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a map of background alone, of the size of another ``[H, W]``: a figure is worth what it is above this one's."""
    return np.full_like(true_map, BACKGROUND)


def largest_class_map(true_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a map filled with the class that most pixels of the true one ``[H, W]`` have, of equals the first.

    It knows what the image shows and not where. Background where nothing else is true.
    """
    pixels = np.bincount(true_map.ravel(), minlength=IGNORED + 1)
    pixels[[BACKGROUND, IGNORED]] = 0
    return np.full_like(true_map, pixels.argmax() if pixels.any() else BACKGROUND)


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    right = np.diagonal(confusion)
    return share(right, confusion.sum(axis=0) + confusion.sum(axis=1) - right)


def _size(label_map: NDArray[np.uint8]) -> str:
    return " x ".join(map(str, label_map.shape))
