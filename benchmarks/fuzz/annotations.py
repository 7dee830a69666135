"""Files that people and their programs write as text: annotations, lists, recipes, results."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
import yaml
from PIL import Image

from benchmarks.fuzz.kind import Kind, alone
from benchmarks.fuzz.mutate import damage_bytes, damage_tree, to_json, words_between
from pipelines.exchange.image_ids import narrow
from pipelines.exchange.imports import read_boxes
from pipelines.recipe.model import load_recipe, shipped_folder
from tune.sweep import load_sweep
from weaksam.datasets import Dataset
from weaksam.datasets.coco import CocoDataset
from weaksam.datasets.folder import FolderDataset
from weaksam.datasets.voc import VocDataset

_NAMES = ("000001.jpg", "cam1/000002.jpg", "000003.PNG")

_XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>VOC2007</folder><filename>000001.jpg</filename><source><database>d</database></source>
<size><width>8</width><height>6</height><depth>3</depth></size><segmented>0</segmented>
<object><name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>8</xmax><ymax>6</ymax></bndbox></object>
<object><name>cat &amp; dög</name><difficult>1</difficult>
<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>5</ymax></bndbox>
<part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part></object>
</annotation>
""".encode()
_XML_WORDS = (
    b"<object>", b"</object>", b"<name>", b"</name>", b"<bndbox>", b"<xmax>", b"<!ENTITY a 'b'>", b"<!DOCTYPE a [", b"&a;",
    b"<![CDATA[", b"]]>", b"<!--", b"-1", b"nan", b"inf", b"1e999", b"&#0;", b'encoding="utf-16"', b'encoding="x"', b"<size/>",
)  # fmt: skip
_JSON_WORDS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"null",
    b"true",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-",
    b'"id"',
    b"\\u",
)
_YAML_WORDS = (
    b"- ",
    b": ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object:os.system ",
    b"!!int ",
    b"? ",
    b"|\n",
    b"2020-01-01",
    b"\t",
)


def _coco_document() -> dict[str, Any]:
    images = [{"id": 7 + n, "file_name": name, "width": 8, "height": 6} for n, name in enumerate(_NAMES)]
    annotations = [
        {
            "id": n,
            "image_id": 7 + n % 3,
            "category_id": 3 + n % 2,
            "bbox": [n, 1, 2.5, 3],
            "area": 7.5,
            "iscrowd": int(n == 4),
        }
        for n in range(5)
    ]
    categories = [{"id": 4, "name": "dog", "supercategory": "pet"}, {"id": 3, "name": "cat"}]
    return {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": categories}


def _results() -> list[dict[str, Any]]:
    return [
        {"image_id": 5 + n % 3, "category_id": 1, "bbox": [n, 2, 9.5, 9], "score": 0.5, "bbox_mode": n % 2}
        for n in range(6)
    ]


_CSV = b'path,labels\n000001.jpg,dog;cat\ncam1/000002.jpg,\n"000003.PNG",cat\n'
_CLASSES = b"cat\ndog\nbird\n"
_SPLIT = b"000001\n000002\n000003\n"


def _pictures(folder: Path, names: tuple[str, ...] = _NAMES) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / name)


def _place_coco(folder: Path) -> Path:
    _pictures(folder / "images")
    (folder / "annotations").mkdir()
    return folder / "annotations" / "instances_train.json"


def _place_voc(folder: Path, file: str) -> Path:
    _pictures(folder / "JPEGImages", ("000001.jpg", "000002.jpg", "000003.png"))
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for stem in ("000001", "000002"):
        (folder / "Annotations" / f"{stem}.xml").write_bytes(_XML)
    (folder / "ImageSets" / "Main" / "train.txt").write_bytes(_SPLIT)
    return folder / file


def _place_folder(folder: Path, file: str) -> Path:
    _pictures(folder)
    (folder / "labels.csv").write_bytes(_CSV)
    (folder / "classes.txt").write_bytes(_CLASSES)
    return folder / file


def _read_dataset(dataset: Dataset) -> None:
    """Read all that stages read, and check it."""
    dataset.fingerprint()
    for split in dataset.splits:
        for record in dataset.records(split):
            labels = (*(record.labels or ()), *(record.labels_difficult or ()))
            assert all(0 <= label < len(dataset.class_names) for label in labels)
            f"{record.image_id}{record.uri}".encode()  # what no table could hold
        for truth in dataset.ground_truth(split).values():
            assert truth.boxes_xyxy.dtype == np.float32
            assert np.isfinite(truth.boxes_xyxy).all()
            assert (truth.boxes_xyxy[:, 2:] > truth.boxes_xyxy[:, :2]).all()


def _read_results(path: Path) -> None:
    found = read_boxes(path.read_bytes(), str(path), ["000005", "000006", "000007"], "voc", in_split_order=True)
    check_boxes(found)


