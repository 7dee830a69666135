"""VOC's average precision of detections, by boxes or masks (method 9.1, 8.3), and what every measure of detections checks.

All these measures are fed image by image, in any order: ``add(image_id, detections, truth)``, then ``scores()``. COCO's own
average precision is in ``coco.py``, CorLoc in ``localisation.py``; what a detector has to beat is in ``trivial.py`` and
stands beside every number of these.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from weaksam.errors import DataError
from weaksam.metrics.classification import mean_of_known
from weaksam.metrics.regions import Of, Regions, measurable, overlap, regions
from weaksam.structures import Detections, GroundTruth

Levels = Literal["published", "exact"]  # of recall, at which the 11-point precision is taken

# What is remembered of a detection. It is a hit at the thresholds between ``taken_iou`` and ``iou``: below them a better one
# has taken the object, above them it does not overlap enough.
_RANKED = np.dtype(
    [
        ("class_index", np.int32),
        ("score", np.float32),
        ("iou", np.float64),  # with the object of its class that it overlaps most, 0 without one
        ("taken_iou", np.float64),  # the largest of better-scoring detections with the same object, 0 without one
        ("difficult", np.bool_),  # whether that object is difficult or a crowd
    ]
)


@dataclass(frozen=True, kw_only=True)
class VocScores:
    """Average precisions in [0, 1] at one IoU threshold; NaN for a class without an object that counts."""

    images: int
    objects: NDArray[np.int64]  # [C], without difficult ones and crowds
    eleven_point: NDArray[np.float64]  # [C], VOC2007's
    area: NDArray[np.float64]  # [C], VOC2010's and later

    @property
    def mean_eleven_point(self) -> float:
        """Mean over the classes that have an object; NaN if none has."""
        return mean_of_known(self.eleven_point)

    @property
    def mean_area(self) -> float:
        """Mean over the classes that have an object; NaN if none has."""
        return mean_of_known(self.area)


class VocAveragePrecision:
    """VOC average precision, 11-point and area, at any IoU threshold; holds 25 bytes per detection.

    Masks are measured as boxes are, by the IoU of their pixels; objects without a mask are not there (``regions.py``).

    Each detection is compared with the object of its class that it overlaps most (of equals the first). Above the
    threshold it is a hit the first time and a false positive afterwards, and ignored if the object is difficult or a crowd.
    Detections are ranked by score; equal scores by image id, then in the order given, so that the order in which images
    are added cannot matter.

    Args:
        num_classes: C.
        style: "devkit" (as detectron2 ports it): the plain IoU must exceed the threshold. "chainer" (published MIST):
            right and bottom of all boxes lie one pixel further out, and an IoU equal to the threshold is enough.
        levels: of the 11-point precision, see ``eleven_point_average_precision``.
        of: what is compared.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        style: Literal["devkit", "chainer"] = "devkit",
        levels: Levels = "published",
        of: Of = "boxes",
    ) -> None:
        self._of: Of = of
        self._style = style
        self._levels: Levels = levels
        self._objects = np.zeros(num_classes, np.int64)
        self._ranked: dict[str | int, NDArray[np.void]] = {}

    def add(self, image_id: str | int, detections: Detections, truth: GroundTruth) -> None:
        """Match the detections of one image with its true objects.

        Raises:
            DataError: an image that was added before, a class out of range, a score that is not finite or, of masks, a
                detection without one.
        """
        check_new_image(image_id, self._ranked)
        check_image(image_id, detections, truth, len(self._objects))
        truth = measurable(self._of, image_id, truth)
        found, true = (regions(self._of, image_id, of_image) for of_image in (detections, truth))
        difficult = truth.difficult | truth.crowd

        order = np.argsort(-detections.score, kind="stable")
        ranked = np.zeros(len(detections), _RANKED)
        ranked["class_index"] = detections.class_index[order]
        ranked["score"] = detections.score[order]
        for class_index in np.intersect1d(detections.class_index, truth.class_index):
            mine = ranked["class_index"] == class_index
            objects = truth.class_index == class_index
            iou = self._iou(image_id, found[order][mine], true[objects])
            target = iou.argmax(axis=1)
            ranked["iou"][mine] = iou.max(axis=1)
            ranked["taken_iou"][mine] = _best_before(target, iou.max(axis=1))
            ranked["difficult"][mine] = difficult[objects][target]
        self._objects += np.bincount(truth.class_index[~difficult], minlength=len(self._objects))
        self._ranked[image_id] = ranked

    @property
    def objects(self) -> NDArray[np.int64]:
        """Objects of each class in all images so far, [C], without difficult ones and crowds."""
        return self._objects.copy()

    def scores(self, iou_threshold: float = 0.5) -> VocScores:
        """Average precision per class of all images so far.

        A class that has objects but no detections has 0.

        Raises:
            ValueError: the threshold is not in (0, 1].
        """
        class_index, hit = self.ranked_hits(iou_threshold)
        rankings = [(hit[class_index == c], count) for c, count in enumerate(self._objects.tolist())]
        return VocScores(
            images=len(self._ranked),
            objects=self.objects,
            eleven_point=np.array(
                [eleven_point_average_precision(hits, count, levels=self._levels) for hits, count in rankings]
            ),
            area=np.array([area_average_precision(hits, count) for hits, count in rankings]),
        )

    def ranked_hits(self, iou_threshold: float) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Say which detections of all images so far are hits, without those on difficult objects and crowds.

        Returns:
            class [N] and whether it is a hit [N], the best score first.

        Raises:
            ValueError: the threshold is not in (0, 1].
        """
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"expected an IoU threshold in (0, 1], got {iou_threshold}")
        by_image = [self._ranked[image_id] for image_id in sorted(self._ranked, key=image_order)]
        ranked = np.concatenate([np.zeros(0, _RANKED), *by_image])
        ranked = ranked[np.argsort(-ranked["score"], kind="stable")]
        if self._style == "devkit":
            overlaps, taken = ranked["iou"] > iou_threshold, ranked["taken_iou"] > iou_threshold
        else:
            overlaps, taken = ranked["iou"] >= iou_threshold, ranked["taken_iou"] >= iou_threshold
        counts = ~(overlaps & ranked["difficult"])
        return ranked["class_index"][counts], (overlaps & ~taken)[counts]

    def _iou(self, image_id: str | int, found: Regions, objects: Regions) -> NDArray[np.float64]:
        if self._of == "boxes" and self._style == "chainer":
            # Published chainer-style code makes inclusive boxes exclusive and then computes an IoU for inclusive ones.
            grown = np.array([0, 0, 1, 1], np.float32)
            found, objects = found + grown, objects + grown
        return overlap(image_id, found, objects)


def _best_before(target: NDArray[np.int64], iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest ``iou`` of the earlier items with the same ``target``, 0 for the first: [N], [N] -> [N]."""
    best: dict[int, float] = {}
    before = np.zeros(len(iou))
    for n, (key, value) in enumerate(zip(target.tolist(), iou.tolist(), strict=True)):
        before[n] = best.get(key, 0.0)
        best[key] = max(before[n], value)
    return before


