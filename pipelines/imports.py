"""``weaksam import``: proposals that others made, read into a run as the instance ``import.<name>``.

    pickle of a dict     wetectron: {boxes, indexes or ids}; images are known by number
    pickle of a list     mmdet: one array per image in the order of the split
    JSON list            COCO results; images are known by id
    MATLAB file          Selective Search as distributed with Fast R-CNN: cells ``boxes`` (y1 x1 y2 x2, from 1) and ``images``

What a file is, its content decides. Boxes of pickles and MATLAB files have inclusive right and bottom, those of COCO
results are XYWH; ours are exclusive XYXY. They are clipped to their images, whose sizes are read from the images' headers;
boxes without area after that are discarded and counted. Scores are not kept: what they mean differs from file to file.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.export import finished_instance, image_ids, numeric_ids
from pipelines.runs import Instance, Lock, instance_key, prove
from pipelines.schemas import DROPPED, IMAGES, PROPOSALS, SCHEMA_VERSION, proposals_to_row
from pipelines.unpickle import load_plain
from weaksam.errors import ConfigError, DataError, ImageError
from weaksam.files import read_annotations, read_bytes
from weaksam.structures import Proposals

Boxes = NDArray[np.float32]  # [N, 4] XYXY, exclusive

_ROWS_PER_PART = 128  # images; Selective Search has 2,000 boxes each
_READERS = 16
_MAX_COORDINATE = 2**24  # pixels; float32 holds whole numbers up to here
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations whose width and height change places


def run_import(
    run_uri: str,
    file: str,
    *,
    name: str,
    split: str = "",
    source: str = "imported",
    missing: Literal["error", "empty"] = "error",
) -> dict[str, Any]:
    """Read a file of proposals into the run as ``import.<name>``; a file that is there already is not read again.

    Args:
        run_uri: a run with a finished ``index``.
        file: path or address of the file.
        name: label of the instance.
        split: whose images; empty = all indexed ones, which lists in split order (mmdet) do not allow.
        source: what the column ``source`` says of every box.
        missing: what becomes of indexed images that the file does not know: "error", or "empty": a row without boxes.

    Returns:
        the manifest: ``images`` (the proof), ``boxes``, ``clipped``, ``discarded``, ``unknown`` (images of the file that the
        run does not have), ``missing``, ``file``, ``sha256`` and ``text``, a line for people.

    Raises:
        DataError: the file is malformed, names things that only code has use for, knows none of the images or, unless
            ``missing`` is "empty", not all.
        RunError: no finished ``index``, or another process imports the same.
    """
    called = instance_name(name)
    index = finished_instance(run_uri, "index")
    (data,) = read_annotations([file])
    digest = hashlib.sha256(data).hexdigest()
    parts = {
        "verb": "import",
        "schema": SCHEMA_VERSION,
        "method": {"split": split, "source": source, "missing": missing},
        "fingerprints": {"file": digest},
        "reads": {"index": index.key},
    }
    instance = Instance(run_uri, called, instance_key(parts))
    instance.begin(parts)
    manifest = instance.manifest()
    if manifest is not None:
        return manifest

    images = index.table(IMAGES)
    kind = (index.manifest() or {})["kind"]
    rows = [row for row in images.iter_rows(("image_id", "uri", "split")) if split in ("", row["split"])]
    ids = image_ids(images, kind, split) if split else [row["image_id"] for row in rows]
    found = read_boxes(data, file, ids, kind, in_split_order=bool(split))
    unknown, absent = len(found.keys() - set(ids)), [image_id for image_id in ids if image_id not in found]
    if unknown == len(found) or (absent and missing == "error"):
        raise DataError(
            f"{file}: expected proposals for each of the {len(ids):,} images{f' of split {split}' if split else ''}, "
            f"{len(absent):,} have none (such as {', '.join(absent[:3])}) and {unknown:,} of the file's {len(found):,} "
            f"images are not in the run; check --split, or --missing empty gives those images no boxes"
        )
    with Lock(instance.folder, f"weaksam {instance.name}"):
        counts = _write(instance, rows, found, source)
        proof = prove(ids, instance.table(PROPOSALS), instance.dropped)
        summary = {
            **counts,
            "images": proof,
            "unknown": unknown,
            "missing": len(absent),
            "file": file,
            "sha256": digest,
            "text": f"{proof['text']} · boxes {counts['boxes']:,} (clipped {counts['clipped']:,}, "
            f"without area {counts['discarded']:,}) · images not in the run {unknown:,}",
        }
        return instance.finish(summary)


def instance_name(name: str) -> str:
    """Return ``import.<name>``; raise ConfigError for what should not become a folder."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"--name: expected letters, digits, - and _, got {name!r}")
    return f"import.{name}"


