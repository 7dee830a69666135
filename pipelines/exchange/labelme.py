"""Labelme's files: a JSON beside each picture, whose boxes and masks can be mended by hand.

    NAME              the picture, linked or copied; NAME may hold folders
    STEM.json         of ``labelme NAME``: a shape for each object, "mask" (a PNG of its box) or "rectangle"

The score and what the boxes are owed to (``supervision``) stand in each shape's description. Labelme shows masks from version
5.3 on.
"""

from __future__ import annotations

import base64
import io
import json
import posixpath
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipelines.exchange.content import LabelledImage, LabelledSplit
from pipelines.exchange.export import Export, Target
from pipelines.exchange.files import begin_folder
from pipelines.exchange.pictures import place_pictures, plan_pictures
from pipelines.store.files import write_bytes
from weaksam.errors import DataError
from weaksam.io.files import join
from weaksam.masks_np import Rle, decode_rle

VERSION = "5.5.0"  # of Labelme's files


def write_labels(content: LabelledSplit, target: Target) -> str:
    """Write a JSON per image, and the pictures; return in words what became of these, and what to do next.

    Raises:
        DataError: two pictures would share one file, or ``begin_folder``'s.
    """
    images, folder = content.images, target.out
    places = [image.file_name for image in images]
    files = [f"{posixpath.splitext(place)[0]}.json" for place in places]
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise DataError(
            f"two pictures would share {twice}, by which Labelme cannot tell them apart; rename one of them, or export as coco"
        )
    placement = plan_pictures([image.uri for image in images], places, folder, target.pictures)
    to_write = [*files, *placement.places]
    replaced = begin_folder(folder, to_write, to="labelme", split=content.of.split, overwrite=target.overwrite)
    place_pictures(placement, folder)
    for file, image in zip(files, images, strict=True):
        write_bytes(join(folder, file), json.dumps(labelme_json(image, content), ensure_ascii=False).encode())
    earlier = f" · replaced {replaced:,} files of an earlier export" if replaced else ""
    before = f"put the pictures under {folder} by their names, then " if placement.absent else ""
    return f"\n{placement.text}{earlier}\nnext: {before}labelme {folder}"


LABELS = Export(write=write_labels, takes=("pictures",))


def labelme_json(image: LabelledImage, of: LabelledSplit) -> Mapping[str, Any]:
    """Return the JSON of one image of a split; its picture lies beside it."""
    height, width = image.size_hw
    shapes = []
    for (box, class_index, score), mask_rle in zip(image.boxes(), image.masks(), strict=True):
        x1, y1, x2, y2 = box
        outline = {"shape_type": "rectangle", "points": [[x1, y1], [x2, y2]], "mask": None}
        shapes.append(
            {
                "label": of.class_names[class_index],
                **(outline if mask_rle is None else _mask(mask_rle)),
                "group_id": None,
                "description": f"score {score:.4f}, supervision: {of.supervision}",
                "flags": {},
            }
        )
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": posixpath.basename(image.file_name),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _mask(mask_rle: Rle) -> Mapping[str, Any]:
    """Return a mask as a shape: the first and the last pixel of its box, and a PNG of what lies between them."""
    mask = decode_rle(mask_rle)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    file = io.BytesIO()
    Image.fromarray(mask[top : bottom + 1, left : right + 1]).save(file, "PNG")
    return {
        "shape_type": "mask",
        "points": [[int(left), int(top)], [int(right), int(bottom)]],
        "mask": base64.b64encode(file.getvalue()).decode(),
    }
