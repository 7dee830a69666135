"""Which images a training learns from, and why it leaves others out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipelines.store.planned import LABELS, LABELS_DIFFICULT


class LabelledImage(NamedTuple):
    """An image with image-level labels, to learn from or to be judged by."""

    image_id: str
    uri: str
    labels: tuple[int, ...]
    content: str = ""  # see ``weaksam.io.contents``


def labels_column(include_difficult: bool) -> str:
    """Return the column of the index whose labels are learnt: those that count objects marked difficult, or not."""
    return LABELS_DIFFICULT if include_difficult else LABELS


def labelled_images(
    rows: Iterable[Mapping[str, Any]], split: str, *, include_difficult: bool
) -> tuple[list[LabelledImage], int]:
    """Return the images of a split whose labels are known, and the number of the others.

    Args:
        rows: of the images table.
        split: the one that labels are granted to.
        include_difficult: whether labels count objects marked difficult.
    """
    column = labels_column(include_difficult)
    known, unknown = list[LabelledImage](), 0
    for row in rows:
        if row["split"] == split and row[column] is None:
            unknown += 1
        elif row["split"] == split:
            known.append(LabelledImage(row["image_id"], row["uri"], tuple(row[column]), row["content"]))
    return known, unknown


def counted(left_out: Mapping[str, int]) -> dict[str, int]:
    """Return the reasons that leave an image out at all."""
    return {reason: count for reason, count in left_out.items() if count}


def told(left_out: Mapping[str, int]) -> str:
    """Return ``3 without boxes, 1 not indexed``; empty for none."""
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
