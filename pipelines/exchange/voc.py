"""VOC's files, for its evaluation server and for trainers.

    detections     a folder of ``comp3_det_SPLIT_CLASS.txt``: image, score and box a line, 1-based, right and bottom inclusive
    labels         pseudo labels and predictions: a folder: Annotations/STEM.xml, corners 1-based, inclusive and whole,
                   ImageSets/Main/SPLIT.txt and JPEGImages/STEM.jpg (or what suffix the picture has); ``source`` says what the
                   boxes are owed to (``supervision``); where there are masks, SegmentationObject/STEM.png and
                   SegmentationClass/STEM.png, see ``voc_masks``, listed in ImageSets/Segmentation/SPLIT.txt

Files are called as the picture is (``pictures``), not by the image's id. VOC has no folders, so that STEM is the name without
the suffix, folders and characters that not every file system or list takes written as %XX: ``cam1/0001.jpg`` becomes
``cam1%2F0001``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from pipelines.exchange.content import LabelledImage, LabelledSplit, SplitDetections
from pipelines.exchange.export import Export, Target
from pipelines.exchange.file_names import file_stem, file_stems, safe_name, without_blanks
from pipelines.exchange.files import open_whole, recorded_export
from pipelines.exchange.pictures import pictures_of, place_pictures, plan_pictures
from pipelines.exchange.voc_masks import mask_pngs, numbered
from pipelines.store.files import write_bytes
from weaksam.datasets.voc_layout import CLASSES, OBJECTS
from weaksam.errors import DataError
from weaksam.io.files import join

_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # characters that no XML file may hold


def write_detections(content: SplitDetections, target: Target) -> str:
    """Write a file per class, also where nothing of it was found.

    Raises:
        DataError: two pictures would share one name, or ``recorded_export``'s.
    """
    names, split = pictures_of(content.of.index, content.of.split).names, safe_name(content.of.split)
    stems = [without_blanks(stem) for stem in file_stems([names[image_id] for image_id in content.images])]
    lines: dict[str, list[str]] = {name: [] for name in content.class_names}
    for stem, found in zip(stems, content.images.values(), strict=True):
        for box, class_index, score in zip(
            found.boxes_xyxy.tolist(), found.class_index.tolist(), found.score.tolist(), strict=True
        ):
            lines[content.class_names[class_index]].append(voc_line(stem, score, box))
    files = {name: f"comp3_det_{split}_{safe_name(name)}.txt" for name in content.class_names}
    with recorded_export(
        target.out, files.values(), to="voc-detections", split=split, overwrite=target.overwrite
    ) as replaced:
        for name, of_class in lines.items():
            with open_whole(join(target.out, files[name])) as file:
                file.write("".join(f"{line}\n" for line in of_class).encode())
    return " · replaced an earlier export" if replaced else ""


def voc_line(image_id: str, score: float, box_xyxy: Sequence[float]) -> str:
    """Return one line of VOC's text files: 1-based coordinates, right and bottom inclusive."""
    x1, y1, x2, y2 = box_xyxy
    return f"{image_id} {score:.6f} {x1 + 1:.2f} {y1 + 1:.2f} {x2:.2f} {y2:.2f}"


def write_labels(content: LabelledSplit, target: Target) -> str:
    """Write an XML per image, the list of the split, and the pictures; return in words what became of these.

    Raises:
        DataError: two pictures would share one file, or ``recorded_export``'s.
    """
    images, folder, split = content.images, target.out, file_stem(content.of.split)
    stems = [without_blanks(stem) for stem in file_stems([image.file_name for image in images])]
    files = [f"{stem}{posixpath.splitext(image.file_name)[1]}" for stem, image in zip(stems, images, strict=True)]
    places = [f"JPEGImages/{file}" for file in files]
    placement = plan_pictures([image.uri for image in images], places, folder, target.pictures)
    annotations = [f"Annotations/{stem}.xml" for stem in stems]
    masked = {
        stem: mask_pngs(image) for stem, image in zip(stems, images, strict=True) if image.found.mask_rle is not None
    }
    pngs = {
        numbered(folder_of_masks, stem): png
        for stem, both in masked.items()
        for folder_of_masks, png in zip((OBJECTS, CLASSES), both, strict=True)
    }
    lists = {f"ImageSets/Main/{split}.txt": stems}
    if masked:
        lists[f"ImageSets/Segmentation/{split}.txt"] = list(masked)
    to_write = [*annotations, *lists, *pngs, *placement.places]
    with recorded_export(folder, to_write, to="voc", split=split, overwrite=target.overwrite) as replaced:
        place_pictures(placement, folder)
        for path, file, image in zip(annotations, files, images, strict=True):
            xml = voc_xml(image._replace(file_name=file), content)
            write_bytes(join(folder, path), xml)
        for path, png in pngs.items():
            write_bytes(join(folder, path), png)
        for path, names in lists.items():
            write_bytes(join(folder, path), "".join(f"{stem}\n" for stem in names).encode())
    others = sorted({posixpath.splitext(file)[1] for file in files} - {".jpg"})
    put = f"\nnext: put the pictures under {join(folder, 'JPEGImages')} as <filename> says"
    return (
        f"\n{placement.text}"
        + (f" · replaced {replaced:,} files of an earlier export" if replaced else "")
        + (f" · some end in {', '.join(others)}: readers that ask for STEM.jpg miss them" if others else "")
        + (put if placement.absent else "")
    )


DETECTIONS = Export(write=write_detections, takes=("only",))
LABELS = Export(write=write_labels, takes=("pictures",))


def voc_xml(image: LabelledImage, of: LabelledSplit) -> bytes:
    """Return the XML of one image of a split; boxes are rounded to whole pixels, at least one each way."""
    wrong = next((name for name in of.class_names if _NOT_XML.search(name)), None)
    if wrong is not None:
        raise DataError(f"class {wrong!r}: expected characters that XML can hold; rename the class, or export as coco")
    height, width = image.size_hw
    root = Element("annotation")
    _add(root, {"filename": image.file_name})
    _add(SubElement(root, "source"), {"annotation": of.description, "supervision": of.supervision})
    _add(SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _add(root, {"segmented": 0 if image.found.mask_rle is None else 1})
    for box, class_index, score in image.boxes():
        low = np.rint(box[:2]).clip(0, (width - 1, height - 1))
        high = np.rint(box[2:]).clip(low + 1, (width, height))
        item = SubElement(root, "object")
        _add(item, {"name": of.class_names[class_index], "pose": "Unspecified", "truncated": 0, "difficult": 0})
        _add(item, {"score": score})
        corners = (*(low + 1).astype(int).tolist(), *high.astype(int).tolist())
        _add(SubElement(item, "bndbox"), dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)))
    indent(root)
    xml: bytes = tostring(root, encoding="utf-8")
    return xml


def _add(parent: Element, texts: Mapping[str, Any]) -> None:
    for name, text in texts.items():
        SubElement(parent, name).text = str(text)
