"""``weaksam export`` of pseudo labels: boxes for other people's trainers, in the layouts that these read.

    coco    an instances JSON: images, annotations with bbox XYWH and score, categories with the data set's own ids
    voc     a folder: Annotations/STEM.xml, corners 1-based, inclusive and whole, and ImageSets/Main/SPLIT.txt
    yolo    a folder: labels/STEM.txt, lines of class, centre x, centre y, width, height as shares of the image; classes.txt

Images without any box are left out: a trainer would take them for background, and many show something. STEM is the image's id
without the suffix of an image file, characters that not every file system takes written as %XX: ``a/b.jpg`` becomes ``a%2Fb``.
COCO's ids of images that have no number count from 1. What the boxes are owed to (``supervision``) is written into COCO's
``info`` and VOC's ``source``.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from pipelines.export import finished_instance, image_ids, numeric_ids, open_whole
from pipelines.export_detections import category_ids_of
from pipelines.schemas import IMAGES, PSEUDO_LABELS, pseudo_labels_from_row
from pipelines.store import write_bytes
from weaksam.errors import DataError
from weaksam.files import join
from weaksam.images import IMAGE_SUFFIXES
from weaksam.structures import BOXES, PseudoGroundTruth

PseudoLabelFormat = Literal["coco", "voc", "yolo"]

_COLUMNS = ("image_id", "split", "size_hw", "boxes_xyxy", "class_index", "score", "score_normalised")
_UNSAFE = re.compile(r'^\.|[%/\\:*?"<>|\x00-\x1f]')  # in file names; a leading dot hides them


class LabelledImage(NamedTuple):
    """One image with pseudo ground truth."""

    image_id: str
    file_name: str
    size_hw: tuple[int, int]
    truth: PseudoGroundTruth


def run_export_pseudo_labels(
    run_uri: str,
    *,
    to: PseudoLabelFormat,
    split: str,
    out: str,
    instance: str = "label",
    missing: Literal["error", "empty"] = "error",
) -> dict[str, Any]:
    """Write one split's pseudo labels.

    Args:
        run_uri: the run.
        to: the format.
        split: whose images.
        out: the JSON file, or the folder of text files.
        instance: ``label`` or ``import.<name>``.
        missing: what becomes of images without a row, because they were dropped: "error", or "empty": left out.

    Returns:
        ``images`` written, ``boxes``, ``empty`` (images left out because they have no box), ``missing``, ``supervision`` and
        ``text``, a line for people.

    Raises:
        RunError: the run has no such finished instance.
        DataError: no image in the split, images without a row, or ids that the format cannot hold.
    """
    index, source = finished_instance(run_uri, "index"), finished_instance(run_uri, instance)
    kind, supervision = (index.manifest() or {})["kind"], (source.manifest() or {})["supervision"]
    ids = image_ids(index.table(IMAGES), kind, split)
    file_names = {
        row["image_id"]: row["image_id"] if kind == "folder" else posixpath.basename(row["uri"])
        for row in index.table(IMAGES).iter_rows(("image_id", "uri"))
    }
    table = source.table(PSEUDO_LABELS)
    rows = {row["image_id"]: row for row in table.iter_rows(_COLUMNS) if row["split"] == split}
    absent = [image_id for image_id in ids if image_id not in rows]
    if absent and missing == "error":
        raise DataError(
            f"{source.folder}: {len(absent):,} of {len(ids):,} images of split {split} have no pseudo labels "
            f"({', '.join(absent[:3])}): they were dropped or are not labelled; --missing empty leaves them out"
        )
    images = [
        LabelledImage(
            image_id, file_names[image_id], tuple(rows[image_id]["size_hw"]), pseudo_labels_from_row(rows[image_id])
        )
        for image_id in ids
        if image_id in rows and rows[image_id]["boxes_xyxy"]
    ]
    class_names = table.class_names()
    if to == "coco":
        write_coco(images, class_names, category_ids_of(run_uri, kind, class_names), kind, supervision, out)
    elif to == "voc":
        write_voc(images, class_names, split, supervision, out)
    else:
        write_yolo(images, class_names, out)
    boxes, empty = sum(len(image.truth) for image in images), len(ids) - len(absent) - len(images)
    note = f", {len(absent):,} without a row" if absent else ""
    return {
        "images": len(images),
        "boxes": boxes,
        "empty": empty,
        "missing": len(absent),
        "supervision": supervision,
        "text": f"{out}: {to} · images {len(images):,} (left out: {empty:,} without any box{note}) · boxes {boxes:,} · "
        f"supervision: {supervision}",
    }


def write_coco(
    images: Sequence[LabelledImage],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    kind: str,
    supervision: str,
    out: str,
) -> None:
    """Write an instances JSON."""
    numbers: Sequence[int] = range(1, len(images) + 1)
    if kind in ("voc", "coco"):
        numbers = numeric_ids([image.image_id for image in images], kind)
    entries, annotations = [], list[Mapping[str, Any]]()
    for number, image in zip(numbers, images, strict=True):
        height, width = image.size_hw
        entries.append({"id": number, "file_name": image.file_name, "height": height, "width": width})
        for (x1, y1, x2, y2), class_index, score in _boxes(image):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category_ids[class_index],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    document = {
        "info": {"description": _description(supervision), "supervision": supervision},
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)],
    }
    with open_whole(out) as file:
        file.write(json.dumps(document, ensure_ascii=False).encode())


def write_voc(
    images: Sequence[LabelledImage], class_names: Sequence[str], split: str, supervision: str, folder: str
) -> None:
    """Write an XML per image and the list of the split."""
    stems = file_stems([image.image_id for image in images])
    for stem, image in zip(stems, images, strict=True):
        write_bytes(join(folder, "Annotations", f"{stem}.xml"), voc_xml(image, class_names, supervision))
    lines = "".join(f"{stem}\n" for stem in stems)
    write_bytes(join(folder, "ImageSets", "Main", f"{file_stem(split)}.txt"), lines.encode())


def write_yolo(images: Sequence[LabelledImage], class_names: Sequence[str], folder: str) -> None:
    """Write a text file per image and the list of classes."""
    for stem, image in zip(file_stems([image.image_id for image in images]), images, strict=True):
        write_bytes(join(folder, "labels", f"{stem}.txt"), yolo_lines(image).encode())
    write_bytes(join(folder, "classes.txt"), "".join(f"{name}\n" for name in class_names).encode())


def voc_xml(image: LabelledImage, class_names: Sequence[str], supervision: str) -> bytes:
    """Return the XML of one image; boxes are rounded to whole pixels, at least one each way."""
    height, width = image.size_hw
    root = Element("annotation")
    _add(root, {"filename": image.file_name})
    _add(SubElement(root, "source"), {"annotation": _description(supervision), "supervision": supervision})
    _add(SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _add(root, {"segmented": 0})
    for box, class_index, score in _boxes(image):
        low = np.rint(box[:2]).clip(0, (width - 1, height - 1))
        high = np.rint(box[2:]).clip(low + 1, (width, height))
        item = SubElement(root, "object")
        _add(item, {"name": class_names[class_index], "pose": "Unspecified", "truncated": 0, "difficult": 0})
        _add(item, {"score": score})
        corners = (*(low + 1).astype(int).tolist(), *high.astype(int).tolist())
        _add(SubElement(item, "bndbox"), dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)))
    indent(root)
    xml: bytes = tostring(root, encoding="utf-8")
    return xml


def yolo_lines(image: LabelledImage) -> str:
    """Return class, centre, width and height of each box, a line each, as shares of the image's width and height."""
    height, width = image.size_hw
    return "".join(
        f"{class_index} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} "
        f"{(y2 - y1) / height:.6f}\n"
        for (x1, y1, x2, y2), class_index, _ in _boxes(image)
    )


def file_stems(ids: Sequence[str]) -> list[str]:
    """Return a file name without suffix for each image; raise DataError if two ids differ in their suffix alone."""
    first: dict[str, str] = {}
    for image_id in ids:
        other = first.setdefault(file_stem(image_id), image_id)
        if other != image_id:
            raise DataError(
                f"images {other!r} and {image_id!r} would share one file; rename one of them, or export to coco"
            )
    return list(first)


def file_stem(image_id: str) -> str:
    """Return the id without the suffix of an image file, unsafe characters as %XX."""
    stem, suffix = posixpath.splitext(image_id)
    name = stem if suffix.lower() in IMAGE_SUFFIXES else image_id
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", name)


def _boxes(image: LabelledImage) -> Iterable[tuple[list[float], int, float]]:
    truth = image.truth
    return zip(truth.boxes_xyxy.tolist(), truth.class_index.tolist(), truth.score.tolist(), strict=True)


def _description(supervision: str) -> str:
    return f"pseudo labels of weaksam, from {'true boxes' if supervision == BOXES else 'image labels alone'}"


def _add(parent: Element, texts: Mapping[str, Any]) -> None:
    for name, text in texts.items():
        SubElement(parent, name).text = str(text)