def read_boxes(data: bytes, where: str, ids: Sequence[str], kind: str, *, in_split_order: bool) -> dict[str, Boxes]:
    """Read a file of any of the formats.

    Args:
        data: the file's content.
        where: its name, for messages.
        ids: the images in the order of the formats (``export.image_ids``).
        kind: of the data set: decides how ids become numbers.
        in_split_order: ``ids`` are one whole split, so that a list without names can be matched.

    Returns:
        boxes by image id, in the file's order; ids that are not among ``ids`` keep the name that the file gives them.
    """
    if data.startswith(b"MATLAB"):
        return read_selective_search(data, where)
    if data.lstrip()[:1] in (b"[", b"{") and b"\0" not in data[:64]:
        return read_coco(data, where, ids, kind)
    value = load_plain(data, where)
    if isinstance(value, dict):
        return read_wetectron(value, where, ids, kind)
    if not in_split_order:
        raise DataError(
            f"{where}: a list of boxes without names (mmdet) is in the order of one split; name it with --split"
        )
    return read_mmdet(value, where, ids)


def read_wetectron(value: Mapping[str, Any], where: str, ids: Sequence[str], kind: str) -> dict[str, Boxes]:
    """Read ``{boxes, indexes}``; ``ids`` in place of ``indexes`` is accepted, as by that format's readers."""
    numbers = value.get("indexes", value.get("ids"))
    boxes = value.get("boxes")
    if boxes is None or numbers is None:
        raise DataError(f"{where}: expected the keys boxes and indexes (or ids), got {sorted(map(str, value))[:8]}")
    _require_sequence(boxes, f"{where}: boxes")
    _require_sequence(numbers, f"{where}: indexes")
    if len(boxes) != len(numbers):
        raise DataError(f"{where}: expected as many boxes as indexes, got {len(boxes):,} and {len(numbers):,}")
    name_of = dict(zip(numeric_ids(ids, kind), ids, strict=True))
    found: dict[str, Boxes] = {}
    for n, (number, image_boxes) in enumerate(zip(numbers, boxes, strict=True)):
        if not _is_whole(number):
            raise DataError(f"{where}: indexes[{n}]: expected a whole number, got {_shown(number)}")
        _add(found, name_of.get(int(number), str(int(number))), _inclusive(image_boxes, f"{where}: boxes[{n}]"), where)
    return found


def read_mmdet(value: Any, where: str, ids: Sequence[str]) -> dict[str, Boxes]:
    """Read one array ``(n, 4)``, or ``(n, 5)`` with scores, per image of ``ids``."""
    _require_sequence(value, where)
    if len(value) != len(ids):
        raise DataError(f"{where}: expected one array for each of the split's {len(ids):,} images, got {len(value):,}")
    return {image_id: _inclusive(b, f"{where}: [{n}]") for n, (image_id, b) in enumerate(zip(ids, value, strict=True))}


