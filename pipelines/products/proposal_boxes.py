"""The boxes of a proposals table by image: read file by file to measure them, or looked up to train and detect on.

Many processes of a node look up the same boxes: loaders of a training, actors of ``detect``. They share one file on the node's
disk (``node_files``), which holds the ids and the boxes of the wanted sources.
"""

from __future__ import annotations

import io
import mmap
import os
import posixpath
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.products.node_files import on_this_node
from pipelines.store.tables import Rows
from weaksam.errors import RunError
from weaksam.masks_np import Rle

_COLUMNS = ("image_id", "split", "size_hw", "boxes_xyxy", "source", "prompt_points_xy", "prompt_source", "prompt_kind")


@dataclass(frozen=True, kw_only=True)
class ImageBoxes:
    """What measuring needs of one image's row."""

    image_id: str
    split: str
    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]  # [N, 4]
    source: list[str]  # [N]
    points: Counter[str]  # source -> points prompted; a class-joint prompt repeats points and adds none
    mask_rle: list[Rle] | None = None  # [N], where they were asked for and kept


def met_sources(table: Rows) -> set[str]:
    """Return every source that has a box somewhere in a proposals table."""
    met: set[str] = set()
    for part in table.iter_parts(["source"]):
        met.update(pc.unique(part["source"].combine_chunks().flatten()).to_pylist())
    return met


def iter_boxes(table: Rows, *, masks: bool = False) -> Iterator[ImageBoxes]:
    """Yield what measuring needs of each row of a proposals table, with masks if asked for, holding one file in memory."""
    for part in table.iter_parts((*_COLUMNS, "mask_rle") if masks else _COLUMNS):
        boxes = part["boxes_xyxy"].combine_chunks()
        corners = boxes.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
        ends = boxes.offsets.to_numpy()
        for n, row in enumerate(part.drop_columns("boxes_xyxy").to_pylist()):
            yield ImageBoxes(
                image_id=row["image_id"],
                split=row["split"],
                size_hw=(row["size_hw"][0], row["size_hw"][1]),
                boxes_xyxy=corners[ends[n] : ends[n + 1]],
                source=row["source"],
                points=count_points(row),
                mask_rle=row.get("mask_rle"),
            )


def count_points(row: Mapping[str, Any]) -> Counter[str]:
    """Return how many points each source of a row prompted; a class-joint prompt repeats points and adds none."""
    points: Counter[str] = Counter()
    for source, kind, points_xy in zip(row["prompt_source"], row["prompt_kind"], row["prompt_points_xy"], strict=True):
        points[source] += 0 if kind == "class-joint" else len(points_xy)
    return points


class ProposalBoxes(Mapping[str, NDArray[np.float32]]):
    """Image id -> boxes ``[R, 4]`` in pixels, read-only and shared by all processes of the node.

    The first of them reads the table part by part and writes the file, while the others wait. A node whose disk does not take
    it is told so in the log, and each process then holds the boxes itself, 16 bytes each.
    """

    def __init__(self, table: Rows, sources: Sequence[str] = ()) -> None:
        """Open the node's file, or make it.

        Args:
            table: of proposals.
            sources: whose boxes are wanted; empty = all.
        """
        batch = _on_this_node(table, sources)
        boxes = batch["boxes_xyxy"]
        self._ids = batch["image_id"]  # sorted
        self._first, self._count = boxes.offsets.to_numpy(), boxes.sizes.to_numpy()
        self._corners = boxes.values.values.to_numpy().reshape(-1, 4)

    @property
    def any_box(self) -> bool:
        """Whether any image has a box."""
        return len(self._corners) > 0

    def __getitem__(self, image_id: str) -> NDArray[np.float32]:
        """Return the boxes of one image, float32 ``[R, 4]``; an image without a row is a KeyError."""
        row = bisect_left(self._ids, image_id, key=pa.StringScalar.as_py)
        if row == len(self._ids) or self._ids[row].as_py() != image_id:
            raise KeyError(image_id)
        first = self._first[row]
        boxes: NDArray[np.float32] = self._corners[first : first + self._count[row]]
        return boxes

    def __iter__(self) -> Iterator[str]:
        return (image_id.as_py() for image_id in self._ids)

    def __len__(self) -> int:
        return len(self._ids)


