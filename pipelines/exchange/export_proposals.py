"""``weaksam export``: proposals in the formats that other code bases read (method 3.6).

    wetectron   pickle {boxes, scores, indexes}   VOC: boxes uint16, scores (n,); COCO: boxes float32, scores (n, 1); all 1
    mmdet       pickle [boxes float32 (n, 4), …]  one array per image
    coco        JSON [{image_id, category_id, bbox, score}, …], class-agnostic: category 1, score = SAM's predicted IoU or 1

Images stand in the data set's order (VOC: the split file's), for COCO in ascending id. In the pickles boxes are XYXY with
*inclusive* right and bottom, cut down to whole pixels: their readers pass them through uint16, so that negative or larger
coordinates are errors here. COCO boxes are XYWH with fractions kept. ``indexes`` are numbers: ``000005`` is 5 and
``2008_000008`` is 2008000008. The pickles name numpy by the path that every version of it understands.

The text files of peaks (method 2.2) need the value of each peak, which the table does not keep: they are not written.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from typing import IO, Any, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.exchange.export_files import open_whole, require_new_file
from pipelines.store.instances import Instance, current_instance
from pipelines.store.schemas import IMAGES, PROPOSALS
from pipelines.store.tables import Table
from weaksam.errors import DataError, RunError

Format = Literal["wetectron", "mmdet", "coco"]

_COLUMNS = ("image_id", "split", "boxes_xyxy", "predicted_iou")
_PICKLE_PROTOCOL = 4  # Python 3.4 and later


def run_export(
    run_uri: str,
    *,
    to: Format,
    split: str,
    out: str,
    instance: str = "propose",
    missing: Literal["error", "empty"] = "error",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write one split's proposals to the file ``out``.

    Args:
        run_uri: the run.
        to: the format.
        split: whose images.
        out: path or address of the file; a local one appears whole or not at all.
        instance: which proposals: ``propose`` or ``import.<name>``.
        missing: what becomes of images without proposals, because they were dropped: "error", or "empty": no boxes.
        overwrite: replace a file that is there.

    Returns:
        ``images``, ``boxes``, ``empty`` (images without any box), ``missing`` and ``text``, a line for people.

    Raises:
        RunError: the run has no such finished instance.
        DataError: no image in the split, images without proposals, ids or coordinates that the format cannot hold, or a
            file that is there already.
    """
    index, source = finished_instance(run_uri, "index"), finished_instance(run_uri, instance)
    kind = (index.manifest() or {})["kind"]
    ids = image_ids(index.table(IMAGES), kind, split)
    boxes, scores = read_split(source.table(PROPOSALS), split)
    absent = [image_id for image_id in ids if image_id not in boxes]
    if absent and missing == "error":
        raise DataError(
            f"{source.folder}: {len(absent):,} of {len(ids):,} images of split {split} have no proposals ({_some(absent)}): "
            f"they were dropped or are not asked for; --missing empty writes them without boxes"
        )
    replaced = " · replaced an earlier file" if require_new_file(out, overwrite=overwrite) else ""
    no_box = np.zeros((0, 4), np.float32)
    ordered = [boxes.get(image_id, no_box) for image_id in ids]
    with open_whole(out) as file:
        if to == "wetectron":
            write_pickle(wetectron(ids, ordered, kind), file)
        elif to == "mmdet":
            write_pickle([whole_pixels(b, image_id) for image_id, b in zip(ids, ordered, strict=True)], file)
        else:
            write_coco(ids, ordered, [scores.get(image_id) for image_id in ids], kind, file)
    total, empty = sum(map(len, ordered)), sum(len(b) == 0 for b in ordered)
    note = f" · {len(absent):,} missing written as empty" if absent else ""
    return {
        "images": len(ids),
        "boxes": total,
        "empty": empty,
        "missing": len(absent),
        "text": f"{out}: {to} · images {len(ids):,} ({empty:,} without a box{note}) · boxes {total:,}{replaced}",
    }


def finished_instance(run_uri: str, name: str) -> Instance:
    """Return the current instance of this name; raise RunError unless it is finished."""
    instance = current_instance(run_uri, name)
    if instance is None or instance.manifest() is None:
        state = "has not been run" if instance is None else "is not finished"
        raise RunError(f"{run_uri}: {name} {state}; run {Instance(run_uri, name, '').mended_by} first")
    return instance


def image_ids(images: Table, kind: str, split: str) -> list[str]:
    """Return the ids of a split in the order of the formats: ascending for COCO, else the data set's own."""
    rows = images.read(("image_id", "split")).to_pylist()
    ids = [row["image_id"] for row in rows if row["split"] == split]
    if not ids:
        raise DataError(
            f"{images.folder}: no image in split {split!r}; it has {', '.join(sorted({r['split'] for r in rows}))}"
        )
    if kind != "coco":
        return ids
    return [image_id for _, image_id in sorted(zip(numeric_ids(ids, kind), ids, strict=True))]


