"""Which rows an instance is asked for, and what each of them is computed from.

A row is known by its image and its ``input``, a short hash of those columns of the index that it is computed from: the content
of the image, and the names of its classes where labels have a say. Two data sets, a preview or the trials of a sweep share
rows where these agree, whatever else their sets hold. Which image is in which split is a matter of the index alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.store.schemas import IMAGE_ID, IMAGES, INPUT, class_names_of
from pipelines.store.tables import Table
from weaksam.errors import RunError
from weaksam.io.files import join

PLANNED_ROWS = pa.schema([IMAGE_ID, INPUT, pa.field("split", pa.string(), nullable=False)])
CONTENT, LABELS, LABELS_DIFFICULT = "content", "labels", "labels_difficult"  # columns that rows can be computed from
_ROWS_AT_ONCE = 65_536  # as objects of Python, which take ten times what Arrow's do
_ABSENT = "?"  # labels that are unknown, or not granted to the split


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The set that an instance is asked for: some splits of an index, by the columns that are read."""

    digest: str  # of the rows' identities and splits
    index: str  # key of the index in the same run folder
    columns: tuple[str, ...]  # of the index that rows are computed from, sorted
    splits: tuple[str, ...] = ()  # empty = all of the index


def common_splits(some: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Return the splits that are in both, where no splits mean all."""
    return tuple(split for split in some or others if split in (others or some))


@lru_cache(maxsize=4)
def index_rows(index_folder: str) -> pa.Table:
    """Return the images table of an index, which never changes under its key.

    Raises:
        RunError: it is not made yet; an index lists one image at least.
    """
    images = Table(index_folder, IMAGES).read()
    if not images.num_rows:
        raise RunError(f"{index_folder}: expected an index, found none; make it first")
    return images


@lru_cache(maxsize=8)
def planned_rows(index_folder: str, planned: Planned) -> pa.Table:
    """Return the rows of a set as ``PLANNED_ROWS``, by image id."""
    return identify(index_rows(index_folder), planned.columns, planned.splits)


def identify(images: pa.Table, columns: Sequence[str], splits: Sequence[str] = ()) -> pa.Table:
    """Return the identities of images, sorted by image id.

    Args:
        images: an images table with the class names in its metadata.
        columns: that rows are computed from: ``content``, ``labels``, ``labels_difficult``.
        splits: whose images; empty = all.

    Returns:
        ``PLANNED_ROWS``. Labels enter by name: a class that is appended, or a new order, changes none.
    """
    if splits:
        images = images.filter(pc.is_in(images["split"], pa.array(splits, pa.string())))
    images = images.sort_by("image_id")
    names = class_names_of(images.schema)
    values = [_texts(images[column], names) for column in sorted(columns)]
    inputs = [hashlib.blake2b("\n".join(row).encode(), digest_size=8).hexdigest() for row in zip(*values, strict=True)]
    if not columns:
        inputs = [""] * images.num_rows
    return pa.table([images["image_id"], pa.array(inputs, pa.string()), images["split"]], schema=PLANNED_ROWS)


def digest_of(rows: pa.Table) -> str:
    """Return the digest of identities, sorted by image id: 12 hex digits; columns of strings."""
    digest = hashlib.sha256()
    for batch in rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update("\t".join(row).encode() + b"\n")
    return digest.hexdigest()[:12]


def identity_keys(rows: pa.Table) -> pa.Array:
    """Return a string for each row that equals another's if both are of the same image and input."""
    keys = pc.binary_join_element_wise(rows["image_id"], rows["input"], "\n")
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys


def first_of_each(rows: pa.Table) -> NDArray[np.bool_]:
    """Return of each row whether it is the first of its identity."""
    first = np.zeros(rows.num_rows, np.bool_)
    first[np.unique(identity_keys(rows).dictionary_encode().indices.to_numpy(), return_index=True)[1]] = True
    return first


def without(rows: pa.Table, *others: pa.Table) -> pa.Table:
    """Return the rows whose identities are in none of the other tables."""
    for other in others:
        rows = rows.filter(pc.invert(pc.is_in(identity_keys(rows), identity_keys(other))))
    return rows


def also_in(rows: pa.Table, other: pa.Table) -> pa.Table:
    """Return the rows whose identities are in another table, too."""
    return rows.filter(pc.is_in(identity_keys(rows), identity_keys(other)))


def index_folder(rows_uri: str, index_key: str) -> str:
    """Return where the index of a key lies."""
    return join(rows_uri, "index", index_key)


def _texts(column: pa.ChunkedArray, names: Sequence[str]) -> Iterator[str]:
    for begin in range(0, len(column), _ROWS_AT_ONCE):
        for value in column.slice(begin, _ROWS_AT_ONCE).to_pylist():
            if isinstance(value, str):
                yield value
            else:
                yield _ABSENT if value is None else "\t".join(["=", *sorted(names[n] for n in value)])
