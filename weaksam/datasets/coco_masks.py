"""The masks of a COCO instances file: polygons, and run lengths as COCO writes them for crowds, compressed or not.

They are read apart from everything else, and only to measure: a file's polygons take many times the room of its boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from weaksam.datasets.coco_file import MAX_COORDINATE, CocoFile, parse_json, shown
from weaksam.errors import DataError
from weaksam.io.files import read_annotations
from weaksam.io.images import MAX_PIXELS
from weaksam.masks_np import Rle, rle_area

_LEAST_NUMBERS = 6  # of a polygon: three corners
# Pixels that an outline may be long. pycocotools keeps some 150 bytes for each of them, and crashes where there are too many.
_LONGEST = 2**20


def read_masks(loaded: CocoFile, *, sized: bool) -> dict[int, Rle]:
    """Read the masks of an instances file that was read before.

    Args:
        loaded: the file.
        sized: whether the stated sizes of images count.

    Returns:
        the place of an annotation in its list -> its mask, of the size that its image is stated to have; where that does not
        count or is not stated, of that of the run lengths, or as far as the polygons reach. An annotation without a
        segmentation, or with none but polygons of fewer than three corners, has none.

    Raises:
        DataError: a segmentation is not what COCO says, or lies far outside its image.
    """
    document = parse_json(next(read_annotations([loaded.uri])), loaded.uri)
    sizes_hw = {image.number: image.size_hw for image in loaded.images}
    masks: dict[int, Rle] = {}
    for annotation in loaded.annotations:
        segmentation = document["annotations"][annotation.place].get("segmentation")
        if not segmentation:
            continue
        where = f"{loaded.uri}: annotations[{annotation.place}] of image {annotation.image}"
        mask = _mask(segmentation, sizes_hw[annotation.image] if sized else (0, 0), where)
        if mask is not None:
            masks[annotation.place] = mask
    return masks


def _mask(segmentation: Any, size_hw: tuple[int, int], where: str) -> Rle | None:
    """Return the mask of one annotation; a side of 0 is not known."""
    if isinstance(segmentation, Mapping):
        return _of_runs(segmentation, size_hw, where)
    if not isinstance(segmentation, list) or not all(_is_polygon(part) for part in segmentation):
        raise DataError(
            f'{where}: expected "segmentation" of polygons [x1, y1, x2, y2, ...] in pixels, or of run lengths, got '
            f"{shown(segmentation)}; correct the annotation or remove it"
        )
    from pycocotools import mask as coco_mask

    polygons = [[float(value) for value in part] for part in segmentation if len(part) >= _LEAST_NUMBERS]
    if not polygons:
        return None
    height = size_hw[0] or max(1, math.ceil(max(max(polygon[1::2]) for polygon in polygons)))
    width = size_hw[1] or max(1, math.ceil(max(max(polygon[::2]) for polygon in polygons)))
    for polygon in polygons:
        far = max(map(abs, polygon)) > MAX_COORDINATE or height * width > MAX_PIXELS
        if far or _length(polygon) > _LONGEST:
            raise DataError(
                f"{where}: expected polygons in or about an image of {size_hw[1] or '?'} x {size_hw[0] or '?'} pixels, with "
                f"outlines of {_LONGEST:,} pixels at most, got {shown(polygon)}; correct the annotation or remove it"
            )
    union = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": bytes(union["counts"])}


def _is_polygon(part: Any) -> bool:
    """Whether it is an even number of finite numbers."""
    if not isinstance(part, list) or len(part) % 2:
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in part)


def _length(polygon: list[float]) -> float:
    """Pixels along the outline, as many as the longer side of each of its edges."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    return sum(max(abs(x2 - x1), abs(y2 - y1)) for (x1, y1), (x2, y2) in pairwise([*corners, corners[0]]))


def _is_size(size: Any, size_hw: tuple[int, int]) -> bool:
    """Whether it is the height and width of an image, of which a side of 0 is not known."""
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return False
    return size[0] * size[1] <= MAX_PIXELS and all(
        not known or known == side for known, side in zip(size_hw, size, strict=True)
    )


def _of_runs(runs: Mapping[str, Any], size_hw: tuple[int, int], where: str) -> Rle:
    """Return run lengths in COCO's compressed form; they count pixels down the columns, the first ones outside."""
    from pycocotools import mask as coco_mask

    counts, size = runs.get("counts"), runs.get("size")
    if not _is_size(size, size_hw):
        stated = ", ".join(str(side or "?") for side in size_hw)
        raise DataError(
            f'{where}: expected run lengths of the "size" of its image, [{stated}], got {shown(size)}; correct the annotation '
            "or remove it"
        )
    height, width = runs["size"]
    if isinstance(counts, list):
        whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
        if not whole or sum(counts) != height * width:
            raise DataError(
                f"{where}: expected run lengths of {height * width:,} pixels together, got {shown(counts)}; correct the "
                "annotation or remove it"
            )
        encoded = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
        return {"size": [height, width], "counts": bytes(encoded["counts"])}
    rle = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else b""}
    try:
        rle_area([rle])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return rle