def numeric_ids(ids: Sequence[str], kind: str) -> list[int]:
    """Return the number of each image in ``indexes``; raise DataError for ids that have none or share one."""
    numbers = []
    for image_id in ids:
        number = number_of(image_id, kind)
        if number is None:
            raise DataError(
                f"image {image_id!r} of a {kind} data set has no number, by which this format knows images; export as coco"
            )
        numbers.append(number)
    if len(set(numbers)) < len(numbers):
        twice = next(i for i, n in zip(ids, numbers, strict=True) if numbers.count(n) > 1)
        raise DataError(
            f"image {twice!r} and another image have the same number, by which this format knows images; export as coco"
        )
    return numbers


def numbers_if_all(ids: Sequence[str], kind: str) -> list[int] | None:
    """Return the number of each image, or None unless every one has a number of its own."""
    numbers = {number for number in (number_of(image_id, kind) for image_id in ids) if number is not None}
    return numeric_ids(ids, kind) if len(numbers) == len(ids) else None


def number_of(image_id: str, kind: str) -> int | None:
    """Return the number in an image's id: all its digits for VOC, COCO's own for COCO (``139``, ``valid/139``); or None."""
    digits = {"voc": image_id.replace("_", ""), "coco": image_id.rpartition("/")[2]}.get(kind, "")
    return int(digits) if digits.isdecimal() else None


def read_split(proposals: Table, split: str) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Return the boxes ``[N, 4]``, XYXY exclusive, and predicted IoUs ``[N]`` of a split's images by id, file by file."""
    boxes: dict[str, NDArray[np.float32]] = {}
    scores: dict[str, NDArray[np.float32]] = {}
    for part in proposals.iter_parts(_COLUMNS):
        rows = part.filter(pc.equal(part["split"], split)).combine_chunks()
        column = rows["boxes_xyxy"].combine_chunks()
        ends = np.cumsum(pc.list_value_length(column).to_numpy(zero_copy_only=False))[:-1]
        flat = column.flatten().flatten().to_numpy().reshape(-1, 4)
        ious = rows["predicted_iou"].combine_chunks().flatten().to_numpy()
        ids = rows["image_id"].to_pylist()
        boxes.update(zip(ids, np.split(flat, ends), strict=False))
        scores.update(zip(ids, np.split(ious, ends), strict=False))
    return boxes, scores


def wetectron(ids: Sequence[str], boxes: Sequence[NDArray[np.float32]], kind: str) -> dict[str, list[Any]]:
    """Return wetectron's structure; ``boxes`` are XYXY exclusive in the order of ``ids``."""
    is_voc = kind == "voc"
    return {
        "boxes": [
            whole_pixels(b, image_id).astype(np.uint16 if is_voc else np.float32)
            for image_id, b in zip(ids, boxes, strict=True)
        ],
        "scores": [np.ones(len(b) if is_voc else (len(b), 1), np.float32) for b in boxes],
        "indexes": numeric_ids(ids, kind),
    }


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


def write_coco(
    ids: Sequence[str],
    boxes: Sequence[NDArray[np.float32]],
    scores: Sequence[NDArray[np.float32] | None],
    kind: str,
    file: IO[bytes],
) -> None:
    """Write COCO results, one box a line. Ids are numbers where all images have one (VOC, COCO), and else stay text."""
    numbers: Sequence[int | str] = numbers_if_all(ids, kind) or ids
    file.write(b"[")
    separator = "\n"
    for number, image_boxes, image_scores in zip(numbers, boxes, scores, strict=True):
        if image_scores is None:
            continue  # an image without proposals has no line either way
        sizes = image_boxes[:, 2:] - image_boxes[:, :2]
        xywh = np.concatenate([image_boxes[:, :2], sizes], axis=1).tolist()
        for bbox, score in zip(xywh, np.where(np.isnan(image_scores), 1.0, image_scores).tolist(), strict=True):
            line = {"image_id": number, "category_id": 1, "bbox": bbox, "score": score}
            file.write(f"{separator}{json.dumps(line)}".encode())
            separator = ",\n"
    file.write(b"\n]\n")


def write_pickle(value: Mapping[str, Any] | Sequence[Any], file: IO[bytes]) -> None:
    """Pickle arrays, lists, dicts and numbers so that numpy 1 and 2 can both read them."""
    _Pickler(file, _PICKLE_PROTOCOL).dump(value)


_Machine: Any = pickle._Pickler


class _Pickler(_Machine):  # type: ignore[misc]
    """Names ``numpy.core``, an alias that numpy 2 keeps for old files, where numpy 2 would name ``numpy._core``."""

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = getattr(value, "__module__", "")
        if module is not None and module.startswith("numpy._core."):
            self.write(pickle.GLOBAL + f"{module.replace('_core', 'core')}\n{value.__qualname__}\n".encode())
            self.memoize(value)
        else:
            super().save_global(value, name)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
