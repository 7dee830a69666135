"""``weaksam export`` of pseudo labels: boxes for other people's trainers, in the layouts that these read.

    coco    an instances JSON: images, annotations with bbox XYWH and score, categories with the data set's own ids
    voc     a folder: Annotations/STEM.xml, corners 1-based, inclusive and whole, ImageSets/Main/SPLIT.txt and
            JPEGImages/STEM.jpg (or what suffix the picture has)
    yolo    a folder for Ultralytics' YOLO, see ``export_yolo``

Files are called as the picture is (``export_pictures``), not by the image's id. COCO and YOLO keep folders; VOC has none, so
that its STEM is the name without the suffix, folders and characters that not every file system or list takes written as %XX:
``cam1/0001.jpg`` becomes ``cam1%2F0001``. Images without any box are left out: a trainer would take them for background, and
many show something. COCO's ids of images that have no number count from 1. What the boxes are owed to (``supervision``) is
written into COCO's ``info``, VOC's ``source`` and YOLO's ``data.yaml``.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from pipelines.exchange.export_detections import category_ids_of
from pipelines.exchange.export_files import begin_folder, open_whole, require_new_file
from pipelines.exchange.export_layout import LabelledImage, boxes_of, describe, file_stem, file_stems, without_blanks
from pipelines.exchange.export_pictures import PictureMode, pictures_of, place_pictures, plan_pictures
from pipelines.exchange.export_proposals import finished_instance, image_ids, numbers_if_all
from pipelines.exchange.export_yolo import write_yolo
from pipelines.store.schemas import IMAGES, PSEUDO_LABELS, pseudo_labels_from_row
from pipelines.store.tables import write_bytes
from weaksam.errors import DataError
from weaksam.io.files import join

PseudoLabelFormat = Literal["coco", "voc", "yolo"]

_COLUMNS = ("image_id", "split", "size_hw", "boxes_xyxy", "class_index", "score", "score_normalised")
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # characters that no XML file may hold


def run_export_pseudo_labels(
    run_uri: str,
    *,
    to: PseudoLabelFormat,
    split: str,
    out: str,
    instance: str = "label",
    missing: Literal["error", "empty"] = "error",
    pictures: PictureMode = "link",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write one split's pseudo labels.

    Args:
        run_uri: the run.
        to: the format.
        split: whose images.
        out: the JSON file, or the folder of text files.
        instance: ``label`` or ``import.<name>``.
        missing: what becomes of images without a row, because they were dropped: "error", or "empty": left out.
        pictures: "link" or "copy" them to where the readers of ``voc`` and ``yolo`` look, or "none".
        overwrite: replace an earlier export, see ``export_files``.

    Returns:
        ``images`` written, ``boxes``, ``empty`` (images left out because they have no box), ``missing``, ``supervision`` and
        ``text``, lines for people.

    Raises:
        RunError: the run has no such finished instance.
        DataError: no image in the split, images without a row, names that the format cannot hold or tell apart, or files
            that are there already.
    """
    index, source = finished_instance(run_uri, "index"), finished_instance(run_uri, instance)
    kind, supervision = (index.manifest() or {})["kind"], (source.manifest() or {})["supervision"]
    ids = image_ids(index.table(IMAGES), kind, split)
    named = pictures_of(index, split)
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
            image_id,
            named.names[image_id],
            tuple(rows[image_id]["size_hw"]),
            pseudo_labels_from_row(rows[image_id]),
            named.uris[image_id],
        )
        for image_id in ids
        if image_id in rows and rows[image_id]["boxes_xyxy"]
    ]
    class_names = table.class_names()
    if to == "coco":
        replaced = " · replaced an earlier file" if require_new_file(out, overwrite=overwrite) else ""
        write_coco(images, class_names, category_ids_of(run_uri, kind, class_names), kind, supervision, out)
        more = f"next: hand it to a trainer with {named.root or 'a folder of the drawn pictures'} as its pictures{replaced}"
    elif to == "voc":
        more = write_voc(images, class_names, split, supervision, out, pictures=pictures, overwrite=overwrite)
    else:
        more = write_yolo(images, class_names, split, supervision, out, pictures=pictures, overwrite=overwrite)
    boxes, empty = sum(len(image.truth) for image in images), len(ids) - len(absent) - len(images)
    note = f", {len(absent):,} without a row" if absent else ""
    return {
        "images": len(images),
        "boxes": boxes,
        "empty": empty,
        "missing": len(absent),
        "supervision": supervision,
        "text": f"{out}: {to} · images {len(images):,} (left out: {empty:,} without any box{note}) · boxes {boxes:,} · "
        f"supervision: {supervision}\n{more}",
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
    numbers = numbers_if_all([image.image_id for image in images], kind) or range(1, len(images) + 1)
    entries, annotations = [], list[Mapping[str, Any]]()
    for number, image in zip(numbers, images, strict=True):
        height, width = image.size_hw
        entries.append({"id": number, "file_name": image.file_name, "height": height, "width": width})
        for (x1, y1, x2, y2), class_index, score in boxes_of(image):
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
        "info": {"description": describe(supervision), "supervision": supervision},
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)],
    }
    with open_whole(out) as file:
        file.write(json.dumps(document, ensure_ascii=False).encode())


