"""wetectron's pickle of proposals: ``{boxes, scores, indexes}``.

VOC: boxes uint16, scores (n,); COCO: boxes float32, scores (n, 1); all scores are 1. ``indexes`` are the images' numbers:
``000005`` is 5 and ``2008_000008`` is 2008000008. A file that is read may say ``ids`` for ``indexes``, and ``bbox_mode``, with
which its boxes are detectron2's. Others have *inclusive* right and bottom, cut down to whole pixels (``whole_pixels``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.exchange.boxes import (
    Boxes,
    add_image,
    check_scores,
    from_inclusive,
    in_order,
    is_whole,
    modes_of,
    of_mode,
    refuse_relative,
    require_sequence,
    to_array,
    whole_pixels,
)
from pipelines.exchange.content import SplitProposals
from pipelines.exchange.export import Export, Target
from pipelines.exchange.files import open_whole, require_new_file
from pipelines.exchange.image_ids import KnownImages, number_of, numeric_ids, shown
from pipelines.exchange.pickles import write_pickle
from weaksam.errors import DataError

logger = logging.getLogger(__name__)

_SCORES = ("scores", "objectness_logits")


def write_proposals(content: SplitProposals, target: Target) -> str:
    """Write the pickle; raise DataError for ids or coordinates that it cannot hold."""
    replaced = require_new_file(target.out, overwrite=target.overwrite)
    with open_whole(target.out) as file:
        write_pickle(_held(content), file)
    return " · replaced an earlier file" if replaced else ""


PROPOSALS = Export(write=write_proposals, suffix=".pkl")


def read_wetectron(value: Mapping[str, Any], where: str, known: KnownImages, kind: str) -> dict[str, Boxes]:
    """Read ``{boxes, indexes}``; ``ids`` in place of ``indexes`` is accepted, as by that format's readers."""
    numbers, boxes = value.get("indexes", value.get("ids")), value.get("boxes")
    if boxes is None or numbers is None:
        raise DataError(
            f"{where}: expected the keys boxes and indexes (or ids), got [{', '.join(map(shown, list(value)[:8]))}]; "
            "another file, or its keys need other names"
        )
    if "indexes" in value and "ids" in value:
        raise DataError(f"{where}: expected indexes or ids, got both; leave out one of them")
    require_sequence(boxes, f"{where}: boxes")
    require_sequence(numbers, f"{where}: indexes")
    if len(boxes) != len(numbers):
        raise DataError(
            f"{where}: expected as many boxes as indexes, got {len(boxes):,} and {len(numbers):,}; write the file again"
        )
    modes = modes_of(value["bbox_mode"], len(boxes), where) if "bbox_mode" in value else None
    rows = [to_array(image_boxes, f"{where}: boxes[{n}]") for n, image_boxes in enumerate(boxes)]
    for key in _SCORES:
        if value.get(key) is not None:
            check_scores(value[key], rows, f"{where}: {key}")
    ignored = [key for key in value if key not in ("boxes", "indexes", "ids", "bbox_mode", *_SCORES)]
    if ignored:
        logger.warning("%s: not looked at: %s", where, ", ".join(map(shown, ignored[:8])))
    found: dict[str, Boxes] = {}
    for n, number in enumerate(numbers):
        place = f"{where}: boxes[{n}]"
        converted = from_inclusive(rows[n]) if modes is None else of_mode(rows[n], modes[n])
        image_id = known.find(_mark(number, f"{where}: indexes[{n}]", kind, known), f"{where}: indexes[{n}]")
        add_image(found, image_id, in_order(converted, place), where)
    refuse_relative(rows, where)
    return found


def _held(content: SplitProposals) -> Mapping[str, Sequence[Any]]:
    is_voc, dtype = content.of.kind == "voc", np.uint16 if content.of.kind == "voc" else np.float32
    pairs = zip(content.of.ids, content.boxes_xyxy, strict=True)
    return {
        "boxes": [whole_pixels(boxes, image_id).astype(dtype) for image_id, boxes in pairs],
        "scores": [np.ones(len(b) if is_voc else (len(b), 1), np.float32) for b in content.boxes_xyxy],
        "indexes": numeric_ids(content.of.ids, content.of.kind),
    }


def _mark(value: Any, where: str, kind: str, known: KnownImages) -> int | str:
    """Return a number or text by which a pickle names an image."""
    if isinstance(value, str) and (kind not in ("voc", "coco") or value in known or number_of(value, kind) is not None):
        return value
    if not is_whole(value):
        raise DataError(f"{where}: expected a whole number, or an image's id, got {shown(value)}; correct the file")
    return int(value)