class JoinedBoxes(Mapping[str, NDArray[np.float32]]):
    """Image id -> boxes ``[R, 4]`` of several tables, the first's first; an image of any of them is there."""

    def __init__(self, tables: Sequence[ProposalBoxes]) -> None:
        self._tables = tables

    def __getitem__(self, image_id: str) -> NDArray[np.float32]:
        """Return the boxes of one image, float32 ``[R, 4]``; an image without a row in any table is a KeyError."""
        found = [table[image_id] for table in self._tables if image_id in table]
        if not found:
            raise KeyError(image_id)
        return np.concatenate(found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(image_id for table in self._tables for image_id in table))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def boxes_by_image(tables: Sequence[Rows], sources: Sequence[str] = ()) -> Mapping[str, NDArray[np.float32]]:
    """Return image id -> boxes ``[R, 4]`` in pixels of all tables of proposals; see ``ProposalBoxes``.

    Raises:
        RunError: no image has a box of any wanted source.
    """
    boxes = [ProposalBoxes(table, sources) for table in tables]
    if sources and not any(one.any_box for one in boxes):
        met = sorted({source for table in tables for source in met_sources(table)})
        raise RunError(
            f"{', '.join(table.folder for table in tables)}: no box of {', '.join(sources)}; mil.proposal_sources must name "
            f"some of {', '.join(met) or 'no source: the table is empty'}"
        )
    return boxes[0] if len(boxes) == 1 else JoinedBoxes(boxes)


def _on_this_node(table: Rows, sources: Sequence[str]) -> pa.RecordBatch:
    """Return what the node's file holds: columns ``image_id``, sorted, and ``boxes_xyxy``."""
    write = partial(_write, table, sources)
    reader = on_this_node(table, write, kind="proposals", what="boxes", choice=sources)
    if reader is not None:
        return reader.get_batch(0)
    corners = io.BytesIO()
    lookup = _gather(table, sources, corners)
    return _batch(lookup, pa.py_buffer(corners.getbuffer()))


def _write(table: Rows, sources: Sequence[str], file: IO[bytes]) -> None:
    """Write the node's file; memory holds one part of the table, and the ids."""
    with tempfile.TemporaryFile(dir=posixpath.dirname(file.name)) as corners:
        lookup = _gather(table, sources, corners)
        corners.flush()
        is_empty = os.fstat(corners.fileno()).st_size == 0  # which cannot be mapped
        mapped = b"" if is_empty else mmap.mmap(corners.fileno(), 0, access=mmap.ACCESS_READ)
        batch = _batch(lookup, pa.py_buffer(mapped))
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)


class _Lookup(NamedTuple):
    """Where the boxes of each image lie, in the order of the table."""

    image_ids: pa.StringArray
    begin: NDArray[np.int64]  # of its boxes among all
    length: NDArray[np.int64]


def _gather(table: Rows, sources: Sequence[str], corners: IO[bytes]) -> _Lookup:
    """Write the wanted boxes one after another, float32 ``[N, 4]``, holding one part in memory; return where they lie."""
    image_ids: list[pa.Array] = [pa.array([], pa.string())]
    counts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for part in table.iter_parts(("image_id", "boxes_xyxy", "source") if sources else ("image_id", "boxes_xyxy")):
        boxes = part["boxes_xyxy"].combine_chunks()
        count = pc.list_value_length(boxes).to_numpy().astype(np.int64)
        xyxy = boxes.flatten().flatten().to_numpy().reshape(-1, 4)
        if sources:
            of = part["source"].combine_chunks().flatten()
            wanted = pc.is_in(of, pa.array(sources, pa.string())).to_numpy(zero_copy_only=False)
            up_to = np.concatenate([[0], np.cumsum(wanted)])  # of the boxes before each, how many are wanted
            ends = np.cumsum(count)
            count, xyxy = up_to[ends] - up_to[ends - count], xyxy[wanted]
        corners.write(xyxy.tobytes())
        image_ids.append(part["image_id"].combine_chunks())
        counts.append(count)
    all_counts = np.concatenate(counts)
    return _Lookup(pa.concat_arrays(image_ids), np.cumsum(all_counts) - all_counts, all_counts)


def _batch(lookup: _Lookup, corners: pa.Buffer) -> pa.RecordBatch:
    order = pc.sort_indices(lookup.image_ids)
    values = pa.Array.from_buffers(pa.float32(), corners.size // 4, [None, corners])
    boxes = pa.LargeListViewArray.from_arrays(
        lookup.begin[order], lookup.length[order], pa.FixedSizeListArray.from_arrays(values, 4)
    )
    return pa.record_batch([lookup.image_ids.take(order), boxes], ["image_id", "boxes_xyxy"])
