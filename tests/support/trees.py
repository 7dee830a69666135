"""Small data sets on disk, in every supported layout, made of drawn images with exact boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from weaksam.datasets.shapes import CLASS_NAMES, Drawing, data_set_seed, draw

SIZE = 64  # pixels, width and height
FIRST_CATEGORY_ID = 3  # COCO's category ids need not begin at 1


def build_voc_tree(root: Path, counts: Mapping[str, int] | None = None) -> Path:
    """A devkit's year: images 000001.jpg, … over splits of ``counts`` images each."""
    counts = counts or {"trainval": 4, "test": 3}
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[str]] = {split: [] for split in counts}
    for split, number, drawing in _drawings(counts):
        stem = f"{number:06d}"
        lists[split].append(stem)
        Image.fromarray(drawing.image).save(root / "JPEGImages" / f"{stem}.jpg")
        objects = [
            voc_object(CLASS_NAMES[c], box, difficult=bool(d))
            for c, box, d in zip(drawing.class_index, drawing.boxes_xyxy.tolist(), drawing.difficult, strict=True)
        ]
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(*objects))
    for split, stems in lists.items():
        write_list(root, split, *stems)
    return root


def build_coco_tree(root: Path, counts: Mapping[str, int] | None = None) -> Path:
    """Instances files and one folder of images per split."""
    counts = counts or {"train2017": 4, "val2017": 3}
    documents = {split: coco_document() for split in counts}
    for split, number, drawing in _drawings(counts):
        document, name = documents[split], f"{number:012d}.jpg"
        (root / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawing.image).save(root / split / name)
        document["images"].append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        for c, (x1, y1, x2, y2) in zip(drawing.class_index, drawing.boxes_xyxy.tolist(), strict=True):
            annotation_id = 1 + len(document["annotations"])
            document["annotations"].append(
                {
                    "id": annotation_id,
                    "image_id": number,
                    "category_id": int(c) + FIRST_CATEGORY_ID,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": int(annotation_id % 5 == 0),
                }
            )
    for split, document in documents.items():
        write_json(root, split, document)
    return root


def build_folder_tree(root: Path, count: int = 5) -> Path:
    """Images in two sub-folders with ``labels.csv``; the last image has no row."""
    rows = ["path,labels"]
    for _, number, drawing in _drawings({"all": count}):
        path = f"{'even' if number % 2 == 0 else 'odd'}/{number}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawing.image).save(root / path)
        if number < count:
            rows.append(f"{path},{';'.join(CLASS_NAMES[c] for c in sorted(set(drawing.class_index)))}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def voc_object(name: str, box_xyxy: Any, *, difficult: bool = False) -> str:
    """The XML of one object from its exclusive box."""
    x1, y1, x2, y2 = box_xyxy
    corners = f"<xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax><ymax>{y2:g}</ymax>"
    return f"<object><name>{name}</name><difficult>{difficult:d}</difficult><bndbox>{corners}</bndbox></object>"


def voc_xml(
    *objects: str, size: str = f"<size><width>{SIZE}</width><height>{SIZE}</height><depth>3</depth></size>"
) -> str:
    """One annotation file."""
    return f"<annotation><filename>OTHER.JPG</filename>{size}{''.join(objects)}</annotation>\n"


def write_list(root: Path, split: str, *lines: str) -> None:
    """Write one of VOC's split lists."""
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))


def coco_document() -> dict[str, list[dict[str, Any]]]:
    """An instances file without images, its categories in no particular order."""
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES, start=FIRST_CATEGORY_ID)]
    return {"images": [], "annotations": [], "categories": categories[::-1]}


def write_json(root: Path, split: str, document: Any) -> None:
    """Write one of COCO's instances files."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _drawings(counts: Mapping[str, int]) -> Iterator[tuple[str, int, Drawing]]:
    """(split, running number from 1, drawing) of every image."""
    number = 0
    for split, count in counts.items():
        for _ in range(count):
            number += 1
            yield split, number, draw(data_set_seed(999, "train", number), SIZE)
