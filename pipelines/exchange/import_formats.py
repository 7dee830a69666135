"""The files of proposals that ``weaksam import`` reads; what a file is, its content decides.

    pickle of a dict     wetectron: {boxes, indexes or ids}; with ``bbox_mode``, detectron2's
    pickle of a list     mmdet: one array per image in the order of the split
    JSON list            COCO results
    MATLAB file          Selective Search as distributed with Fast R-CNN: cells ``boxes`` (y1 x1 y2 x2, from 1) and ``images``

Boxes of pickles and MATLAB files have inclusive right and bottom, those of COCO results are XYWH; ours are exclusive XYXY.
Where a file says ``bbox_mode``, its boxes are detectron2's: 0 is XYXY with exclusive right and bottom, 1 is XYWH. Whatever
shows that boxes are meant otherwise is an error, and never repaired: corners in the wrong order, all coordinates within 0..1,
another number of scores than of boxes, a MATLAB file that counts from 0.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.exchange.export_proposals import number_of
from pipelines.exchange.import_names import KnownImages, shown
from pipelines.exchange.matlab import MatlabError, read_variables
from pipelines.exchange.unpickle import load_plain
from weaksam.errors import DataError

logger = logging.getLogger(__name__)

Boxes = NDArray[np.float32]  # [N, 4] XYXY, exclusive

_MAX_COORDINATE = 2**24  # pixels; float32 holds whole numbers up to here
_XYXY, _XYWH = 0, 1  # detectron2's BoxMode
_OTHER_MODES = {2: "XYXY_REL", 3: "XYWH_REL", 4: "XYWHA_ABS"}
_SCORES = ("scores", "objectness_logits")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks; with them JSON, never a pickle, begins


def read_boxes(
    data: bytes,
    where: str,
    ids: Sequence[str],
    kind: str,
    *,
    in_split_order: bool,
    uris: Mapping[str, str] | None = None,
) -> dict[str, Boxes]:
    """Read a file of any of the formats.

    Args:
        data: the file's content.
        where: its name, for messages.
        ids: the images in the order of the formats (``export.image_ids``).
        kind: of the data set: decides how ids become numbers.
        in_split_order: ``ids`` are one whole split, so that a list without names can be matched.
        uris: where the pictures are, by id, so that a file may call them by their names.

    Returns:
        boxes by image id, in the file's order; ids that are not among ``ids`` keep the name that the file gives them.

    Raises:
        DataError: the file is damaged, holds code, contradicts itself, or means two images by one name.
    """
    known = KnownImages(ids, kind, uris or {})
    if data.startswith(b"MATLAB"):
        return read_selective_search(data, where, known)
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if (text[:1] in (b"[", b"{") and b"\0" not in text[:64]) or data.startswith(_UTF16):
        return read_coco(data, where, known)
    value = load_plain(data, where)
    if isinstance(value, dict):
        return read_wetectron(value, where, known, kind)
    _require_sequence(value, where)
    if not in_split_order:
        raise DataError(
            f"{where}: a list of boxes without names (mmdet) is in the order of one split; name it with --split"
        )
    return read_mmdet(value, where, ids)


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
    _require_sequence(boxes, f"{where}: boxes")
    _require_sequence(numbers, f"{where}: indexes")
    if len(boxes) != len(numbers):
        raise DataError(
            f"{where}: expected as many boxes as indexes, got {len(boxes):,} and {len(numbers):,}; write the file again"
        )
    modes = _modes(value["bbox_mode"], len(boxes), where) if "bbox_mode" in value else None
    rows = [_array(image_boxes, f"{where}: boxes[{n}]") for n, image_boxes in enumerate(boxes)]
    for key in _SCORES:
        if value.get(key) is not None:
            _check_scores(value[key], rows, f"{where}: {key}")
    ignored = [key for key in value if key not in ("boxes", "indexes", "ids", "bbox_mode", *_SCORES)]
    if ignored:
        logger.warning("%s: not looked at: %s", where, ", ".join(map(shown, ignored[:8])))
    found: dict[str, Boxes] = {}
    for n, number in enumerate(numbers):
        place = f"{where}: boxes[{n}]"
        converted = _inclusive(rows[n]) if modes is None else _of_mode(rows[n], modes[n])
        image_id = known.find(_mark(number, f"{where}: indexes[{n}]", kind, known), f"{where}: indexes[{n}]")
        _add(found, image_id, _in_order(converted, place), where)
    _refuse_relative(rows, where)
    return found


def read_mmdet(value: Any, where: str, ids: Sequence[str]) -> dict[str, Boxes]:
    """Read one array ``(n, 4)``, or ``(n, 5)`` with scores, per image of ``ids``."""
    _require_sequence(value, where)
    if len(value) != len(ids):
        raise DataError(
            f"{where}: expected one array for each of the split's {len(ids):,} images, got {len(value):,}; name another "
            "with --split"
        )
    rows = [_array(image_boxes, f"{where}: [{n}]") for n, image_boxes in enumerate(value)]
    _refuse_relative(rows, where)
    return {
        image_id: _in_order(_inclusive(image_rows), f"{where}: [{n}]")
        for n, (image_id, image_rows) in enumerate(zip(ids, rows, strict=True))
    }


def read_coco(data: bytes, where: str, known: KnownImages) -> dict[str, Boxes]:
    """Read COCO results; categories do not matter. Ids are numbers for VOC and COCO, else the ids themselves."""
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a readable JSON file: {error}; write it again") from error
    if not isinstance(entries, list):
        raise DataError(
            f"{where}: expected a list of results, got an object; an instances file holds true boxes, not these"
        )
    xyxy: dict[str, list[list[float]]] = {}
    for n, entry in enumerate(entries):
        place = f"{where}: [{n}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("bbox"), list) or "image_id" not in entry:
            raise DataError(f"{place}: expected image_id and bbox, got {shown(entry)}")
        image, bbox = entry["image_id"], _four_numbers(entry["bbox"], f"{place}: bbox")
        if not isinstance(image, str) and not _is_whole(image):
            raise DataError(f"{place}: expected a number or text as image_id, got {shown(image)}")
        mode = _modes(entry.get("bbox_mode", _XYWH), 1, place)[0]
        image_id = known.find(image if isinstance(image, str) else int(image), place)
        (box,) = _in_order(_of_mode(np.asarray([bbox]), mode), place)
        xyxy.setdefault(image_id, []).append(box.tolist())
    found = {image_id: np.asarray(rows, np.float32) for image_id, rows in xyxy.items()}
    _refuse_relative(list(found.values()), where)
    return found


def read_selective_search(data: bytes, where: str, known: KnownImages) -> dict[str, Boxes]:
    """Read a MATLAB file up to version 7: ``boxes``, a cell of (y1 x1 y2 x2), inclusive and from 1, and ``images``, names."""
    try:
        held = read_variables(data, ("boxes", "images"))
    except NotImplementedError as error:
        raise DataError(f"{where}: a MATLAB 7.3 file; save it with -v7 (or read and export it with h5py)") from error
    except MatlabError as error:
        raise DataError(f"{where}: not a readable MATLAB file ({error}); write it again") from error
    if "boxes" not in held or "images" not in held:
        raise DataError(
            f"{where}: expected the variables boxes and images, got "
            f"{', '.join(sorted(map(shown, held))[:8]) or 'none'}; rename them"
        )
    cells, names = held["boxes"], held["images"]
    for variable, value in (("boxes", cells), ("images", names)):
        if not isinstance(value, list):
            raise DataError(f"{where}: {variable}: expected a cell array with one cell per image, got {shown(value)}")
    if len(cells) != len(names):
        raise DataError(
            f"{where}: expected as many boxes as images, got {len(cells):,} and {len(names):,}; write the file again"
        )
    found: dict[str, Boxes] = {}
    for n, (name, cell) in enumerate(zip(names, cells, strict=True)):
        place = f"{where}: boxes{{{n + 1}}}"
        yxyx = _array(cell, place)[:, :4]
        if yxyx.size and yxyx.min() < 1:
            raise DataError(
                f"{place}: expected coordinates that count from 1, got {yxyx.min():g}; add 1 to those that count from 0"
            )
        if not isinstance(name, str):
            raise DataError(f"{where}: images: expected names, got {shown(name)}")
        xyxy = (yxyx[:, (1, 0, 3, 2)] - (1, 1, 0, 0)).astype(np.float32)
        _add(found, known.find(name, where), _in_order(xyxy, place), where)
    return found


def _mark(value: Any, where: str, kind: str, known: KnownImages) -> int | str:
    """Return a number or text by which a pickle names an image."""
    if isinstance(value, str) and (kind not in ("voc", "coco") or value in known or number_of(value, kind) is not None):
        return value
    if not _is_whole(value):
        raise DataError(f"{where}: expected a whole number, or an image's id, got {shown(value)}; correct the file")
    return int(value)


def _modes(value: Any, count: int, where: str) -> list[int]:
    """Return detectron2's BoxMode of each of ``count`` images, of a file that gives one or as many."""
    modes = (
        value if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim) else [value] * count
    )
    if len(modes) != count:
        raise DataError(f"{where}: bbox_mode: expected one for all images or {count:,}, got {len(modes):,}")
    for mode in modes:
        if not _is_whole(mode) or int(mode) not in (_XYXY, _XYWH):
            named = _OTHER_MODES.get(int(mode), "unknown") if _is_whole(mode) else "unknown"
            raise DataError(
                f"{where}: bbox_mode: expected 0 (XYXY_ABS) or 1 (XYWH_ABS), got {shown(mode)} ({named}); convert the boxes "
                "to pixels, without angles"
            )
    return [int(mode) for mode in modes]


