"""How the evaluate stage measures the masks of detections (method 8.3), beside masks that their boxes alone give.

Every row is measured alike: the detector's masks; its boxes, filled; ellipses in these, each with the detection's score; and
GrabCut in the best boxes of some images, beside the detector's own masks of the same boxes. What the others earn is owed to
the boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.voice import Kind, TextTable
from pipelines.evaluate.worst import WorstImages
from pipelines.recipe.config import EvaluateConfig
from pipelines.store.numbers import known, percent
from weaksam.errors import ImageError
from weaksam.structures import Detections, GroundTruth

if TYPE_CHECKING:
    from weaksam.metrics.coco import CocoAveragePrecision, CocoScores
    from weaksam.metrics.detection import VocAveragePrecision

logger = logging.getLogger(__name__)

MASKS, BOXES, ELLIPSES = "masks", "boxes, filled", "ellipses in the boxes"
MOST_CUT = 5  # boxes of an image in which GrabCut cuts, the best-scored ones
GRABCUT, GRABCUT_BESIDE = f"GrabCut in the {MOST_CUT} best boxes", f"masks of the {MOST_CUT} best boxes"
THRESHOLDS = (0.25, 0.5, 0.7, 0.75)  # of the IoU; "ap" is the mean over .50, .55, …, .95


class MaskMeasures:
    """The measures of one split, fed image by image.

    Args:
        class_names: C.
        config: how VOC's average precision is read.
    """

    def __init__(self, class_names: Sequence[str], config: EvaluateConfig) -> None:
        from weaksam.metrics.trivial_masks import GrabCutInBox

        self._class_names, self._config = class_names, config
        self._rows = {name: self._new_row() for name in (MASKS, BOXES, ELLIPSES)}
        self._grab_cut = GrabCutInBox()
        self._worst = WorstImages()
        self._without_mask = 0

    def add(
        self,
        image_id: str,
        size_hw: tuple[int, int],
        found: Detections,
        truth: GroundTruth,
        read_image: Callable[[str], NDArray[np.uint8]] | None = None,
    ) -> None:
        """Measure the detections of one image, of which the true masks are known; others are passed over.

        Args:
            image_id: of the image.
            size_hw: height and width in pixels.
            found: with masks.
            truth: its true objects.
            read_image: image id -> its pixels ``[H, W, 3]``, where GrabCut is measured on it as well.
        """
        from weaksam.metrics.pseudo_masks import compare_masks
        from weaksam.metrics.regions import objects_without_mask
        from weaksam.metrics.trivial_masks import filled_box, inscribed_ellipse, ruled

        self._without_mask += objects_without_mask(truth)
        if truth.mask_rle is None:
            return
        blank: NDArray[np.uint8] = np.broadcast_to(np.uint8(0), (*size_hw, 3))
        self._rows[MASKS].add(image_id, found, truth)
        for name, rule in {BOXES: filled_box, ELLIPSES: inscribed_ellipse}.items():
            self._rows[name].add(image_id, replace(found, mask_rle=ruled(rule, blank, found.boxes_xyxy)), truth)
        compared = compare_masks(image_id, likeliest(found, truth), truth)
        if len(compared.iou):
            self._worst.add(image_id, float(compared.iou.mean()))
        if read_image is not None:
            try:
                pixels = read_image(image_id)
            except ImageError as error:
                logger.warning("image %s: not measured with GrabCut: %s", image_id, error)
                return
            best = found.take(np.argsort(-found.score, kind="stable")[:MOST_CUT].tolist())
            cut = replace(best, mask_rle=ruled(self._grab_cut, pixels, best.boxes_xyxy))
            for name, masks in {GRABCUT: cut, GRABCUT_BESIDE: best}.items():
                self._rows.setdefault(name, self._new_row()).add(image_id, masks, truth)

    def _new_row(self) -> _Row:
        from weaksam.metrics.coco import CocoAveragePrecision
        from weaksam.metrics.detection import VocAveragePrecision

        classes = len(self._class_names)
        return _Row(
            CocoAveragePrecision(classes, of="masks"),
            VocAveragePrecision(classes, style=self._config.voc_style, of="masks"),
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the figures, with shares in [0, 1].

        ``rows`` are mean measures, each with the number of its images, ``classes`` the masks', one by one, ``without_mask``
        is a number of objects, and ``grabcut`` how many masks it made and in how many boxes it failed. ``worst`` are images
        whose objects are fitted worst by as many of the best-scored masks of their classes.
        """
        of_rows = {name: row.coco.scores() for name, row in self._rows.items()}  # each takes a while
        scores, areas = of_rows[MASKS], self._rows[MASKS].voc.scores(0.5)
        return {
            "without_mask": self._without_mask,
            "rows": [row.to_plain(name, of_rows[name]) for name, row in self._rows.items()],
            "grabcut": {"masks": self._grab_cut.masks, "fell_back": self._grab_cut.fell_back},
            "worst": self._worst.to_plain(),
            "classes": [
                {
                    "name": name,
                    "ap": known(scores.per_class()[n]),
                    **{_key(iou): known(scores.per_class(iou_threshold=iou)[n]) for iou in THRESHOLDS},
                    "ap50_area": known(areas.area[n]),
                }
                for n, name in enumerate(self._class_names)
            ],
        }