def read_coco(data: bytes, where: str, ids: Sequence[str], kind: str) -> dict[str, Boxes]:
    """Read COCO results; categories do not matter. Ids are numbers for VOC and COCO, else the ids themselves."""
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a readable JSON file: {error}") from error
    if not isinstance(entries, list):
        raise DataError(
            f"{where}: expected a list of results, got an object; an instances file holds true boxes, not these"
        )
    name_of: dict[Any, str] = {image_id: image_id for image_id in ids}
    if kind in ("voc", "coco"):
        name_of = dict(zip(numeric_ids(ids, kind), ids, strict=True))
    xywh: dict[str, list[Any]] = {}
    for n, entry in enumerate(entries):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        bbox = entry.get("bbox") if isinstance(entry, dict) else None
        if not isinstance(image, (int, str)) or not isinstance(bbox, list):
            raise DataError(f"{where}: [{n}]: expected image_id and bbox, got {_shown(entry)}")
        xywh.setdefault(name_of.get(image, str(image)), []).append(_four_numbers(bbox, f"{where}: [{n}]: bbox"))
    found = {}
    for image_id, rows in xywh.items():
        boxes = np.asarray(rows, np.float64)
        boxes[:, 2:] += boxes[:, :2]
        found[image_id] = boxes.astype(np.float32)
    return found


def read_selective_search(data: bytes, where: str) -> dict[str, Boxes]:
    """Read a MATLAB file up to version 7: ``boxes``, a cell of (y1 x1 y2 x2), inclusive and from 1, and ``images``, names."""
    import scipy.io

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other variables in the file
            held = scipy.io.loadmat(io.BytesIO(data), variable_names=("boxes", "images"))
    except NotImplementedError as error:
        raise DataError(f"{where}: a MATLAB 7.3 file; save it with -v7 (or read and export it with h5py)") from error
    except Exception as error:  # scipy's reader surfaces whatever a damaged file makes it stumble over
        raise DataError(f"{where}: not a readable MATLAB file ({type(error).__name__}: {error})") from error
    if "boxes" not in held or "images" not in held:
        raise DataError(
            f"{where}: expected the variables boxes and images, got {sorted(k for k in held if k[0] != '_')}"
        )
    cells, names = np.ravel(held["boxes"]), [_text(cell, where) for cell in np.ravel(held["images"])]
    if len(cells) != len(names):
        raise DataError(f"{where}: expected as many boxes as images, got {len(cells):,} and {len(names):,}")
    found: dict[str, Boxes] = {}
    for n, (name, cell) in enumerate(zip(names, cells, strict=True)):
        yxyx = _array(cell, f"{where}: boxes{{{n + 1}}}")[:, :4].astype(np.float64)
        _add(found, name, (yxyx[:, (1, 0, 3, 2)] - (1, 1, 0, 0)).astype(np.float32), where)
    return found


def _write(
    instance: Instance, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Boxes], source: str
) -> dict[str, int]:
    """Write one row per image, or one of ``_dropped`` where the image cannot be read; return the boxes' counts."""
    counts = {"boxes": 0, "clipped": 0, "discarded": 0}
    dropped = []
    with ThreadPoolExecutor(_READERS) as threads:
        for start in range(0, len(rows), _ROWS_PER_PART):
            part = rows[start : start + _ROWS_PER_PART]
            written = []
            for row, size in zip(part, threads.map(read_size, (row["uri"] for row in part)), strict=True):
                if isinstance(size, ImageError):
                    because = {"stage": "import", "reason": size.reason, "detail": size.detail}
                    dropped.append({**row, **because})
                    continue
                boxes = found.get(row["image_id"], np.zeros((0, 4), np.float32))
                proposals, clipped = to_proposals(boxes, size, source)
                counts["boxes"] += len(proposals)
                counts["clipped"] += clipped
                counts["discarded"] += len(boxes) - len(proposals)
                written.append(proposals_to_row(row["image_id"], row["split"], proposals))
            instance.table(PROPOSALS).write_rows(written, f"part-{start // _ROWS_PER_PART:05d}")
    if dropped:
        instance.dropped.write_rows([{name: row[name] for name in DROPPED.names} for row in dropped], "part-00000")
    return counts