def _of_mode(rows: NDArray[np.float64], mode: int) -> Boxes:
    boxes = rows[:, :4].copy()
    if mode == _XYWH:
        boxes[:, 2:] += boxes[:, :2]
    return boxes.astype(np.float32)


def _inclusive(rows: NDArray[np.float64]) -> Boxes:
    """Turn boxes with inclusive right and bottom, possibly followed by a score, into exclusive ones."""
    return (rows[:, :4] + (0, 0, 1, 1)).astype(np.float32)


def _in_order(boxes: Boxes, where: str) -> Boxes:
    """Return exclusive boxes unchanged; one without area is fine, corners in the wrong order are not."""
    wrong = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(wrong):
        raise DataError(
            f"{where}: box {wrong[0]}: expected right and bottom beyond left and top, got "
            f"{', '.join(f'{c:g}' for c in boxes[wrong[0]])}; correct it, or say how boxes are written: a pickle of a dict "
            "with bbox_mode 1 (XYWH)"
        )
    return boxes


def _refuse_relative(images: Sequence[NDArray[Any]], where: str) -> None:
    """Refuse a file whose coordinates all lie within 0..1, as shares of an image do and pixels do not."""
    boxes = np.concatenate([np.zeros((0, 4)), *(rows[:, :4] for rows in images)])
    if len(boxes) and boxes.min() >= 0 and boxes.max() <= 1 and (boxes != np.trunc(boxes)).any():
        raise DataError(
            f"{where}: expected boxes in pixels, got coordinates within 0..1 only; multiply them by the images' widths and "
            "heights"
        )


def _check_scores(scores: Any, boxes: Sequence[NDArray[Any]], where: str) -> None:
    _require_sequence(scores, where)
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


def _array(value: Any, where: str) -> NDArray[np.float64]:
    """Return boxes as an array ``[N, 4]`` or ``[N, 5]`` of finite numbers; lists of rows are accepted."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim:
        value = list(value)
    if isinstance(value, (list, tuple)):
        value = np.asarray([_four_numbers(row, where) for row in value], np.float64).reshape(-1, 4)
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


def _four_numbers(value: Any, where: str) -> list[float]:
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


def _require_sequence(value: Any, where: str) -> None:
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        raise DataError(f"{where}: expected a list with one item per image, got {shown(value)}")


def _is_whole(value: Any) -> bool:
    if isinstance(value, (float, np.floating)):
        return float(value).is_integer()
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _add(found: dict[str, Boxes], image_id: str, boxes: Boxes, where: str) -> None:
    if image_id in found:
        raise DataError(f"{where}: image {image_id} stands in it twice; keep one of them")
    found[image_id] = boxes