@dataclass
class _Row:
    """One way to make masks of detections, measured."""

    coco: CocoAveragePrecision
    voc: VocAveragePrecision
    images: int = 0

    def add(self, image_id: str, found: Detections, truth: GroundTruth) -> None:
        self.images += 1
        self.coco.add(image_id, found, truth)
        self.voc.add(image_id, found, truth)

    def to_plain(self, name: str, scores: CocoScores) -> dict[str, Any]:
        return {
            "name": name,
            "images": self.images,
            "ap": known(scores.mean()),
            **{_key(iou): known(scores.mean(iou_threshold=iou)) for iou in THRESHOLDS},
            "ap50_area": known(self.voc.scores(0.5).mean_area),
        }


def likeliest(found: Detections, truth: GroundTruth) -> Detections:
    """Return of each class as many of the best-scored detections as an image has objects of it; of equals the first.

    Difficult objects and crowds do not count.
    """
    order = np.argsort(-found.score, kind="stable")
    classes, counts = np.unique(truth.class_index[~(truth.difficult | truth.crowd)], return_counts=True)
    kept = [
        order[found.class_index[order] == class_index][:count]
        for class_index, count in zip(classes.tolist(), counts.tolist(), strict=True)
    ]
    return found.take(np.concatenate([*kept, np.zeros(0, np.int64)]).tolist())


def text_table(split: str, measured: Mapping[str, Any]) -> TextTable:
    """Lay out one split's rows for people to read, in per cent."""
    without = f"; {measured['without_mask']:,} objects without a true mask" if measured["without_mask"] else ""
    text = TextTable(f"{split}: average precision of masks{without}{failures_of_grabcut(measured['grabcut'])}")
    text.add_columns(Kind.NAME, "")
    headings = {"AP": "ap", **{f"AP{round(100 * iou)}": _key(iou) for iou in THRESHOLDS}, "AP50 area": "ap50_area"}
    text.add_columns(Kind.FIGURE, "images", *headings)
    for row in measured["rows"]:
        text.add_row(row["name"], f"{row['images']:,}", *(percent(row[key]) for key in headings.values()))
    return text


def failures_of_grabcut(counts: Mapping[str, int]) -> str:
    """Say in how many of its boxes GrabCut failed, or ""."""
    if not counts["fell_back"]:
        return ""
    return f"; GrabCut failed in {counts['fell_back']:,} of {counts['masks']:,} boxes, which are filled"


def _key(iou: float) -> str:
    return f"ap{round(100 * iou)}"
