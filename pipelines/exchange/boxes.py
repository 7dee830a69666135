"""Boxes in the files of proposals that others write, and what shows that they are meant otherwise.

Boxes of pickles and MATLAB files have inclusive right and bottom, those of COCO results are XYWH; ours are exclusive XYXY.
Where a file says ``bbox_mode``, its boxes are detectron2's: 0 is XYXY with exclusive right and bottom, 1 is XYWH. Whatever
shows that boxes are meant otherwise is an error, and never repaired: corners in the wrong order, all coordinates within 0..1,
another number of scores than of boxes, a MATLAB file that counts from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.exchange.image_ids import shown
from weaksam.errors import DataError

Boxes = NDArray[np.float32]  # [N, 4] XYXY, exclusive
XYXY, XYWH = 0, 1  # detectron2's BoxMode

_OTHER_MODES = {2: "XYXY_REL", 3: "XYWH_REL", 4: "XYWHA_ABS"}
_MAX_COORDINATE = 2**24  # pixels; float32 holds whole numbers up to here


def whole_pixels(boxes_xyxy: NDArray[np.float32], image_id: str) -> NDArray[np.float32]:
    """Turn exclusive boxes ``[N, 4]`` into inclusive ones of whole pixels, cut towards zero as a cast to uint16 does.

    A box without area (the published code's empty mask) stays where it is instead of turning inside out.

    Raises:
        DataError: a coordinate is negative or above 65,535.
    """
    inclusive = boxes_xyxy.copy()
    inclusive[:, 2:] = np.maximum(boxes_xyxy[:, 2:] - 1, boxes_xyxy[:, :2])
    if not ((inclusive >= 0) & (inclusive <= np.iinfo(np.uint16).max)).all():
        raise DataError(
            f"image {image_id!r}: expected coordinates in 0..65,535, which this format holds, got "
            f"{inclusive.min():g}..{inclusive.max():g}"
        )
    return np.trunc(inclusive)


def modes_of(value: Any, count: int, where: str) -> list[int]:
    """Return detectron2's BoxMode of each of ``count`` images, of a file that gives one or as many."""
    modes = (
        value if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim) else [value] * count
    )
    if len(modes) != count:
        raise DataError(f"{where}: bbox_mode: expected one for all images or {count:,}, got {len(modes):,}")
    for mode in modes:
        if not is_whole(mode) or int(mode) not in (XYXY, XYWH):
            named = _OTHER_MODES.get(int(mode), "unknown") if is_whole(mode) else "unknown"
            raise DataError(
                f"{where}: bbox_mode: expected 0 (XYXY_ABS) or 1 (XYWH_ABS), got {shown(mode)} ({named}); convert the boxes "
                "to pixels, without angles"
            )
    return [int(mode) for mode in modes]


def of_mode(rows: NDArray[np.float64], mode: int) -> Boxes:
    """Return boxes of detectron2's XYXY or XYWH, possibly followed by a score, as exclusive XYXY."""
    boxes = rows[:, :4].copy()
    if mode == XYWH:
        boxes[:, 2:] += boxes[:, :2]
    return boxes.astype(np.float32)


def from_inclusive(rows: NDArray[np.float64]) -> Boxes:
    """Turn boxes with inclusive right and bottom, possibly followed by a score, into exclusive ones."""
    return (rows[:, :4] + (0, 0, 1, 1)).astype(np.float32)


def in_order(boxes: Boxes, where: str) -> Boxes:
    """Return exclusive boxes unchanged; one without area is fine, corners in the wrong order are not."""
    wrong = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(wrong):
        raise DataError(
            f"{where}: box {wrong[0]}: expected right and bottom beyond left and top, got "
            f"{', '.join(f'{c:g}' for c in boxes[wrong[0]])}; correct it, or say how boxes are written: a pickle of a dict "
            "with bbox_mode 1 (XYWH)"
        )
    return boxes


