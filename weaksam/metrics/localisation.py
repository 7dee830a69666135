"""Whether the best detection of a class that is there is right: CorLoc (method 9.2) and part domination.

Both look at the one best-scoring detection of each class that an image contains, and at nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weaksam.boxes_np import inside_float64, iou_float64
from weaksam.metrics.classification import mean_of_known, share
from weaksam.metrics.detection import check_image, check_new_image
from weaksam.structures import Detections, GroundTruth

CORRECT_IOU = 0.5  # a detection is correct strictly above it (method 9.2)
PART_INSIDE = 0.9  # share of a detection's area that one object must hold to make the detection a part of it


@dataclass(frozen=True, kw_only=True)
class CorLocScores:
    """Share of a class's images in which its top detection is correct."""

    per_class: NDArray[np.float64]  # [C] in [0, 1], NaN for a class that no image contains
    images: NDArray[np.int64]  # [C], images that contain the class

    @property
    def mean(self) -> float:
        """Mean over the classes that an image contains; NaN without any."""
        return mean_of_known(self.per_class)


class CorLoc:
    """Correct localisation: is the best-scoring detection of a class that is there on one of its objects?

    Correct is an IoU above .5 with any object of the class; a crowd is an object marked difficult. An image without a
    detection of a class that it contains counts as wrong; detections of classes that it does not contain are not looked at.

    Args:
        num_classes: C.
        difficult: "count" (published MIST): difficult objects are objects like others. "exclude" (detectron2): they do not
            make an image contain the class; where another object does, a detection on a difficult one is right all the same.
    """

    def __init__(self, num_classes: int, *, difficult: Literal["count", "exclude"] = "count") -> None:
        self._difficult = difficult
        self._images = np.zeros(num_classes, np.int64)
        self._correct = np.zeros(num_classes, np.int64)
        self._added: set[str | int] = set()

    def add(self, image_id: str | int, detections: Detections, truth: GroundTruth) -> None:
        """Count one image. Errors are those of ``VocAveragePrecision.add``."""
        check_new_image(image_id, self._added)
        check_image(image_id, detections, truth, len(self._images))
        self._added.add(image_id)
        counted = np.full(len(truth.class_index), True)
        if self._difficult == "exclude":
            counted = ~(truth.difficult | truth.crowd)
        for top in _top_detections(detections, truth, truth.class_index[counted]):
            self._images[top.class_index] += 1
            self._correct[top.class_index] += (
                iou_float64(top.boxes_xyxy, top.objects_xyxy).max(initial=0.0) > CORRECT_IOU
            )

    def scores(self) -> CorLocScores:
        """CorLoc of all images so far."""
        return CorLocScores(per_class=share(self._correct, self._images), images=self._images.copy())


class _TopDetection(NamedTuple):
    """The best-scoring detection of a class and the objects of that class in one image."""

    class_index: int
    boxes_xyxy: NDArray[np.float32]  # [1, 4], or [0, 4] without a detection of the class
    objects_xyxy: NDArray[np.float32]  # [G, 4], G of 1 or more


def _top_detections(detections: Detections, truth: GroundTruth, classes: NDArray[np.int64]) -> Iterator[_TopDetection]:
    """Yield one item for each of the classes, named once or more; of equal scores the first given is the best."""
    for class_index in np.unique(classes).tolist():
        mine = np.flatnonzero(detections.class_index == class_index)
        best = mine[np.argsort(-detections.score[mine], kind="stable")[:1]]
        yield _TopDetection(
            class_index, detections.boxes_xyxy[best], truth.boxes_xyxy[truth.class_index == class_index]
        )


@dataclass(frozen=True, kw_only=True)
class PartDominationScores:
    """How often the top detection of a present class is correct, a part of an object, or elsewhere."""

    correct: NDArray[np.int64]  # [C] top detections
    part: NDArray[np.int64]  # [C]
    elsewhere: NDArray[np.int64]  # [C]
    undetected: NDArray[np.int64]  # [C] images with the class but no detection of it; in none of the shares

    @property
    def shares(self) -> dict[str, float]:
        """Shares of "correct", "part" and "elsewhere" among the top detections of all classes together.

        They sum to 1; NaN without any top detection.
        """
        kinds = {"correct": self.correct, "part": self.part, "elsewhere": self.elsewhere}
        total = sum(int(counts.sum()) for counts in kinds.values())
        return {name: float(counts.sum() / total) if total else float("nan") for name, counts in kinds.items()}

    @property
    def part_per_class(self) -> NDArray[np.float64]:
        """Share of a class's top detections that are parts, [C]; NaN for a class without one."""
        return share(self.part, self.correct + self.part + self.elsewhere)


class PartDomination:
    """How often a detector that learnt from image labels settles for the part that tells the class, as a cat's head.

    The best-scoring detection of each class that the image contains, difficult objects included, is

    * correct, if its IoU with an object of the class is above .5, as in CorLoc;
    * else a part, if at least 90 % of its area lies inside one object of the class, of which it then covers at most
      53 %: an IoU of .5 or less says 3 x overlap <= area + object's area, and 90 % says area <= overlap / .9;
    * else elsewhere: too large, off the object, or on none.

    A class of which the image has a crowd is not judged there: a box inside a crowd may be a whole object.
    """

    def __init__(self, num_classes: int) -> None:
        self._counts = {
            kind: np.zeros(num_classes, np.int64) for kind in ("correct", "part", "elsewhere", "undetected")
        }
        self._num_classes = num_classes
        self._added: set[str | int] = set()

    def add(self, image_id: str | int, detections: Detections, truth: GroundTruth) -> None:
        """Count one image. Errors are those of ``VocAveragePrecision.add``."""
        check_new_image(image_id, self._added)
        check_image(image_id, detections, truth, self._num_classes)
        self._added.add(image_id)
        judged = ~np.isin(truth.class_index, truth.class_index[truth.crowd])
        for top in _top_detections(detections, truth, truth.class_index[judged]):
            self._counts[_judge(top)][top.class_index] += 1

    def scores(self) -> PartDominationScores:
        """The counts of all images so far."""
        return PartDominationScores(**{kind: counts.copy() for kind, counts in self._counts.items()})


def _judge(top: _TopDetection) -> str:
    """Name the count that a top detection goes to."""
    if len(top.boxes_xyxy) == 0:
        return "undetected"
    if iou_float64(top.boxes_xyxy, top.objects_xyxy).max() > CORRECT_IOU:
        return "correct"
    return "part" if inside_float64(top.boxes_xyxy, top.objects_xyxy).max() >= PART_INSIDE else "elsewhere"
