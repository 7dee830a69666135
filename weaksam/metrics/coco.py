"""COCO's average precision of detections, by boxes or masks, computed by faster-coco-eval (method 9.3, 8.3).

Overlaps are measured image by image as they come, so that no mask is kept. Classes are evaluated one after the other, each
on the images where it is found or to be found: what the evaluation holds stays small, and every number is what one run
over all classes gives. Integer ids exist in this file only.

As in COCO's own evaluation, 100 detections count per image *and class*, an IoU equal to the threshold is enough, crowds are
ignored and found any number of times, and equal scores are ordered by image. Sizes are those of what is compared. COCO's
small, medium and large go by masks, which are smaller than their boxes; it states areas of polygons, which differ from
counted pixels by a little, so that an object at the border of two sizes may change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam.metrics.classification import mean_of_known
from weaksam.metrics.detection import check_image, check_new_image, image_order
from weaksam.metrics.regions import Of, areas, measurable, overlap, regions
from weaksam.structures import Detections, GroundTruth

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))  # .50:.05:.95
LOW_IOU = 0.25  # is measured besides (method 8.3); .50, .70 and .75 are among the others
SIZES = ("all", "small", "medium", "large")  # below 32 x 32 pixels, up to 96 x 96, above
MAX_DETECTIONS = 100  # best of an image and class

_MEASURED = (LOW_IOU, *IOU_THRESHOLDS)
_REGION = np.dtype(
    [
        ("image", np.int32),  # 1 and up, in the order of the ids; 0 before all images are known
        ("class_index", np.int32),
        ("area", np.float64),
        ("score", np.float32),  # of a detection
        ("difficult", np.bool_),  # of an object
        ("crowd", np.bool_),  # of an object
    ]
)


@dataclass(frozen=True, kw_only=True)
class _Image:
    """What is remembered of one image."""

    found: NDArray[np.void]  # of _REGION: the best of each class, the best score first
    objects: NDArray[np.void]  # of _REGION
    overlap: Mapping[int, NDArray[np.float64]]  # class -> IoU of its detections with its objects, where it has both


@dataclass(frozen=True, kw_only=True)
class CocoScores:
    """Average precisions in [0, 1]; NaN for a class without an object (of that size), crowds left out."""

    images: int
    average_precision: NDArray[np.float64]  # [C, 1 + len(IOU_THRESHOLDS), len(SIZES)], LOW_IOU first

    def per_class(self, *, iou_threshold: float | None = None, size: str = "all") -> NDArray[np.float64]:
        """Average precision of each class, [C].

        Args:
            iou_threshold: ``LOW_IOU`` or one of ``IOU_THRESHOLDS``; None for the mean over all of the latter, COCO's AP.
            size: one of ``SIZES``; of the objects, and of the detections that found none.
        """
        of_size = self.average_precision[:, :, SIZES.index(size)]
        if iou_threshold is None:
            mean: NDArray[np.float64] = of_size[:, 1:].mean(axis=1)
            return mean
        return of_size[:, _MEASURED.index(iou_threshold)]

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
    """COCO's average precision; holds 22 bytes per detection and per object, and 8 per pair of them of one class.

    Objects marked difficult, which COCO does not know, are ignored as those of another size are; objects without a mask
    are not there where masks are measured (``regions.py``).

    Args:
        num_classes: C.
        of: what is compared.
    """

    def __init__(self, num_classes: int, *, of: Of = "boxes") -> None:
        self._num_classes = num_classes
        self._of: Of = of
        self._images: dict[str | int, _Image] = {}

    def add(self, image_id: str | int, detections: Detections, truth: GroundTruth) -> None:
        """Measure the detections of one image against its true objects.

        Raises:
            DataError: an image that was added before, a class out of range, a score that is not finite or, of masks, a
                detection without one.
        """
        check_new_image(image_id, self._images)
        check_image(image_id, detections, truth, self._num_classes)
        truth = measurable(self._of, image_id, truth)
        found_regions, true_regions = (regions(self._of, image_id, of_image) for of_image in (detections, truth))

        kept = _best_of_each_class(detections)
        found = np.zeros(len(kept), _REGION)
        found["class_index"], found["score"] = detections.class_index[kept], detections.score[kept]
        found["area"] = areas(found_regions[kept])
        objects = np.zeros(len(truth.class_index), _REGION)
        objects["class_index"], objects["area"] = truth.class_index, areas(true_regions)
        objects["difficult"], objects["crowd"] = truth.difficult, truth.crowd
        self._images[image_id] = _Image(
            found=found,
            objects=objects,
            overlap={
                c: overlap(
                    image_id,
                    found_regions[kept][found["class_index"] == c],
                    true_regions[truth.class_index == c],
                    crowd=truth.crowd[truth.class_index == c],
                )
                for c in np.intersect1d(found["class_index"], truth.class_index).tolist()
            },
        )

    def scores(self) -> CocoScores:
        """Average precision of all images so far; a class that has objects but no detections has 0."""
        images = [self._images[image_id] for image_id in sorted(self._images, key=image_order)]
        found = _numbered([image.found for image in images])
        objects = _numbered([image.objects for image in images])
        average_precision = np.full((self._num_classes, len(_MEASURED), len(SIZES)), np.nan)
        for c in np.unique(objects["class_index"]).tolist():
            average_precision[c] = _evaluate(
                found[found["class_index"] == c],
                objects[objects["class_index"] == c],
                {number: image.overlap[c] for number, image in enumerate(images, start=1) if c in image.overlap},
            )
        return CocoScores(images=len(images), average_precision=average_precision)


def _best_of_each_class(detections: Detections) -> NDArray[np.int64]:
    """Numbers of the detections that count, class by class, the best score first; of equal scores the first given."""
    best = np.lexsort((-detections.score, detections.class_index))
    classes = detections.class_index[best]
    rank = np.arange(len(best)) - np.searchsorted(classes, classes)
    return best[rank < MAX_DETECTIONS]


def _numbered(of_images: list[NDArray[np.void]]) -> NDArray[np.void]:
    """All rows of several images, each with the number of its image, from 1 on."""
    rows = np.concatenate([np.zeros(0, _REGION), *of_images])
    rows["image"] = np.repeat(np.arange(1, len(of_images) + 1), [len(of_image) for of_image in of_images])
    return rows


def _evaluate(
    found: NDArray[np.void], objects: NDArray[np.void], overlap_in: Mapping[int, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Average precision of one class, [1 + len(IOU_THRESHOLDS), len(SIZES)]; NaN where no object counts.

    Args:
        found: of _REGION, image by image and there by falling score.
        objects: of _REGION, image by image.
        overlap_in: number of an image that has both -> the IoU of these detections with these objects.
    """
    from faster_coco_eval import COCOeval_faster

    images = np.union1d(found["image"], objects["image"]).tolist()
    # "bbox" says only that there are no masks to encode: the boxes themselves would be read by computeIoU alone.
    evaluation = COCOeval_faster(_coco(images, objects), _coco(images, found), iouType="bbox")
    evaluation.computeIoU = lambda image, _: overlap_in.get(image, [])
    evaluation.params.iouThrs = np.array(_MEASURED)
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, :, 0]  # [thresholds, recall levels, sizes], -1 without objects
    mean: NDArray[np.float64] = np.where(precision < 0, np.nan, precision).mean(axis=1)
    return mean


def _coco(images: list[int], rows: NDArray[np.void]) -> Any:
    """A data set of regions of one class. Ids start at 1: a match with id 0 would be read as none."""
    from faster_coco_eval import COCO

    # An object larger than every range is ignored, and only a crowd changes how overlap is measured.
    area = np.where(rows["difficult"], np.inf, rows["area"])
    columns = {
        "id": range(1, len(rows) + 1),
        "image_id": rows["image"].tolist(),
        "category_id": [1] * len(rows),
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