def to_proposals(boxes_xyxy: Boxes, size_hw: tuple[int, int], source: str) -> tuple[Proposals, int]:
    """Clip boxes ``[N, 4]`` to their image, discard those without area; also return how many of the others were clipped."""
    height, width = size_hw
    clipped = np.clip(boxes_xyxy, 0, np.asarray([width, height, width, height], np.float32))
    kept = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    number = int(kept.sum())
    proposals = Proposals(
        size_hw=size_hw,
        boxes_xyxy=clipped[kept],
        source=[source] * number,
        prompt_index=np.full(number, -1, np.int32),
        mask_index=np.full(number, -1, np.int8),
        predicted_iou=np.full(number, np.nan, np.float32),
        discarded={(source, "no area"): len(kept) - number} if number < len(kept) else {},
    )
    return proposals, int((clipped != boxes_xyxy).any(axis=1)[kept].sum())


def read_size(uri: str) -> tuple[int, int] | ImageError:
    """Return (height, width) of an image upright, from its header alone, or why it cannot be read."""
    try:
        data = read_bytes(uri)
    except ImageError as error:
        return error
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            sideways = image.getexif().get(0x0112) in _SIDEWAYS
    except Exception as error:  # Pillow's readers raise whatever a damaged header makes them stumble over
        return ImageError("not an image" if data else "empty file", f"{type(error).__name__}: {error}")
    return (width, height) if sideways else (height, width)


def _inclusive(value: Any, where: str) -> Boxes:
    """Turn boxes with inclusive right and bottom, possibly followed by a score, into exclusive ones."""
    boxes = _array(value, where)[:, :4].astype(np.float64)
    boxes[:, 2:] += 1
    return boxes.astype(np.float32)


def _array(value: Any, where: str) -> NDArray[Any]:
    """Return boxes as an array ``[N, 4]`` or ``[N, 5]`` of finite numbers; lists of rows are accepted."""
    if isinstance(value, (list, tuple)):
        value = np.asarray([_four_numbers(row, where) for row in value], np.float64).reshape(-1, 4)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise DataError(f"{where}: expected an array of boxes, got {_shown(value)}")
    array = np.asarray(value)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise DataError(f"{where}: expected boxes of shape (n, 4), or (n, 5) with scores, got {array.shape}")
    if not (np.abs(array[:, :4].astype(np.float64)) <= _MAX_COORDINATE).all():
        raise DataError(f"{where}: expected coordinates within ±{_MAX_COORDINATE:,}, got NaN, infinity or larger ones")
    return array


def _four_numbers(value: Any, where: str) -> list[float]:
    is_row = isinstance(value, (list, tuple, np.ndarray)) and len(value) == 4
    numbers = (int, float, np.integer, np.floating)
    if not is_row or not all(isinstance(v, numbers) and -_MAX_COORDINATE <= v <= _MAX_COORDINATE for v in value):
        raise DataError(f"{where}: expected a box of four numbers within ±{_MAX_COORDINATE:,}, got {_shown(value)}")
    return [float(v) for v in value]


def _require_sequence(value: Any, where: str) -> None:
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim == 1):
        raise DataError(f"{where}: expected a list with one item per image, got {_shown(value)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) or (
        isinstance(value, (float, np.floating)) and float(value).is_integer()
    )


def _text(cell: Any, where: str) -> str:
    text = np.ravel(cell) if isinstance(cell, np.ndarray) else np.asarray([cell])
    if text.size != 1 or text.dtype.kind != "U":
        raise DataError(f"{where}: images: expected names, got {_shown(cell)}")
    return str(text[0])


def _add(found: dict[str, Boxes], image_id: str, boxes: Boxes, where: str) -> None:
    if image_id in found:
        raise DataError(f"{where}: image {image_id} stands in it twice")
    found[image_id] = boxes


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value):,}"
    return repr(value)[:60]