def refuse_relative(images: Sequence[NDArray[Any]], where: str) -> None:
    """Refuse a file whose coordinates all lie within 0..1, as shares of an image do and pixels do not."""
    boxes = np.concatenate([np.zeros((0, 4)), *(rows[:, :4] for rows in images)])
    if len(boxes) and boxes.min() >= 0 and boxes.max() <= 1 and (boxes != np.trunc(boxes)).any():
        raise DataError(
            f"{where}: expected boxes in pixels, got coordinates within 0..1 only; multiply them by the images' widths and "
            "heights"
        )


def check_scores(scores: Any, boxes: Sequence[NDArray[Any]], where: str) -> None:
    """Raise DataError unless there is one score for each box of each image."""
    require_sequence(scores, where)
    if len(scores) != len(boxes):
        raise DataError(
            f"{where}: expected scores of {len(boxes):,} images, as there are boxes, got {len(scores):,}; write the file again"
        )
    for n, (image_scores, rows) in enumerate(zip(scores, boxes, strict=True)):
        sized = isinstance(image_scores, (list, tuple)) or (isinstance(image_scores, np.ndarray) and image_scores.ndim)
        if not sized or len(image_scores) != len(rows):
            got = f"{len(image_scores):,}" if sized else shown(image_scores)
            raise DataError(
                f"{where}[{n}]: expected {len(rows):,} scores, one per box, got {got}; write the file again"
            )


def to_array(value: Any, where: str) -> NDArray[np.float64]:
    """Return boxes as an array ``[N, 4]`` or ``[N, 5]`` of finite numbers; lists of rows are accepted."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim:
        value = list(value)
    if isinstance(value, (list, tuple)):
        value = np.asarray([four_numbers(row, where) for row in value], np.float64).reshape(-1, 4)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise DataError(f"{where}: expected an array of boxes, got {shown(value)}")
    array = np.asarray(value)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        turned = "; transpose it" if array.ndim == 2 and len(array) in (4, 5) else "; one box is [[x1, y1, x2, y2]]"
        raise DataError(
            f"{where}: expected boxes of shape (n, 4), or (n, 5) with scores, got {array.shape}"
            f"{turned if array.ndim < 3 else ''}"
        )
    rows = array.astype(np.float64)
    if not (np.abs(rows[:, :4]) <= _MAX_COORDINATE).all():
        raise DataError(
            f"{where}: expected coordinates within ±{_MAX_COORDINATE:,}, got NaN, infinity or larger ones; correct them"
        )
    return rows


def four_numbers(value: Any, where: str) -> list[float]:
    """Return the four coordinates of a box; raise DataError for anything else."""
    is_row = (isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)) and len(
        value
    ) == 4
    if not is_row or not all(_is_coordinate(number) for number in value):
        wrong = next((number for number in value if not _is_coordinate(number)), None) if is_row else None
        raise DataError(
            f"{where}: expected a box of four numbers within ±{_MAX_COORDINATE:,}, got {shown(value)}"
            f"{f' with {shown(wrong)}' if is_row else ''}; correct it"
        )
    return [float(number) for number in value]


def _is_coordinate(value: Any) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and -_MAX_COORDINATE <= value <= _MAX_COORDINATE


def require_sequence(value: Any, where: str) -> None:
    """Raise DataError unless a value is a list with one item per image."""
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        raise DataError(f"{where}: expected a list with one item per image, got {shown(value)}")


def is_whole(value: Any) -> bool:
    """Whether a value is a number without a fraction, of whatever type."""
    if isinstance(value, (float, np.floating)):
        return float(value).is_integer()
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def add_image(found: dict[str, Boxes], image_id: str, boxes: Boxes, where: str) -> None:
    """Note the boxes of an image; raise DataError if the file has it twice."""
    if image_id in found:
        raise DataError(f"{where}: image {image_id} stands in it twice; keep one of them")
    found[image_id] = boxes
