"""How far two sets of boxes of the same images agree, where nobody knows which of them is right.

A detector that has learnt objects finds the same ones in a mirrored or smaller image, and where its teacher does; one that has
learnt noise does not. No true box is needed, so that settings can be compared on images that only have image labels.
"""

from __future__ import annotations

import numpy as np

from weaksam.metrics.pseudo_labels import PseudoLabelQuality
from weaksam.structures import GroundTruth, PseudoGroundTruth


class Agreement:
    """F1 of two sets of boxes, fed image by image, in any order.

    Boxes of one class are matched as precision and recall match them (``metrics/pseudo_labels``): one to one, the first set's
    best scores first.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self._quality = PseudoLabelQuality(num_classes)

    def add(self, image_id: str, one: PseudoGroundTruth, other: PseudoGroundTruth) -> None:
        """Match the boxes that two sources chose in one image."""
        nothing = np.zeros(len(other), np.bool_)
        as_truth = GroundTruth(
            boxes_xyxy=other.boxes_xyxy, class_index=other.class_index, difficult=nothing, crowd=nothing
        )
        self._quality.add(image_id, one, as_truth)

    def score(self) -> float:
        """Return twice the boxes matched above an IoU of .5 over all boxes of both sets, in [0, 1].

        NaN if there are no boxes at all.
        """
        counts = self._quality.scores()
        boxes = int(counts.boxes.sum() + counts.objects.sum())
        return 2 * int(counts.correct.sum()) / boxes if boxes else float("nan")
