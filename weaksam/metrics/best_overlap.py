"""How well the best proposal fits each object: the average best overlap of a class (ABO) and its mean over classes (MABO).

Recall says how many objects are covered well enough, this says how well they are covered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam.metrics.classification import mean_of_known
from weaksam.metrics.detection import check_new_image, check_true_classes
from weaksam.metrics.per_class import PerClass
from weaksam.metrics.proposal_recall import match_many_to_one
from weaksam.metrics.regions import Found, Of, measurable, overlap, regions
from weaksam.structures import GroundTruth


@dataclass(frozen=True, kw_only=True)
class BestOverlapScores:
    """IoU of objects with their best proposals, in [0, 1]."""

    per_class: NDArray[np.float64]  # [C] ABO: the mean over a class's objects, NaN for a class without one
    objects: NDArray[np.int64]  # [C]

    @property
    def mean(self) -> float:
        """MABO: the mean over the classes that have an object; NaN if none has."""
        return mean_of_known(self.per_class)


class BestOverlap:
    """Average best overlap, fed image by image in any order; holds 8 bytes per object.

    Args:
        num_classes: C.
        of: what is compared. Proposals without masks have no overlap of masks: they are refused.
        include_difficult: count objects marked difficult, as ``ProposalRecall`` does. Crowds are never counted.
    """

    def __init__(self, num_classes: int, *, of: Of = "boxes", include_difficult: bool = True) -> None:
        self._of: Of = of
        self._include_difficult = include_difficult
        self._best = PerClass(num_classes)
        self._added: set[str | int] = set()

    def add(self, image_id: str | int, proposals: Found, truth: GroundTruth) -> None:
        """Compare each object of one image with all proposals; without any, its best overlap is 0.

        Raises:
            DataError: an image that was added before, a class out of range or, of masks, proposals without them.
        """
        check_new_image(image_id, self._added)
        check_true_classes(image_id, truth, self._best.num_classes)
        truth = measurable(self._of, image_id, truth)
        counted = ~truth.crowd & (self._include_difficult | ~truth.difficult)
        iou = overlap(image_id, regions(self._of, image_id, truth)[counted], regions(self._of, image_id, proposals))
        self._best.add(truth.class_index[counted], match_many_to_one(iou))
        self._added.add(image_id)

    def scores(self) -> BestOverlapScores:
        """The means over all images so far."""
        return BestOverlapScores(per_class=self._best.mean(), objects=self._best.count())
