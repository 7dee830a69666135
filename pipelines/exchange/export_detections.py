"""``weaksam export`` of detections: what the evaluation servers of VOC and COCO take.

    voc     a folder of ``comp3_det_SPLIT_CLASS.txt``: image, score and box a line, 1-based, right and bottom inclusive;
            images are called as in the lists of the ``voc`` export of pseudo labels: by their stems
    coco    JSON [{image_id, category_id, bbox XYWH, score}, …]; category ids are the data set's own, of VOC 1..C

``only`` narrows a split to some of its images: COCO's minival is a part of val2014, for instance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pipelines.exchange.export_files import begin_folder, open_whole, require_new_file
from pipelines.exchange.export_layout import file_stems, safe_name, without_blanks
from pipelines.exchange.export_pictures import pictures_of
from pipelines.exchange.export_proposals import finished_instance, image_ids, number_of, numbers_if_all
from pipelines.recipe.model import load_recipe
from pipelines.store.schemas import DETECTIONS, IMAGES, detections_from_row
from weaksam.errors import DataError
from weaksam.io.files import join, read_text
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
    overwrite: bool = False,
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
        overwrite: replace an earlier export, see ``export_files``.

    Returns:
        ``images``, ``detections``, ``missing`` and ``text``, a line for people.

    Raises:
        RunError: the run has no such finished instance.
        DataError: no image in the split or in ``only``, an image without detections, an id that the format cannot hold, or
            files that are there already.
    """
    index, source = finished_instance(run_uri, "index"), finished_instance(run_uri, instance)
    kind = (index.manifest() or {})["kind"]
    ids = image_ids(index.table(IMAGES), kind, split)
    if only:
        ids = narrow(ids, only, kind)
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
        names = pictures_of(index, split).names
        stems = [without_blanks(stem) for stem in file_stems([names[image_id] for image_id, _ in present])]
        results = [(stem, detections) for stem, (_, detections) in zip(stems, present, strict=True)]
        replaced = _write_voc(results, table.class_names(), safe_name(split), out, overwrite=overwrite)
    else:
        replaced = require_new_file(out, overwrite=overwrite)
        _write_coco(present, category_ids_of(run_uri, kind, table.class_names()), kind, out)
    total = sum(len(detections) for _, detections in present)
    before = " · replaced an earlier export" if replaced else ""
    note = f" ({len(absent):,} without detections left out)" if absent else ""
    return {
        "images": len(ids),
        "detections": total,
        "missing": len(absent),
        "text": f"{out}: {to} · images {len(ids):,}{note} · detections {total:,}{before}",
    }


def narrow(ids: Sequence[str], only: str, kind: str = "coco") -> list[str]:
    """Return those of ``ids`` that a list of ids or a COCO instances file names, in their order.

    Raises:
        DataError: the file cannot be read, or names an image that the split does not have.
    """
    try:
        text = read_text(only)
    except DataError as error:
        raise DataError(f"--only: expected a text file of image ids or a COCO instances file: {error}") from error
    of_name: dict[str | int, str] = {image_id: image_id for image_id in ids}
    named: list[str | int] = [line.strip() for line in text.splitlines() if line.strip()]
    if only.endswith(".json"):
        named = _ids_of_instances(text, only)
        numbers = ((number_of(image_id, kind), image_id) for image_id in ids)
        of_name |= {number: image_id for number, image_id in numbers if number is not None}
    kept = {of_name[name] for name in named if name in of_name}
    unknown = [name for name in named if name not in of_name]
    if not kept:
        raise DataError(f"{only}: names none of the split's {len(ids):,} images, which are like {ids[0]!r}")
    if unknown:
        raise DataError(
            f"{only}: {len(unknown):,} of its {len(named):,} images are not in the split (such as {str(unknown[0])[:40]!a}); "
            "name the split that they are of, or take them out"
        )
    return [image_id for image_id in ids if image_id in kept]


def _ids_of_instances(text: str, only: str) -> list[str | int]:
    try:
        ids = [image["id"] for image in json.loads(text)["images"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{only}: expected COCO's instances with a list of images ({error!r})") from error
    wrong = next(
        (image_id for image_id in ids if not isinstance(image_id, (int, str)) or isinstance(image_id, bool)), None
    )
    if wrong is not None:
        raise DataError(f"{only}: expected numbers or text as ids of images, got {wrong!r:.40}")
    return ids


def voc_line(image_id: str, score: float, box_xyxy: Sequence[float]) -> str:
    """Return one line of VOC's text files: 1-based coordinates, right and bottom inclusive."""
    x1, y1, x2, y2 = box_xyxy
    return f"{image_id} {score:.6f} {x1 + 1:.2f} {y1 + 1:.2f} {x2:.2f} {y2:.2f}"


def _write_voc(
    images: Sequence[tuple[str, Detections]], class_names: Sequence[str], split: str, folder: str, *, overwrite: bool
) -> int:
    lines: dict[str, list[str]] = {name: [] for name in class_names}
    for stem, found in images:
        for box, class_index, score in zip(
            found.boxes_xyxy.tolist(), found.class_index.tolist(), found.score.tolist(), strict=True
        ):
            lines[class_names[class_index]].append(voc_line(stem, score, box))
    files = {name: f"comp3_det_{split}_{safe_name(name)}.txt" for name in class_names}
    replaced = begin_folder(folder, files.values(), to="voc-detections", split=split, overwrite=overwrite)
    for name, of_class in lines.items():
        with open_whole(join(folder, files[name])) as file:
            file.write("".join(f"{line}\n" for line in of_class).encode())
    return replaced


def _write_coco(images: Sequence[tuple[str, Detections]], category_ids: Sequence[int], kind: str, out: str) -> None:
    ids = [image_id for image_id, _ in images]
    numbers: Sequence[int | str] = numbers_if_all(ids, kind) or ids
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
    if dataset.class_names != tuple(class_names):
        raise DataError(
            f"{run_uri}: the classes of its tables are not those of the data set any more, so that their ids are unknown; run "
            "`weaksam run` on it again, or put the annotations back"
        )
    return dataset.category_ids
