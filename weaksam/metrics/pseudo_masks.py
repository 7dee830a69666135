"""How right pseudo masks are: what each true object gets of them, in pixels and along its contour.

Precision and recall count a mask as right or wrong at one IoU (``pseudo_labels.py``). Here each true object is compared
with the pseudo mask of its class that overlaps it most, which others may share: how good masks are where there is one, and
how many objects have none. Difficult objects, crowds and objects without a mask do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam.masks_np import decode_rle
from weaksam.metrics.boundary import boundary_scores
from weaksam.metrics.classification import mean_of_known
from weaksam.metrics.coco import CocoAveragePrecision, CocoScores
from weaksam.metrics.per_class import PerClass
from weaksam.metrics.pseudo_labels import PseudoLabelQuality, PseudoLabelScores, as_detections
from weaksam.metrics.regions import measurable, overlap, regions
from weaksam.structures import Detections, GroundTruth, PseudoGroundTruth

BINS = 20  # of the histogram of IoU


@dataclass(frozen=True, kw_only=True)
class ComparedObjects:
    """The G true objects of one image that count, beside the best pseudo masks of their classes."""

    class_index: NDArray[np.int64]  # [G]
    pseudo_index: NDArray[np.int64]  # [G], which pseudo mask; -1 where none of the class overlaps the object
    iou: NDArray[np.float64]  # [G], 0 for those
    boundary_f: NDArray[np.float64]  # [G], 0 for those

    def mean_iou(self) -> dict[int, float]:
        """Mean over the objects of each class that the image has, by class."""
        return {c: float(self.iou[self.class_index == c].mean()) for c in np.unique(self.class_index).tolist()}


@dataclass(frozen=True, kw_only=True)
class PseudoMaskScores:
    """Of all images; in [0, 1], NaN for a class without an object."""

    labels: PseudoLabelScores  # precision and recall; a "box" is a mask there
    coco: CocoScores  # average precision of the masks, ranked by the scores of the detections that their boxes were
    objects: NDArray[np.int64]  # [C]
    iou: NDArray[np.float64]  # [C] mean over a class's objects
    boundary_f: NDArray[np.float64]  # [C] mean over a class's objects
    histogram: NDArray[np.int64]  # [C, BINS] objects by IoU, those without any pseudo mask in the first of equal bins

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that have an object; NaN if none has."""
        return mean_of_known(self.iou)

    @property
    def mean_boundary_f(self) -> float:
        """Mean over the classes that have an object; NaN if none has."""
        return mean_of_known(self.boundary_f)


def compare_masks(image_id: str | int, pseudo: PseudoGroundTruth | Detections, truth: GroundTruth) -> ComparedObjects:
    """Find the pseudo or detected mask that overlaps each true object of an image most; of equals the first.

    Raises:
        DataError: there are no masks on one side, or they are of different sizes.
    """
    truth = measurable("masks", image_id, truth)
    counted = ~(truth.difficult | truth.crowd)
    class_index = truth.class_index[counted]
    true_rle = regions("masks", image_id, truth)[counted]
    pseudo_rle = regions("masks", image_id, pseudo)
    iou = overlap(image_id, true_rle, pseudo_rle) * (class_index[:, None] == pseudo.class_index)
    best = iou.max(axis=1, initial=0.0)
    pseudo_index = np.full(len(best), -1, np.int64)
    for n in np.flatnonzero(best):
        pseudo_index[n] = iou[n].argmax()
    boundary_f = [
        boundary_scores(decode_rle(pseudo_rle[n]), decode_rle(true)).f if n >= 0 else 0.0
        for n, true in zip(pseudo_index.tolist(), true_rle, strict=True)
    ]
    return ComparedObjects(
        class_index=class_index, pseudo_index=pseudo_index, iou=best, boundary_f=np.array(boundary_f, np.float64)
    )


class PseudoMaskQuality:
    """Quality of pseudo masks, fed image by image in any order.

    It holds 47 bytes per pseudo mask and 38 per object, and 8 per pair of them of one class: what ``PseudoLabelQuality`` and
    ``CocoAveragePrecision`` hold, and two numbers per object.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._labels, self._coco = (
            PseudoLabelQuality(num_classes, of="masks"),
            CocoAveragePrecision(num_classes, of="masks"),
        )
        self._iou, self._boundary_f = PerClass(num_classes), PerClass(num_classes)

    def add(self, image_id: str | int, pseudo: PseudoGroundTruth, truth: GroundTruth) -> ComparedObjects:
        """Compare the pseudo masks of one image with its true ones, and return what was compared.

        Errors are those of ``VocAveragePrecision.add``.
        """
        self._labels.add(image_id, pseudo, truth)
        self._coco.add(image_id, as_detections(pseudo, self._num_classes), truth)
        objects = compare_masks(image_id, pseudo, truth)
        self._iou.add(objects.class_index, objects.iou)
        self._boundary_f.add(objects.class_index, objects.boundary_f)
        return objects

    def scores(self, iou_threshold: float = 0.5) -> PseudoMaskScores:
        """Quality of all images so far, precision and recall at the threshold, in (0, 1]."""
        return PseudoMaskScores(
            labels=self._labels.scores(iou_threshold),
            coco=self._coco.scores(),
            objects=self._iou.count(),
            iou=self._iou.mean(),
            boundary_f=self._boundary_f.mean(),
            histogram=self._iou.histogram(BINS),
        )
