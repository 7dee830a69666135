"""Labelme's files: a JSON beside each picture, whose boxes and masks can be mended by hand.

    NAME              the picture, linked or copied; NAME may hold folders
    STEM.json         of ``labelme NAME``: a shape for each object, "mask" (a PNG of its box) or "rectangle"

The score and what the boxes are owed to (``supervision``) stand in each shape's description. Labelme shows masks from version
5.3 on. Whoever imports shapes says what they are owed to: somebody may have mended them.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import posixpath
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.exchange.content import LabelledImage, LabelledSplit
from pipelines.exchange.export import Export, Target
from pipelines.exchange.files import RECORD, recorded_export
from pipelines.exchange.image_ids import shown
from pipelines.exchange.masked_objects import MaskedObject, require_size
from pipelines.exchange.pictures import place_pictures, plan_pictures
from pipelines.store.files import write_bytes
from weaksam.datasets.class_names import normal_name
from weaksam.datasets.coco_file import MAX_COORDINATE, parse_json
from weaksam.errors import DataError, ImageError
from weaksam.io.files import join, read_bytes
from weaksam.io.images import decode_image
from weaksam.masks_np import Rle, decode_rle, encode_rle, tight_box

VERSION = "5.5.0"  # of Labelme's files
_LEAST_CORNERS = 3  # of a polygon


def write_labels(content: LabelledSplit, target: Target) -> str:
    """Write a JSON per image, and the pictures; return in words what became of these, and what to do next.

    Raises:
        DataError: two pictures would share one file, or ``recorded_export``'s.
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
    with recorded_export(
        folder, to_write, to="labelme", split=content.of.split, overwrite=target.overwrite
    ) as replaced:
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
    left, top, right, bottom = tight_box(mask)
    file = io.BytesIO()
    Image.fromarray(mask[top:bottom, left:right]).save(file, "PNG")
    return {
        "shape_type": "mask",
        "points": [[left, top], [right - 1, bottom - 1]],
        "mask": base64.b64encode(file.getvalue()).decode(),
    }


class LabelmeMasks:
    """The shapes of a folder, which calls images by the paths of its JSON files."""

    supervision = ""

    def __init__(self, root: str, paths: Collection[str]) -> None:
        self._root = root
        self.marks = [
            posixpath.splitext(path)[0] for path in paths if path.endswith(".json") and not path.startswith(RECORD)
        ]

    def mark_of(self, picture: str) -> str:
        """See ``MaskFile``."""
        return posixpath.splitext(picture)[0]

    def objects(self, mark: str, size_hw: tuple[int, int]) -> list[MaskedObject]:
        """See ``MaskFile``; shapes of one label and group are one object, and what has no inside draws no mask."""
        where = join(self._root, f"{mark}.json")
        document = parse_json(read_bytes(where), where)
        shapes = document.get("shapes") if isinstance(document, Mapping) else None
        if not isinstance(shapes, list) or not all(isinstance(shape, Mapping) for shape in shapes):
            raise DataError(f"{where}: expected Labelme's shapes, got {shown(shapes)}; take the file out, or repair it")
        require_size([document.get("imageHeight"), document.get("imageWidth")], size_hw, where)
        masks: dict[tuple[str, Any], NDArray[np.bool_]] = {}
        for n, shape in enumerate(shapes):
            group = shape.get("group_id")
            key = normal_name(str(shape.get("label", ""))), ("alone", n) if group is None else ("group", str(group))
            drawn = _drawn(shape, size_hw, f"{where}: shapes[{n}]")
            masks[key] = masks[key] | drawn if key in masks else drawn
        return [MaskedObject(label, encode_rle(mask)) for (label, _), mask in masks.items()]


def _drawn(shape: Mapping[str, Any], size_hw: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Draw a shape as Labelme does: a mask, or a polygon with its outline; of others nothing."""
    height, width = size_hw
    canvas = Image.new("1", (width, height))
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if not all(abs(side) <= MAX_COORDINATE for point in points for side in point):  # NaN is not
            raise ValueError("a corner far outside")
        if shape["shape_type"] == "mask":
            pixels = decode_image(base64.b64decode(shape["mask"], validate=True))[:, :, 0] > 0
            left, top = (int(side) for side in points[0])
            if left < 0 or top < 0 or left + pixels.shape[1] > width or top + pixels.shape[0] > height:
                raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels at {left}, {top}")
            canvas.paste(Image.fromarray(pixels), (left, top))
        elif shape["shape_type"] == "polygon" and len(points) >= _LEAST_CORNERS:
            ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, binascii.Error, ImageError) as error:
        raise DataError(
            f"{where}: expected points and, of a mask, a PNG inside the image, got {error!r:.120}; draw it again, or "
            "take it out"
        ) from error
    return np.asarray(canvas, np.bool_)
