"""How right pseudo ground truth is: the precision and recall of its boxes (beside Table 5), or of its masks.

Boxes are matched with true objects as VOC's average precision matches detections: each is compared with the object of its
class that it overlaps most, and of several on one object the best-scoring one is correct. Boxes on difficult objects or
crowds neither count nor hurt, and nobody has to find those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam.metrics.classification import mean_of_known, share
from weaksam.metrics.detection import VocAveragePrecision
from weaksam.metrics.regions import Of
from weaksam.structures import Detections, GroundTruth, PseudoGroundTruth


@dataclass(frozen=True, kw_only=True)
class PseudoLabelScores:
    """Counts at one IoU threshold, per class ``[C]``."""

    boxes: NDArray[np.int64]  # without those on difficult objects and crowds
    correct: NDArray[np.int64]  # those strictly above the threshold
    objects: NDArray[np.int64]  # without difficult ones and crowds

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of a class's boxes that are correct, [C]; NaN for a class without boxes."""
        return share(self.correct, self.boxes)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of a class's objects that a correct box is on, [C]; NaN for a class without objects."""
        return share(self.correct, self.objects)

    @property
    def summary(self) -> dict[str, float]:
        """All classes together: "precision" and "recall" of all boxes, "mean_…" over the classes; NaN where nothing counts."""
        return {
            "precision": float(share(self.correct.sum(keepdims=True), self.boxes.sum(keepdims=True))[0]),
            "recall": float(share(self.correct.sum(keepdims=True), self.objects.sum(keepdims=True))[0]),
            "mean_precision": mean_of_known(self.precision),
            "mean_recall": mean_of_known(self.recall),
        }


def as_detections(pseudo: PseudoGroundTruth, num_classes: int) -> Detections:
    """Return pseudo ground truth as what a detector found, each box with the score of the detection that it was."""
    return Detections(
        boxes_xyxy=pseudo.boxes_xyxy,
        class_index=pseudo.class_index,
        score=pseudo.score,
        image_scores=np.full(num_classes, np.nan, np.float32),
        mask_rle=pseudo.mask_rle,
    )


class PseudoLabelQuality:
    """Precision and recall of pseudo ground truth, fed image by image, in any order.

    Args:
        num_classes: C.
        of: what is matched; a "box" of the scores is then a mask.
    """

    def __init__(self, num_classes: int, *, of: Of = "boxes") -> None:
        self._matches = VocAveragePrecision(num_classes, of=of)
        self._num_classes = num_classes

    def add(self, image_id: str | int, pseudo: PseudoGroundTruth, truth: GroundTruth) -> None:
        """Match the boxes or masks of one image with its true objects. Errors are those of ``VocAveragePrecision.add``."""
        self._matches.add(image_id, as_detections(pseudo, self._num_classes), truth)

    def scores(self, iou_threshold: float = 0.5) -> PseudoLabelScores:
        """Counts of all images so far. Raises ``ValueError`` for a threshold outside (0, 1]."""
        class_index, hit = self._matches.ranked_hits(iou_threshold)
        return PseudoLabelScores(
            boxes=np.bincount(class_index, minlength=self._num_classes),
            correct=np.bincount(class_index[hit], minlength=self._num_classes),
            objects=self._matches.objects,
        )