def write_voc(
    images: Sequence[LabelledImage],
    class_names: Sequence[str],
    split: str,
    supervision: str,
    folder: str,
    *,
    pictures: PictureMode = "link",
    overwrite: bool = False,
) -> str:
    """Write an XML per image, the list of the split, and the pictures; return in words what became of these.

    Raises:
        DataError: two pictures would share one file, or ``begin_folder``'s.
    """
    stems = [without_blanks(stem) for stem in file_stems([image.file_name for image in images])]
    files = [f"{stem}{posixpath.splitext(image.file_name)[1]}" for stem, image in zip(stems, images, strict=True)]
    placement = plan_pictures([i.uri for i in images], [f"JPEGImages/{file}" for file in files], folder, pictures)
    listed = f"ImageSets/Main/{file_stem(split)}.txt"
    annotations = [f"Annotations/{stem}.xml" for stem in stems]
    to_write = [*annotations, listed, *placement.places]
    replaced = begin_folder(folder, to_write, to="voc", split=file_stem(split), overwrite=overwrite)
    place_pictures(placement, folder)
    for path, file, image in zip(annotations, files, images, strict=True):
        write_bytes(join(folder, path), voc_xml(image._replace(file_name=file), class_names, supervision))
    write_bytes(join(folder, listed), "".join(f"{stem}\n" for stem in stems).encode())
    others = sorted({posixpath.splitext(file)[1] for file in files} - {".jpg"})
    return placement.text + (
        (f" · replaced {replaced:,} files of an earlier export" if replaced else "")
        + (f" · some end in {', '.join(others)}: readers that ask for STEM.jpg miss them" if others else "")
        + (
            f"\nnext: put the pictures under {join(folder, 'JPEGImages')} as <filename> says"
            if placement.absent
            else ""
        )
    )


def voc_xml(image: LabelledImage, class_names: Sequence[str], supervision: str) -> bytes:
    """Return the XML of one image; boxes are rounded to whole pixels, at least one each way."""
    wrong = next((name for name in class_names if _NOT_XML.search(name)), None)
    if wrong is not None:
        raise DataError(f"class {wrong!r}: expected characters that XML can hold; rename the class, or export as coco")
    height, width = image.size_hw
    root = Element("annotation")
    _add(root, {"filename": image.file_name})
    _add(SubElement(root, "source"), {"annotation": describe(supervision), "supervision": supervision})
    _add(SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _add(root, {"segmented": 0})
    for box, class_index, score in boxes_of(image):
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


def _add(parent: Element, texts: Mapping[str, Any]) -> None:
    for name, text in texts.items():
        SubElement(parent, name).text = str(text)
