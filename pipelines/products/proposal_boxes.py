"""The boxes of a proposals table by image: read file by file to measure them, or all in memory to train and detect on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.store.tables import Table
from weaksam.errors import RunError

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


def met_sources(table: Table) -> set[str]:
    """Return every source that has a box somewhere in a proposals table."""
    met: set[str] = set()
    for part in table.iter_parts(["source"]):
        met.update(pc.unique(part["source"].combine_chunks().flatten()).to_pylist())
    return met


def iter_boxes(table: Table) -> Iterator[ImageBoxes]:
    """Yield what measuring needs of each row of a proposals table, holding one file in memory."""
    for part in table.iter_parts(_COLUMNS):
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
            )


def count_points(row: Mapping[str, Any]) -> Counter[str]:
    """Return how many points each source of a row prompted; a class-joint prompt repeats points and adds none."""
    points: Counter[str] = Counter()
    for source, kind, points_xy in zip(row["prompt_source"], row["prompt_kind"], row["prompt_points_xy"], strict=True):
        points[source] += 0 if kind == "class-joint" else len(points_xy)
    return points


class ProposalBoxes(Mapping[str, NDArray[np.float32]]):
    """Image id -> boxes ``[R, 4]``, all of them in one array, 16 bytes each: 260 MB for 82,000 images of 200."""

    def __init__(self, table: Table, sources: Sequence[str] = ()) -> None:
        """Read the table.

        Args:
            table: of proposals.
            sources: whose boxes are wanted; empty = all.

        Raises:
            RunError: no image has a box of any wanted source.
        """
        parts: list[NDArray[np.float32]] = [np.zeros((0, 4), np.float32)]
        self._rows: dict[str, slice] = {}
        met: set[str] = set()
        end = 0
        for image in iter_boxes(table):
            boxes = image.boxes_xyxy
            met.update(image.source)
            if sources:
                boxes = boxes[[source in sources for source in image.source]]
            parts.append(boxes)
            self._rows[image.image_id] = slice(end, end + len(boxes))
            end += len(boxes)
        self._boxes_xyxy = np.concatenate(parts)
        if sources and not end:
            raise RunError(
                f"{table.folder}: no box of {', '.join(sources)}; mil.proposal_sources must name some of "
                f"{', '.join(sorted(met)) or 'no source: the table is empty'}"
            )

    def __getitem__(self, image_id: str) -> NDArray[np.float32]:
        """Return the boxes of one image, float32 ``[R, 4]``; an image without a row is a KeyError."""
        return self._boxes_xyxy[self._rows[image_id]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
