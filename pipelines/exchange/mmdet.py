"""mmdet's pickle of proposals: a list of one float32 array ``(n, 4)`` per image, in the order of the split.

Boxes have *inclusive* right and bottom, cut down to whole pixels (``whole_pixels``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.exchange.boxes import (
    Boxes,
    from_inclusive,
    in_order,
    refuse_relative,
    require_sequence,
    to_array,
    whole_pixels,
)
from pipelines.exchange.content import SplitProposals
from pipelines.exchange.export import Export, Target
from pipelines.exchange.files import open_whole, require_new_file
from pipelines.exchange.pickles import write_pickle
from weaksam.errors import DataError


def write_proposals(content: SplitProposals, target: Target) -> str:
    """Write the pickle; raise DataError for coordinates that it cannot hold."""
    replaced = require_new_file(target.out, overwrite=target.overwrite)
    pairs = zip(content.of.ids, content.boxes_xyxy, strict=True)
    with open_whole(target.out) as file:
        write_pickle([whole_pixels(boxes, image_id) for image_id, boxes in pairs], file)
    return " · replaced an earlier file" if replaced else ""


PROPOSALS = Export(write=write_proposals, suffix=".pkl")


def read_mmdet(value: Any, where: str, ids: Sequence[str]) -> dict[str, Boxes]:
    """Read one array ``(n, 4)``, or ``(n, 5)`` with scores, per image of ``ids``."""
    require_sequence(value, where)
    if len(value) != len(ids):
        raise DataError(
            f"{where}: expected one array for each of the split's {len(ids):,} images, got {len(value):,}; name another "
            "with --split"
        )
    rows = [to_array(image_boxes, f"{where}: [{n}]") for n, image_boxes in enumerate(value)]
    refuse_relative(rows, where)
    return {
        image_id: in_order(from_inclusive(image_rows), f"{where}: [{n}]")
        for n, (image_id, image_rows) in enumerate(zip(ids, rows, strict=True))
    }
