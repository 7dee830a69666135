"""SAM's automatic masks of images; which of them are superpixels, their readers say (``superpixels_among``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.product import Product
from pipelines.products.rows import RowFacts
from pipelines.store.schemas import SUPERPIXELS, automatic_masks_from_row
from weaksam.segmentation.superpixels import superpixels_among
from weaksam.structures import AutomaticMasks

COLUMNS = tuple(name for name in SUPERPIXELS.names if name != "input")  # that other stages' rows get beside their own


@dataclass(frozen=True, kw_only=True)
class SuperpixelFacts(RowFacts):
    """What is said of automatic masks."""

    masks: dict[str, int] = field(default_factory=dict)  # by level: whole, part, subpart
    without_masks: int = 0  # images in which nothing was found


@dataclass(frozen=True, kw_only=True)
class SegmentedImage:
    """One image and masks of it."""

    image_id: str
    split: str
    masks: AutomaticMasks


class SuperpixelTable(Product[SuperpixelFacts]):
    """The product of ``superpixels``; an image in which nothing was found has a row without masks."""

    schema = SUPERPIXELS
    facts_type = SuperpixelFacts

    def images(self) -> Iterator[SegmentedImage]:
        """Yield the images of the table with all masks, holding one file in memory."""
        for row in self.table.iter_rows():
            yield SegmentedImage(image_id=row["image_id"], split=row["split"], masks=automatic_masks_from_row(row))


def superpixels_of(row: dict[str, Any], max_inside: float) -> AutomaticMasks:
    """Return the superpixels of an image whose row has the ``COLUMNS`` beside its own; see ``superpixels_among``."""
    return superpixels_among(automatic_masks_from_row(row), max_inside)