def eleven_point_average_precision(hit: NDArray[np.bool_], objects: int, *, levels: Levels = "published") -> float:
    """VOC2007's: the mean, over recall 0, .1 ... 1, of the best precision at that recall or a higher one.

    Args:
        hit: [N] of one class, the best score first: True for a hit, False for a false positive, without those ignored.
        objects: how many there are to find.
        levels: "published": multiples of the number next to .1, as in the Python codes that published figures come from.
            Three of them lie a little above .3, .6 and .7, so that a recall of exactly that misses its level: up to .055
            less for a class with 10, 20, ... objects. "exact": the numbers next to the fractions, which it reaches.

    Returns:
        In [0, 1], 0 without detections, NaN without objects.
    """
    if objects == 0:
        return float("nan")
    precision, recall = _precision_recall(hit, objects)
    at = np.arange(11) * 0.1 if levels == "published" else np.arange(11) / 10
    return float(np.mean([precision[recall >= level].max(initial=0.0) for level in at]))


def area_average_precision(hit: NDArray[np.bool_], objects: int) -> float:
    """VOC2010's: the area below the curve of the best precision at each recall or a higher one.

    ``hit``, ``objects`` and what is returned as in ``eleven_point_average_precision``.
    """
    if objects == 0:
        return float("nan")
    precision, recall = _precision_recall(hit, objects)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _precision_recall(hit: NDArray[np.bool_], objects: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision [N] and recall [N] after each detection."""
    hits = np.cumsum(hit)
    return hits / np.arange(1, len(hit) + 1), hits / objects


def image_order(image_id: str | int) -> tuple[int, str]:
    """Sort key of image ids, written as numbers or as text: shorter ones first, so that "9" comes before "10"."""
    return len(str(image_id)), str(image_id)


def check_image(image_id: str | int, detections: Detections, truth: GroundTruth, num_classes: int) -> None:
    """Raise DataError, naming the image, unless classes are in 0..C-1 and scores are finite."""
    _check_classes(image_id, "detections", detections.class_index, num_classes)
    check_true_classes(image_id, truth, num_classes)
    if not np.isfinite(detections.score).all():
        raise DataError(
            f"image {image_id}: expected finite scores of detections, got NaN or infinity; "
            "look for a training that diverged"
        )


def check_true_classes(image_id: str | int, truth: GroundTruth, num_classes: int) -> None:
    """Raise DataError, naming the image, unless the classes of its objects are in 0..C-1."""
    _check_classes(image_id, "true objects", truth.class_index, num_classes)


def _check_classes(image_id: str | int, name: str, class_index: NDArray[np.int64], num_classes: int) -> None:
    unknown = class_index[(class_index < 0) | (class_index >= num_classes)]
    if len(unknown):
        raise DataError(
            f"image {image_id}: expected {name} of classes 0..{num_classes - 1}, got class {unknown[0]}; "
            "use the class order of the data set"
        )


def check_new_image(image_id: str | int, added: Container[str | int]) -> None:
    """Raise DataError if the image is among those ``added`` already."""
    if image_id in added:
        raise DataError(f"image {image_id}: expected each image once, got it again; look for duplicate rows")
