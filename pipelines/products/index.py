"""The images of a data set, with the labels that the recipe grants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.engine.product import Facts, Product
from pipelines.store.planned import Planned, digest_of, identify, index_rows
from pipelines.store.schemas import IMAGES, class_names_of
from weaksam.datasets.ground_truth import BoxCounts, MaskCounts
from weaksam.datasets.passed_over import PassedOver
from weaksam.structures import LABELS_OF_OBJECTS, ImageRecord

NO_SPLIT = "none"  # where labels are granted to no split


@dataclass(frozen=True, kw_only=True)
class IndexFacts(Facts):
    """What the index counts."""

    splits: dict[str, int] = field(default_factory=dict)  # split -> images listed
    available: dict[str, int] = field(default_factory=dict)  # split -> images that there are: more with data.limit
    classes: int = 0
    labels_granted_to: str = NO_SPLIT  # the one split whose labels the table has
    label_source: str = LABELS_OF_OBJECTS  # what those labels are taken from
    kind: str = ""  # of the data set
    passed_over: tuple[PassedOver, ...] = ()
    # Of true boxes, by split, where the recipe measures by them and the split is annotated:
    true_boxes: dict[str, BoxCounts] = field(default_factory=dict)
    truth: dict[str, str] = field(default_factory=dict)  # a digest of all that is known of them
    # Of true masks, by split, where the recipe measures by them and the split has some:
    true_masks: dict[str, MaskCounts] = field(default_factory=dict)
    mask_truth: dict[str, str] = field(default_factory=dict)  # a digest of them
    # Of true label maps, by split, where the recipe measures by them and the split has some:
    true_label_maps: dict[str, int] = field(default_factory=dict)
    label_map_truth: dict[str, str] = field(default_factory=dict)  # a digest of them


class Picture(NamedTuple):
    """A file of a data set."""

    uri: str
    content: str  # see ``weaksam.io.contents``


class Index(Product[IndexFacts]):
    """The product of ``index``."""

    schema = IMAGES
    facts_type = IndexFacts
    shown_unfinished = True

    @property
    def granted_split(self) -> str:
        """The split that image-level labels are granted to."""
        return self.facts.labels_granted_to

    def read(self, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Return the images table, or some columns of it."""
        return self.table.read(columns)

    def uris(self, image_ids: Sequence[str]) -> dict[str, str]:
        """Return where the pictures of some images are, by id; an image that is not indexed is left out."""
        images = self.table.read(("image_id", "uri"))
        images = images.filter(pc.is_in(images["image_id"], pa.array(image_ids, pa.string())))
        return dict(zip(*(column.to_pylist() for column in images.columns), strict=True))

    def pictures(self) -> dict[str, Picture]:
        """Return image id -> its picture, in the order of the table."""
        rows = self.table.iter_rows(("image_id", "uri", "content"))
        return {row["image_id"]: Picture(row["uri"], row["content"]) for row in rows}

    def image_reader(self) -> Callable[[str], NDArray[np.uint8]]:
        """Return a function from an image id to the upright RGB image ``[H, W, 3]``; it raises ImageError."""
        from weaksam.io.files import read_bytes
        from weaksam.io.images import decode_image

        images = self.table.read(("image_id", "uri"))

        def read(image_id: str) -> NDArray[np.uint8]:
            (uri,) = images.filter(pc.equal(images["image_id"], image_id))["uri"].to_pylist()
            return decode_image(read_bytes(uri))

        return read


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """What an index lists, written or not."""

    key: str  # of the index
    images: pa.Table  # the images table, with the class names in its metadata
    facts: IndexFacts
    _sets: dict[tuple[tuple[str, ...], tuple[str, ...]], Planned] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(cls, index: Index) -> Indexed:
        """Read a finished index."""
        return cls(key=index.instance.key, images=index_rows(index.instance.folder), facts=index.facts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the data set."""
        return class_names_of(self.images.schema)

    def planned(self, columns: tuple[str, ...], splits: tuple[str, ...]) -> Planned:
        """Return the set of the images of some splits, all if none is named, for rows that are computed from some columns."""
        if (columns, splits) not in self._sets:
            digest = digest_of(identify(self.images, columns, splits))
            self._sets[columns, splits] = Planned(digest=digest, index=self.key, columns=columns, splits=splits)
        return self._sets[columns, splits]


def first_in_hash_order(records: list[ImageRecord], limit: int) -> list[ImageRecord]:
    """Return the ``limit`` records whose hashed ids come first, in the data set's own order; 0 keeps all.

    Those with a label come before all others, so that of a few there is something to learn.
    """
    if not limit or limit >= len(records):
        return records
    ordered = in_hash_order([r.image_id for r in records if r.labels])
    ordered += in_hash_order([r.image_id for r in records if not r.labels])
    chosen = set(ordered[:limit])
    return [r for r in records if r.image_id in chosen]


def in_hash_order(image_ids: list[str]) -> list[str]:
    """Return ids in an order that is fixed, but unrelated to their names: the head is a fair sample of the whole."""
    return sorted(image_ids, key=lambda image_id: hashlib.sha1(image_id.encode()).digest())