def check_boxes(found: dict[str, Any]) -> None:
    """Raise AssertionError unless all boxes are finite and their corners in order."""
    for boxes in found.values():
        assert (boxes.dtype, boxes.ndim, boxes.shape[1]) == (np.float32, 2, 4)
        assert np.isfinite(boxes).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


@cache
def _recipes() -> list[bytes]:
    return [
        (shipped_folder() / f"{name}.yaml").read_bytes() for name in ("shapes", "voc07", "coco14", "table5", "small")
    ]


@cache
def _sweeps() -> list[bytes]:
    return [path.read_bytes() for path in sorted((shipped_folder() / "sweeps").glob("*.yaml"))]


def _yaml(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    """Damage a YAML file's text, or the values in it."""
    if rng.random() < 0.5:
        return damage_bytes(rng, data, files, _YAML_WORDS)
    return to_json(damage_tree(rng, yaml.safe_load(data)))  # YAML reads JSON


def _json(rng: Random, data: bytes, _files: list[bytes]) -> bytes:
    return to_json(damage_tree(rng, json.loads(data)))


def _xml(rng: Random, data: bytes, _files: list[bytes]) -> bytes:
    """Damage names, texts and elements of an XML file, which stays well-formed unless a name is lost."""
    return _rendered(damage_tree(rng, _as_tree(ElementTree.fromstring(data)))).encode(errors="surrogatepass")


def _as_tree(element: ElementTree.Element) -> list[Any]:
    return [element.tag, element.text or "", [_as_tree(child) for child in element]]


def _rendered(tree: Any) -> str:
    if not isinstance(tree, list) or len(tree) != 3 or not isinstance(tree[2], list):
        return escape(str(tree)[:1000] if not isinstance(tree, int) else f"{tree:x}")
    tag, text, children = tree
    name = tag if isinstance(tag, str) and tag.isidentifier() else "x"
    return f"<{name}>{_rendered(text)}{''.join(map(_rendered, children))}</{name}>"


_VOC_FILES = {"xml": "Annotations/000001.xml", "list": "ImageSets/Main/train.txt"}

ANNOTATIONS: dict[str, Kind] = {
    "VOC's XML, bytes": Kind(
        lambda folder: _place_voc(folder, _VOC_FILES["xml"]),
        lambda: [_XML],
        words_between(*_XML_WORDS),
        lambda path: _read_dataset(VocDataset(str(path.parents[1]))),
    ),
    "VOC's XML, values": Kind(
        lambda folder: _place_voc(folder, _VOC_FILES["xml"]),
        lambda: [_XML],
        _xml,
        lambda path: _read_dataset(VocDataset(str(path.parents[1]))),
    ),
    "VOC's split list": Kind(
        lambda folder: _place_voc(folder, _VOC_FILES["list"]),
        lambda: [_SPLIT, _SPLIT.replace(b"\n", b"\r\n")],
        words_between(b"000001", b" -1", b"a/b", b"\xe4"),
        lambda path: _read_dataset(VocDataset(str(path.parents[2]))),
    ),
    "COCO's JSON, bytes": Kind(
        _place_coco,
        lambda: [json.dumps(_coco_document()).encode()],
        words_between(*_JSON_WORDS),
        lambda path: _read_dataset(CocoDataset(str(path.parents[1]))),
    ),
    "COCO's JSON, values": Kind(
        _place_coco,
        lambda: [json.dumps(_coco_document()).encode()],
        _json,
        lambda path: _read_dataset(CocoDataset(str(path.parents[1]))),
    ),
    "labels.csv": Kind(
        lambda folder: _place_folder(folder, "labels.csv"),
        lambda: [_CSV, _CSV.replace(b"\n", b"\r\n")],
        words_between(b",", b'"', b";", b"\r", b"cat", b"cam1/000002.jpg", b"\xe4"),
        lambda path: _read_dataset(FolderDataset(str(path.parent))),
    ),
    "classes.txt": Kind(
        lambda folder: _place_folder(folder, "classes.txt"),
        lambda: [_CLASSES],
        words_between(b"cat", b"\xe4", b"\x85", b"\xe2\x80\xa8"),
        lambda path: _read_dataset(FolderDataset(str(path.parent))),
    ),
    "results JSON, bytes": Kind(
        alone("r.json"), lambda: [json.dumps(_results()).encode()], words_between(*_JSON_WORDS), _read_results
    ),
    "results JSON, values": Kind(alone("r.json"), lambda: [json.dumps(_results()).encode()], _json, _read_results),
    "list of --only": Kind(
        alone("only.json"),
        lambda: [json.dumps({"images": [{"id": 9}, {"id": 25}]}).encode()],
        _json,
        lambda path: narrow(["9", "25", "100"], str(path)),
    ),
    "recipe": Kind(alone("r.yaml"), _recipes, _yaml, lambda path: load_recipe(str(path))),
    "sweep": Kind(alone("s.yaml"), _sweeps, _yaml, lambda path: load_sweep(str(path))),
}
