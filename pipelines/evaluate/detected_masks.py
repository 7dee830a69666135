"""How the evaluate stage measures the masks of detections (method 8.3), beside masks that their boxes alone give.

Three rows are measured alike: the detector's masks; its boxes, filled; ellipses in these, each with the detection's score. What
the last two earn is owed to the boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.voice import Kind, TextTable
from pipelines.recipe.config import EvaluateConfig
from pipelines.store.numbers import known, percent
from weaksam.masks_np import encode_rle
from weaksam.structures import Detections, GroundTruth

MASKS, BOXES, ELLIPSES = "masks", "boxes, filled", "ellipses in the boxes"
THRESHOLDS = (0.25, 0.5, 0.7, 0.75)  # of the IoU; "ap" is the mean over .50, .55, …, .95


class MaskMeasures:
    """The measures of one split, fed image by image.

    Args:
        class_names: C.
        config: how VOC's average precision is read.
    """

    def __init__(self, class_names: Sequence[str], config: EvaluateConfig) -> None:
        from weaksam.metrics.coco import CocoAveragePrecision
        from weaksam.metrics.detection import VocAveragePrecision

        self._class_names = class_names
        self._coco = {name: CocoAveragePrecision(len(class_names), of="masks") for name in (MASKS, BOXES, ELLIPSES)}
        self._voc = {
            name: VocAveragePrecision(len(class_names), style=config.voc_style, of="masks") for name in self._coco
        }
        self._without_mask = 0

    def add(self, image_id: str, size_hw: tuple[int, int], found: Detections, truth: GroundTruth) -> None:
        """Measure the detections of one image, of which the true masks are known; others are passed over."""
        from weaksam.metrics.regions import objects_without_mask
        from weaksam.metrics.trivial_masks import filled_box, inscribed_ellipse

        self._without_mask += objects_without_mask(truth)
        if truth.mask_rle is None:
            return
        blank: NDArray[np.uint8] = np.broadcast_to(np.uint8(0), (*size_hw, 3))
        filled, ellipses = (
            replace(found, mask_rle=[encode_rle(rule(blank, box)) for box in found.boxes_xyxy])
            for rule in (filled_box, inscribed_ellipse)
        )
        for name, detections in {MASKS: found, BOXES: filled, ELLIPSES: ellipses}.items():
            self._coco[name].add(image_id, detections, truth)
            self._voc[name].add(image_id, detections, truth)

    def to_plain(self) -> dict[str, Any]:
        """Return ``rows`` (mean measures), ``classes`` (the masks', one by one) and ``without_mask`` (objects); in [0, 1]."""
        scores = {name: measure.scores() for name, measure in self._coco.items()}
        areas = {name: measure.scores(0.5) for name, measure in self._voc.items()}
        own = scores[MASKS]
        return {
            "without_mask": self._without_mask,
            "rows": [
                {
                    "name": name,
                    "ap": known(of_row.mean()),
                    **{_key(iou): known(of_row.mean(iou_threshold=iou)) for iou in THRESHOLDS},
                    "ap50_area": known(areas[name].mean_area),
                }
                for name, of_row in scores.items()
            ],
            "classes": [
                {
                    "name": name,
                    "ap": known(own.per_class()[n]),
                    **{_key(iou): known(own.per_class(iou_threshold=iou)[n]) for iou in THRESHOLDS},
                    "ap50_area": known(areas[MASKS].area[n]),
                }
                for n, name in enumerate(self._class_names)
            ],
        }


def text_table(split: str, measured: Mapping[str, Any]) -> TextTable:
    """Lay out one split's rows for people to read, in per cent."""
    without = f"; {measured['without_mask']:,} objects without a true mask" if measured["without_mask"] else ""
    text = TextTable(f"{split}: average precision of masks{without}")
    text.add_columns(Kind.NAME, "")
    headings = {"AP": "ap", **{f"AP{round(100 * iou)}": _key(iou) for iou in THRESHOLDS}, "AP50 area": "ap50_area"}
    text.add_columns(Kind.FIGURE, *headings)
    for row in measured["rows"]:
        text.add_row(row["name"], *(percent(row[key]) for key in headings.values()))
    return text


def _key(iou: float) -> str:
    return f"ap{round(100 * iou)}"
