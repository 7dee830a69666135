"""COCO's average precision of detections, computed by pycocotools (method 9.3).

Classes are evaluated one after the other, each on the images where it is found or to be found: what COCOeval holds stays
small, and every number is what one run over all classes gives. XYWH and integer ids exist in this file only.

As in COCOeval, 100 detections count per image *and class*, an IoU equal to the threshold is enough, crowds are ignored and
found any number of times, and equal scores are ordered by image. Sizes are those of boxes, because true boxes are all that
is known here; the official small, medium and large go by the area of the mask, which is smaller.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam.metrics.classification import mean_of_known
from weaksam.metrics.detection import check_image, check_new_image, image_order
from weaksam.structures import Detections, GroundTruth

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))  # .50:.05:.95
SIZES = ("all", "small", "medium", "large")  # below 32 x 32 pixels, up to 96 x 96, above
MAX_DETECTIONS = 100  # best of an image and class

_BOX = np.dtype(
    [
        ("image", np.int32),  # 1 and up, in the order of the ids; 0 before all images are known
        ("class_index", np.int32),
        ("xyxy", np.float32, 4),
        ("score", np.float32),  # of a detection
        ("difficult", np.bool_),  # of an object
        ("crowd", np.bool_),  # of an object
    ]
)


@dataclass(frozen=True, kw_only=True)
class CocoScores:
    """Average precisions in [0, 1]; NaN for a class without an object (of that size), crowds left out."""

    images: int
    average_precision: NDArray[np.float64]  # [C, len(IOU_THRESHOLDS), len(SIZES)]

    def per_class(self, *, iou_threshold: float | None = None, size: str = "all") -> NDArray[np.float64]:
        """Average precision of each class, [C].

        Args:
            iou_threshold: one of ``IOU_THRESHOLDS``; None for the mean over all of them, COCO's AP.
            size: one of ``SIZES``; of the objects, and of the detections that found none.
        """
        of_size = self.average_precision[:, :, SIZES.index(size)]
        if iou_threshold is None:
            mean: NDArray[np.float64] = of_size.mean(axis=1)
            return mean
        return of_size[:, IOU_THRESHOLDS.index(iou_threshold)]

    def mean(self, *, iou_threshold: float | None = None, size: str = "all") -> float:
        """Mean of ``per_class`` over the classes that have an object; NaN if none has."""
        return mean_of_known(self.per_class(iou_threshold=iou_threshold, size=size))

    def summary(self) -> dict[str, float]:
        """The six numbers that papers print."""
        return {
            "AP": self.mean(),
            "AP50": self.mean(iou_threshold=0.5),
            "AP75": self.mean(iou_threshold=0.75),
            "AP_small": self.mean(size="small"),
            "AP_medium": self.mean(size="medium"),
            "AP_large": self.mean(size="large"),
        }


class CocoAveragePrecision:
    """COCO's average precision; holds 30 bytes per detection and per object.

    Objects marked difficult, which COCO does not know, are ignored as those of another size are.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._images: dict[str | int, tuple[NDArray[np.void], NDArray[np.void]]] = {}

    def add(self, image_id: str | int, detections: Detections, truth: GroundTruth) -> None:
        """Keep the detections and true objects of one image.

        Raises:
            DataError: an image that was added before, a class out of range or a score that is not finite.
        """
        check_new_image(image_id, self._images)
        check_image(image_id, detections, truth, self._num_classes)
        found = np.zeros(len(detections), _BOX)
        found["xyxy"], found["class_index"] = detections.boxes_xyxy, detections.class_index
        found["score"] = detections.score
        objects = np.zeros(len(truth.class_index), _BOX)
        objects["xyxy"], objects["class_index"] = truth.boxes_xyxy, truth.class_index
        objects["difficult"], objects["crowd"] = truth.difficult, truth.crowd
        self._images[image_id] = (found, objects)

    def scores(self) -> CocoScores:
        """Average precision of all images so far; a class that has objects but no detections has 0.

        What pycocotools prints is thrown away, and with it what other threads print meanwhile.
        """
        found, objects = [np.zeros(0, _BOX)], [np.zeros(0, _BOX)]
        for number, image_id in enumerate(sorted(self._images, key=image_order), start=1):
            for rows, of_image in zip((found, objects), self._images[image_id], strict=True):
                numbered = of_image.copy()
                numbered["image"] = number
                rows.append(numbered)
        all_found, all_objects = np.concatenate(found), np.concatenate(objects)
        average_precision = np.full((self._num_classes, len(IOU_THRESHOLDS), len(SIZES)), np.nan)
        for c in np.unique(all_objects["class_index"]):
            average_precision[c] = _evaluate(
                all_found[all_found["class_index"] == c], all_objects[all_objects["class_index"] == c]
            )
        return CocoScores(images=len(self._images), average_precision=average_precision)


def _evaluate(found: NDArray[np.void], objects: NDArray[np.void]) -> NDArray[np.float64]:
    """Average precision of one class, [len(IOU_THRESHOLDS), len(SIZES)]; NaN where no object counts."""
    from pycocotools.cocoeval import COCOeval

    images = np.union1d(found["image"], objects["image"]).tolist()
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(images, objects), _coco(images, found), iouType="bbox")
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, :, 0]  # [thresholds, recall levels, sizes], -1 without objects
    mean: NDArray[np.float64] = np.where(precision < 0, np.nan, precision).mean(axis=1)
    return mean


def _coco(images: list[int], rows: NDArray[np.void]) -> Any:
    """pycocotools' data set of boxes of one class. Ids start at 1: COCOeval reads a match with id 0 as none."""
    from pycocotools.coco import COCO

    xyxy = rows["xyxy"].astype(np.float64)
    sides = xyxy[:, 2:] - xyxy[:, :2]
    # COCOeval ignores an object larger than every range, and only a crowd changes how overlap is measured.
    area = np.where(rows["difficult"], np.inf, sides.prod(axis=1))
    columns = {
        "id": range(1, len(rows) + 1),
        "image_id": rows["image"].tolist(),
        "category_id": [1] * len(rows),
        "bbox": np.hstack((xyxy[:, :2], sides)).tolist(),
        "area": area.tolist(),
        "iscrowd": rows["crowd"].astype(int).tolist(),
        "score": rows["score"].tolist(),
    }
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": 1}],
        "annotations": [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)],
    }
    coco.createIndex()
    return coco
