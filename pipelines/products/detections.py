"""What a detector found in images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.engine.product import Product
from pipelines.products.rows import RowFacts
from pipelines.store.schemas import DETECTIONS, detections_from_row
from weaksam.structures import IMAGE_LABELS, Detections

COLUMNS = ("image_id", "split", "size_hw", "boxes_xyxy", "class_index", "score", "image_scores", "mask_rle")


@dataclass(frozen=True, kw_only=True)
class DetectionFacts(RowFacts):
    """What ``detect`` says of its table."""

    supervision: str = IMAGE_LABELS  # of the detector


@dataclass(frozen=True, kw_only=True)
class DetectedImage:
    """The detections of one image."""

    image_id: str
    split: str
    size_hw: tuple[int, int]
    detections: Detections


class DetectionTable(Product[DetectionFacts]):
    """The product of ``detect``."""

    schema = DETECTIONS
    facts_type = DetectionFacts

    def images(self) -> Iterator[DetectedImage]:
        """Yield the images of the table, holding one file in memory."""
        rows: Iterable[dict[str, Any]] = self.table.iter_rows(COLUMNS)
        for row in rows:
            yield DetectedImage(
                image_id=row["image_id"],
                split=row["split"],
                size_hw=(row["size_hw"][0], row["size_hw"][1]),
                detections=detections_from_row(row),
            )

    def by_split(self, splits: Collection[str] | None = None) -> dict[str, dict[str, Detections]]:
        """Return split -> image id -> detections, of some splits or of all."""
        found: dict[str, dict[str, Detections]] = {}
        for image in self.images():
            if splits is None or image.split in splits:
                found.setdefault(image.split, {})[image.image_id] = image.detections
        return found
