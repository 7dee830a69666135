"""``weaksam export`` of detections: what the evaluation servers of VOC and COCO take.

    voc     a folder of ``comp3_det_SPLIT_CLASS.txt``: image id, score and box a line, 1-based, right and bottom inclusive
    coco    JSON [{image_id, category_id, bbox XYWH, score}, …]; category ids are the data set's own, of VOC 1..C

``only`` narrows a split to some of its images: COCO's minival is a part of val2014, for instance.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from typing import Any, Literal

from pipelines.export import finished_instance, image_ids, numeric_ids, open_whole
from pipelines.recipe import load_recipe
from pipelines.schemas import DETECTIONS, IMAGES, detections_from_row
from weaksam.errors import DataError
from weaksam.files import join, open_fs
from weaksam.structures import Detections

DetectionFormat = Literal["voc", "coco"]


def run_export_detections(
    run_uri: str,
    *,
    to: DetectionFormat,
    split: str,
    out: str,
    instance: str,
    missing: Literal["error", "empty"] = "error",
    only: str = "",
) -> dict[str, Any]:
    """Write one split's detections.

    Args:
        run_uri: the run.
        to: the format.
        split: whose images.
        out: the JSON file, or the folder of text files.
        instance: ``detect.<name>``.
        missing: what becomes of images without detections' row, because they were dropped: "error" or "empty".
        only: a file of image ids, one a line, or a COCO instances file, whose images are meant; empty = all.

    Returns:
        ``images``, ``detections``, ``missing`` and ``text``, a line for people.

    Raises:
        RunError: the run has no such finished instance.
        DataError: no image in the split or in ``only``, an image without detections, or an id that the format cannot hold.
    """
    index, source = finished_instance(run_uri, "index"), finished_instance(run_uri, instance)
    kind = (index.manifest() or {})["kind"]
    ids = image_ids(index.table(IMAGES), kind, split)
    if only:
        ids = narrow(ids, only)
    table = source.table(DETECTIONS)
    wanted = set(ids)
    found = {
        row["image_id"]: detections_from_row(row)
        for row in table.iter_rows()
        if row["split"] == split and row["image_id"] in wanted
    }
    absent = [image_id for image_id in ids if image_id not in found]
    if absent and missing == "error":
        raise DataError(
            f"{source.folder}: {len(absent):,} of {len(ids):,} images of split {split} have no detections "
            f"({', '.join(absent[:3])}): they were dropped or are not asked for; --missing empty leaves them out"
        )
    present = [(image_id, found[image_id]) for image_id in ids if image_id in found]
    if to == "voc":
        _write_voc(present, table.class_names(), split, out)
    else:
        _write_coco(present, category_ids_of(run_uri, kind, table.class_names()), kind, out)
    total = sum(len(detections) for _, detections in present)
    note = f" ({len(absent):,} without detections left out)" if absent else ""
    return {
        "images": len(ids),
        "detections": total,
        "missing": len(absent),
        "text": f"{out}: {to} · images {len(ids):,}{note} · detections {total:,}",
    }


def narrow(ids: Sequence[str], only: str) -> list[str]:
    """Return those of ``ids`` that a list of ids or a COCO instances file names, in their order."""
    fs, path = open_fs(only)
    try:
        text = fs.cat_file(path).decode()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise DataError(f"{only}: expected a text file of image ids or a COCO instances file ({error})") from error
    if only.endswith(".json"):
        try:
            named = {str(image["id"]) for image in json.loads(text)["images"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{only}: expected COCO's instances with a list of images ({error!r})") from error
    else:
        named = {line.strip() for line in text.splitlines() if line.strip()}
    kept = [image_id for image_id in ids if image_id in named]
    if not kept:
        raise DataError(f"{only}: names none of the split's {len(ids):,} images, which are like {ids[0]!r}")
    return kept


def voc_line(image_id: str, score: float, box_xyxy: Sequence[float]) -> str:
    """Return one line of VOC's text files: 1-based coordinates, right and bottom inclusive."""
    x1, y1, x2, y2 = box_xyxy
    return f"{image_id} {score:.6f} {x1 + 1:.2f} {y1 + 1:.2f} {x2:.2f} {y2:.2f}"


def _write_voc(images: Sequence[tuple[str, Detections]], class_names: Sequence[str], split: str, folder: str) -> None:
    lines: dict[str, list[str]] = {name: [] for name in class_names}
    for image_id, found in images:
        for box, class_index, score in zip(
            found.boxes_xyxy.tolist(), found.class_index.tolist(), found.score.tolist(), strict=True
        ):
            lines[class_names[class_index]].append(voc_line(image_id, score, box))
    for name, of_class in lines.items():
        with open_whole(join(folder, f"comp3_det_{split}_{posixpath.basename(name)}.txt")) as file:
            file.write("".join(f"{line}\n" for line in of_class).encode())


def _write_coco(images: Sequence[tuple[str, Detections]], category_ids: Sequence[int], kind: str, out: str) -> None:
    ids = [image_id for image_id, _ in images]
    numbers: Sequence[int | str] = numeric_ids(ids, kind) if kind in ("voc", "coco") else ids
    with open_whole(out) as file:
        file.write(b"[")
        separator = "\n"
        for number, (_, found) in zip(numbers, images, strict=True):
            for box, class_index, score in zip(
                found.boxes_xyxy.tolist(), found.class_index.tolist(), found.score.tolist(), strict=True
            ):
                x1, y1, x2, y2 = box
                line = {
                    "image_id": number,
                    "category_id": category_ids[class_index],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
                file.write(f"{separator}{json.dumps(line)}".encode())
                separator = ",\n"
        file.write(b"\n]\n")


def category_ids_of(run_uri: str, kind: str, class_names: Sequence[str]) -> Sequence[int]:
    """Return the data set's own id of each class, 1..C where it has none."""
    if kind != "coco":
        return range(1, len(class_names) + 1)
    from weaksam.datasets import open_dataset
    from weaksam.datasets.coco import CocoDataset

    dataset = open_dataset(load_recipe(join(run_uri, "recipe.yaml"))[0].data)
    assert isinstance(dataset, CocoDataset)
    return dataset.category_ids
