"""Pseudo ground truth: boxes with classes, and masks if there are any, that a detector is retrained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.engine.product import Facts, Product
from pipelines.products.node_rows import NodeRows
from pipelines.products.rows import RowFacts
from pipelines.store.schemas import PSEUDO_LABELS, PSEUDO_MASKS, pseudo_labels_from_row
from pipelines.store.tables import Rows
from weaksam.structures import IMAGE_LABELS, PseudoGroundTruth

_TRUTH = ("boxes_xyxy", "class_index", "score", "score_normalised", "mask_rle")  # what pseudo ground truth is read from
COLUMNS = (
    "image_id",
    "split",
    "size_hw",
    "boxes_xyxy",
    "class_index",
    "score",
    "score_normalised",
    "supervision",
    "mask_rle",
)


@dataclass(frozen=True, kw_only=True)
class PseudoLabelFacts(Facts):
    """What is said of every table of pseudo labels, whoever made it."""

    split: str = ""
    boxes: int = 0
    supervision: str = IMAGE_LABELS  # what the boxes are owed to
    thresholds: dict[str, float] = field(default_factory=dict)  # of adaptive selection, in numbers


@dataclass(frozen=True, kw_only=True)
class PseudoLabelledImage:
    """The pseudo ground truth of one image."""

    image_id: str
    split: str
    size_hw: tuple[int, int]
    truth: PseudoGroundTruth
    supervision: str


@dataclass(frozen=True, kw_only=True)
class PseudoMaskedImage(PseudoLabelledImage):
    """The pseudo ground truth of one image, with masks."""

    prompted_xyxy: NDArray[np.float32]  # [N, 4], the boxes that the masks were made of


class PseudoLabelTable(Product[PseudoLabelFacts]):
    """The product of ``label``, and of true boxes that were exported as pseudo labels."""

    schema: ClassVar[pa.Schema] = PSEUDO_LABELS
    facts_type = PseudoLabelFacts

    def images(self, *, masks: bool = True) -> Iterator[PseudoLabelledImage]:
        """Yield the images of the table, holding one file in memory; with masks, if it has some and they are wanted."""
        known = {"split", *self.schema.names} - (set() if masks else {"mask_rle"})
        for row in self.table.iter_rows([name for name in COLUMNS if name in known]):
            yield PseudoLabelledImage(**_of_row(row))


@dataclass(frozen=True, kw_only=True)
class PseudoMaskFacts(PseudoLabelFacts, RowFacts):
    """What is said of pseudo labels with masks."""

    rejected: dict[str, int] = field(default_factory=dict)  # reason -> boxes
    box_iou: float | None = None  # of the prompted boxes and those of their masks, mean


class PseudoMaskTable(PseudoLabelTable):
    """The product of ``segment``: pseudo labels, each with a mask."""

    schema = PSEUDO_MASKS
    facts_type = PseudoMaskFacts

    def masked_images(self) -> Iterator[PseudoMaskedImage]:
        """Yield the images of the table with the boxes that the masks were made of, holding one file in memory."""
        for row in self.table.iter_rows((*COLUMNS, "prompted_boxes_xyxy")):
            prompted_xyxy = np.asarray(row["prompted_boxes_xyxy"], np.float32).reshape(-1, 4)
            yield PseudoMaskedImage(**_of_row(row), prompted_xyxy=prompted_xyxy)


class ImageMasks:
    """The pseudo ground truth of images by id, with masks, shared by all processes of the node (``NodeRows``)."""

    def __init__(self, table: Rows) -> None:
        """Open the node's file, or make it, of a table of pseudo masks."""
        self._rows = NodeRows(table, _TRUTH, kind="pseudo-masks", what="pseudo masks")

    def __getitem__(self, image_id: str) -> PseudoGroundTruth:
        """Return that of one image; an image without a row is a KeyError."""
        return pseudo_labels_from_row(self._rows[image_id])


def _of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image_id": row["image_id"],
        "split": row["split"],
        "size_hw": (row["size_hw"][0], row["size_hw"][1]),
        "truth": pseudo_labels_from_row(dict(row)),
        "supervision": row["supervision"],
    }
