"""Label maps: which class each pixel of an image belongs to, as ``seeds`` and ``predict-maps`` say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.engine.product import Product
from pipelines.products.node_rows import NodeRows
from pipelines.products.rows import RowFacts
from pipelines.store.schemas import LABEL_MAPS, SEEDS, label_map_from_row
from pipelines.store.tables import Rows
from weaksam.structures import IMAGE_LABELS

COLUMNS = ("image_id", "split", "label_map", "supervision")


@dataclass(frozen=True, kw_only=True)
class LabelMapFacts(RowFacts):
    """What is said of every table of label maps, whoever made it."""

    supervision: str = IMAGE_LABELS  # what the maps are owed to


@dataclass(frozen=True, kw_only=True)
class SeedFacts(LabelMapFacts):
    """What is said of seeds."""

    superpixels: float | None = None  # of an image, mean
    coverage: float | None = None  # share of an image's pixels that lie in one of them, mean
    fallbacks: int = 0  # images without one, in which each pixel took its own class
    agreement: float | None = None  # mean over the images where it was measured, see ``weaksam.segmentation.agreement``
    clip_score: float | None = None  # likewise


@dataclass(frozen=True, kw_only=True)
class LabelledMap:
    """The label map of one image."""

    image_id: str
    split: str
    label_map: NDArray[np.uint8]  # [H, W], see ``weaksam.label_maps``
    supervision: str


class LabelMapTable(Product[LabelMapFacts]):
    """The product of ``predict-maps``."""

    schema: ClassVar[pa.Schema] = LABEL_MAPS
    facts_type = LabelMapFacts

    def images(self) -> Iterator[LabelledMap]:
        """Yield the images of the table, holding one file in memory."""
        for row in self.table.iter_rows(COLUMNS):
            yield LabelledMap(
                image_id=row["image_id"],
                split=row["split"],
                label_map=label_map_from_row(row),
                supervision=row["supervision"],
            )


@dataclass(frozen=True, kw_only=True)
class SeedOrigin:
    """What the seed of one image was painted of."""

    split: str
    superpixels: int
    coverage: float  # share of the image's pixels that lie in one of them
    fallback: bool  # there was none, and each pixel took its own class


class SeedTable(LabelMapTable):
    """The product of ``seeds``: label maps of superpixels."""

    schema = SEEDS
    facts_type = SeedFacts

    def origins(self) -> Iterator[SeedOrigin]:
        """Yield what each image's seed was painted of; no map is read."""
        for row in self.table.iter_rows(("split", "superpixels", "coverage", "fallback")):
            yield SeedOrigin(**row)


class EncodedMaps(Mapping[str, bytes]):
    """Image id -> the PNG of its label map, shared by all processes of the node (``NodeRows``)."""

    def __init__(self, table: Rows) -> None:
        self._rows = NodeRows(table, ("label_map",), kind="label-maps", what="label maps")

    def __getitem__(self, image_id: str) -> bytes:
        """Return the PNG of one image; an image without a row is a KeyError."""
        data: bytes = self._rows[image_id]["label_map"]
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
