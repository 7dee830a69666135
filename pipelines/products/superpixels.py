"""SAM's automatic masks of images; which of them are superpixels, their readers say (``superpixels_among``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.product import Product
from pipelines.products.node_rows import NodeRows
from pipelines.products.rows import RowFacts
from pipelines.store.schemas import SUPERPIXELS, automatic_masks_from_row
from pipelines.store.tables import Rows
from weaksam.segmentation.superpixels import superpixels_among
from weaksam.structures import AutomaticMasks

COLUMNS = tuple(name for name in SUPERPIXELS.names if name not in ("image_id", "input"))  # what masks are read from


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


class ImageSuperpixels:
    """The superpixels of images by id, shared by all processes of the node (``NodeRows``)."""

    def __init__(self, table: Rows, max_inside: float) -> None:
        """Open the node's file, or make it.

        Args:
            table: of ``superpixels``.
            max_inside: which of an image's masks are superpixels, see ``superpixels_among``.
        """
        self._rows = NodeRows(table, COLUMNS, kind="superpixels", what="superpixels")
        self._max_inside = max_inside

    def __getitem__(self, image_id: str) -> AutomaticMasks:
        """Return those of one image; an image without a row is a KeyError."""
        return superpixels_of(self._rows[image_id], self._max_inside)


def superpixels_of(row: dict[str, Any], max_inside: float) -> AutomaticMasks:
    """Return the superpixels of an image whose row has the ``COLUMNS``; see ``superpixels_among``."""
    return superpixels_among(automatic_masks_from_row(row), max_inside)
