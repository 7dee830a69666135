from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.engine.stage import Options
from pipelines.products.index import first_in_hash_order, in_hash_order
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.store.instances import current_instance
from pipelines.store.schemas import IMAGES
from tests.support.broken_files import encode, picture
from tests.support.label_maps import add_painting
from tests.support.trees import (
    build_coco_tree,
    build_voc_tree,
    coco_document,
    voc_object,
    voc_xml,
    write_json,
    write_list,
)
from tests.support.voice import Recorder
from weaksam.errors import ConfigError, DataError
from weaksam.io import contents
from weaksam.label_maps import encode_label_map
from weaksam.structures import ImageRecord


def index(data: str, run: Path, *overrides: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]], tuple[str, ...]]:
    """Index a data set; returns the manifest, the rows by image id and the class names."""
    recipe, _ = load_recipe("grid", overrides, data)
    manifest = Run(recipe, str(run)).bring(["index"], Options())["index"]
    instance = current_instance(str(run), "index")
    assert instance is not None
    table = instance.table(IMAGES)
    rows = table.read().to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return manifest, {row["image_id"]: row for row in rows}, table.class_names()


def folder_tree(root: Path, labels: str = "", *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(picture((8, 8)), "PNG"))
    if labels:
        (root / "labels.csv").write_text(f"path,labels\n{labels}")
    return root


def test_labels_are_granted_to_the_training_split_alone(tmp_path: Path) -> None:
    manifest, rows, class_names = index(str(build_voc_tree(tmp_path / "voc")), tmp_path / "run")
    assert (manifest["kind"], manifest["labels_granted_to"]) == ("voc", "trainval")
    assert manifest["splits"] == {"trainval": 4, "test": 3}
    assert len(class_names) == manifest["classes"] > 0
    for row in rows.values():
        granted = row["split"] == "trainval"
        assert (row["labels"] is not None) == (row["labels_difficult"] is not None) == granted
        assert Path(row["uri"]).is_file()
        assert Path(row["uri"]).stem == row["image_id"]
    for row in rows.values():
        if row["labels"] is not None:
            assert set(row["labels"]) <= set(row["labels_difficult"]) <= set(range(len(class_names)))
            assert row["labels"] == sorted(row["labels"])


def test_labels_that_are_taken_from_a_segmentation_are_marked(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    folder_tree(root, "", "JPEGImages/a.png", "JPEGImages/b.png")
    for name in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    (root / "Annotations" / "a.xml").write_text(voc_xml(voc_object("dog", (0, 0, 4, 4)), size=""))
    (root / "SegmentationClass" / "a.png").write_bytes(encode(Image.fromarray(np.full((8, 8), 1, np.uint8)), "PNG"))
    write_list(root, "train", "a")
    (root / "ImageSets/Segmentation/trainaug.txt").write_text("a\nb\n")
    settings = ("data.splits=[trainaug]", "data.train_split=trainaug")
    manifest, rows, _ = index(str(root), tmp_path / "run", *settings)
    assert (manifest["label_source"], rows["a"]["labels"], rows["b"]["labels"]) == ("segmentation", [0], None)
    assert "labels granted to trainaug (1 of 2 images), taken from the segmentation" in manifest["text"]
    manifest, rows, _ = index(str(root), tmp_path / "run")
    assert (manifest["label_source"], rows["a"]["labels"]) == ("objects", [11])
    assert "taken from" not in manifest["text"]


@pytest.mark.parametrize(
    ("setting", "granted"),
    [("data.train_split=test", {"test"}), ("data.train_split=none", set())],
    ids=["test", "none"],
)
def test_a_recipe_says_which_split_gets_labels(tmp_path: Path, setting: str, granted: set[str]) -> None:
    _, rows, _ = index(str(build_voc_tree(tmp_path / "voc")), tmp_path / "run", setting)
    assert {row["split"] for row in rows.values() if row["labels"] is not None} == granted


def test_only_the_splits_asked_for_are_indexed(tmp_path: Path) -> None:
    root = str(build_coco_tree(tmp_path / "coco"))
    manifest, rows, _ = index(root, tmp_path / "run", "data.splits=[val2017]", "data.train_split=none")
    assert manifest["kind"] == "coco"
    assert {row["split"] for row in rows.values()} == {"val2017"}
    assert all(image_id.isdecimal() for image_id in rows)


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = str(build_coco_tree(tmp_path / "coco"))
    with pytest.raises((ConfigError, DataError), match="minival"):
        index(root, tmp_path / "run", "data.splits=[minival]")


def test_unknown_labels_are_null_and_no_labels_an_empty_list(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "pictures", "a.png,cat;dog\nsub/b.png,\n", "a.png", "sub/b.png", "c # ü.png")
    _, rows, class_names = index(str(root), tmp_path / "run")
    assert class_names == ("cat", "dog")
    assert {i: row["labels"] for i, row in rows.items()} == {"a.png": [0, 1], "sub/b.png": [], "c # ü.png": None}


def test_a_folder_without_labels_has_no_classes(tmp_path: Path) -> None:
    manifest, rows, class_names = index(str(folder_tree(tmp_path / "pictures", "", "a.png")), tmp_path / "run")
    assert (manifest["classes"], class_names) == (0, ())
    assert rows["a.png"]["labels"] is None


def test_an_image_that_is_listed_but_missing_is_indexed_too(tmp_path: Path) -> None:
    root = build_voc_tree(tmp_path / "voc")
    (root / "JPEGImages" / "000001.jpg").unlink()
    _, rows, _ = index(str(root), tmp_path / "run")
    assert "000001" in rows  # the fetching stage says what is the matter with it


def test_an_id_in_two_splits_is_an_error_that_names_both(tmp_path: Path) -> None:
    root = build_voc_tree(tmp_path / "voc", {"train": 2, "test": 2})
    lists = root / "ImageSets" / "Main"
    (lists / "test.txt").write_text((lists / "train.txt").read_text())
    with pytest.raises(DataError, match=r"image id '000001' stands in split train and in split test"):
        index(str(root), tmp_path / "run", "data.splits=[train, test]")


def test_a_limit_keeps_the_first_of_each_split_in_hash_order(tmp_path: Path) -> None:
    shapes = ("data.shapes.train=9", "data.shapes.val=5", "data.shapes.test=1", "data.shapes.size=32")
    _, everything, _ = index("shapes:", tmp_path / "all", *shapes)
    manifest, some, _ = index("shapes:", tmp_path / "some", *shapes, "data.limit=3")
    assert manifest["splits"] == {"train": 3, "val": 3, "test": 1}
    assert manifest["available"] == {"train": 9, "val": 5, "test": 1}
    for split in ("train", "val", "test"):
        ids = [i for i, row in everything.items() if row["split"] == split]
        kept = [i for i, row in some.items() if row["split"] == split]
        assert kept == [i for i in ids if i in in_hash_order(ids)[:3]]
    assert all(some[i] == everything[i] for i in some)


# ------------------------------------------------------------------------------------------------------ what index says


def say(data: Path, run: Path, *overrides: str, recipe: str = "grid") -> str:
    """Index a data set; returns what is printed, in one line."""
    voice = Recorder()
    loaded, _ = load_recipe(recipe, overrides, str(data))
    Run(loaded, str(run)).bring(["index"], Options(), voice)
    return " ".join(voice.text.split())


def coco_tree(
    root: Path, boxes: Sequence[Any] = ([1, 2, 3, 4],), size: tuple[int, int] = (8, 8), **annotation: Any
) -> Path:
    """One picture of 8 x 8 pixels in the split train, with an object per box and a stated size (width, height)."""
    folder_tree(root, "", "train/a.png")
    content: dict[str, Any] = coco_document()
    content["images"] = [{"id": 7, "file_name": "a.png", "width": size[0], "height": size[1]}]
    content["annotations"] = [
        {"id": n, "image_id": 7, "category_id": 3, "bbox": box} | annotation for n, box in enumerate(boxes)
    ]
    write_json(root, "train", content)
    return root


def test_what_was_passed_over_is_said_in_a_line_and_kept(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data")
    (root / "licence [of all].TXT").write_text("free")
    (root / "train" / "b.png").write_bytes(b"")
    said = say(root, tmp_path / "run")
    assert (
        "passed over: 1 images that no split in use lists (e.g. train/b.png); 1 files .txt (e.g. licence [of all].TXT)"
        in said
    )
    manifest, _, _ = index(str(root), tmp_path / "run")
    assert [(one["what"], one["count"]) for one in manifest["passed_over"]] == [
        ("images that no split in use lists", 1),
        ("files .txt", 1),
    ]
    assert "passed over" not in say(coco_tree(tmp_path / "other"), tmp_path / "other run")


@pytest.mark.parametrize(
    ("labels", "overrides", "expected"),
    [
        ("a.png,cat\nb.png,\n", (), "classes 1: cat · labels granted to all"),
        ("a.png,cat\n", (), "classes 1: cat · labels granted to all (1 of 2 images)"),
        ("a.png,cat\n", ("data.train_split=none",), "classes 1: cat · labels granted to no split"),
        ("", (), "no labels: no image of the split all is annotated"),
        ("", ("data.train_split=none",), "no labels"),
    ],
)
def test_labels_are_not_said_to_be_granted_where_there_are_none(
    tmp_path: Path, labels: str, overrides: tuple[str, ...], expected: str
) -> None:
    said = say(folder_tree(tmp_path / "data", labels, "a.png", "b.png"), tmp_path / "run", *overrides)
    assert f"images 2 (all 2) · {expected}" in said


def test_a_data_set_without_classes_has_no_labels(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data", boxes=())
    write_json(root, "train", {"images": [{"id": 7, "file_name": "a.png"}], "annotations": [], "categories": []})
    assert "images 1 (train 1) · no labels: the data set has no classes" in say(root, tmp_path / "run")


def test_classes_without_an_object_are_named(tmp_path: Path) -> None:
    said = say(coco_tree(tmp_path / "data"), tmp_path / "run")
    assert "classes 6: ellipse, rectangle, triangle, star, ring, cross · labels granted to train · " in said
    assert " · without an object there: rectangle, triangle, star, … " in said


def test_classes_in_few_images_are_named_the_rarest_first(tmp_path: Path) -> None:
    labels = {"king": 6, "quen": 1, "ace": 4, "ten": 2, "nine": 2}
    rows = [f"{name}{n}.png,{name}" for name, count in labels.items() for n in range(count)]
    data = tmp_path / "data"
    data.mkdir()
    for row in rows:
        (data / row.partition(",")[0]).write_bytes(encode(picture((8, 8)), "PNG"))
    (data / "labels.csv").write_text("\n".join(["path,labels", *rows]))
    assert " · labels granted to all · in fewer than 5 images: quen 1, nine 2, ten 2, … " in say(data, tmp_path / "run")
    assert "in fewer" not in say(data, tmp_path / "few", "data.limit=8")


def test_a_data_set_without_images_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path, "train", coco_document())
    message = (
        r"expected images in split train, found none in its list.*list no image \(e\.g\. annotations/instances_train"
    )
    with pytest.raises(DataError, match=message):
        index(str(tmp_path), tmp_path / "run")


def test_an_empty_split_is_said_and_refused_only_where_it_is_asked_for(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data")
    write_json(root, "test", coco_document())
    assert "images 1 (train 1)" in (said := say(root, tmp_path / "run"))
    assert "passed over: 1 annotation files that list no image (e.g. annotations/instances_test.json" in said
    for setting in ("data.splits=[train, test]", "data.train_split=test"):
        with pytest.raises(DataError, match=r"expected images in split test, found none in its list"):
            index(str(root), tmp_path / "run", setting)


def test_a_picture_in_two_splits_is_refused_whatever_its_ids(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data")
    content = coco_document()
    content["images"] = [{"id": 8, "file_name": "train/a.png"}]
    write_json(root, "val", content)
    with pytest.raises(DataError, match=r"train/a\.png is image '7' of split train and image '8' of split val"):
        index(str(root), tmp_path / "run")


def test_ids_that_every_split_counts_anew_are_indexed(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data")
    folder_tree(root, "", "val/b.png")
    content = coco_document()
    content["images"] = [{"id": 7, "file_name": "b.png"}]
    write_json(root, "val", content)
    _, rows, _ = index(str(root), tmp_path / "run")
    assert {i: Path(row["uri"]).name for i, row in rows.items()} == {"train/7": "a.png", "val/7": "b.png"}


def test_true_boxes_that_are_cut_or_left_out_are_counted_where_they_measure(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data", [[1, 1, 2, 2], [6, 6, 5, 5], [1, 1, 0, 0], [9, 9, 2, 2]])
    assert "true boxes left out 2 (without area or outside), cut 1" in say(root, tmp_path / "run")
    manifest, _, _ = index(str(root), tmp_path / "run")
    assert manifest["true_boxes"] == {"train": {"images": 1, "objects": 2, "cut": 1, "left_out": 2}}


def test_a_malformed_box_is_an_error_where_it_measures_and_none_elsewhere(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data", [[10**400, 1, 2, 3]])
    with pytest.raises(DataError, match=r"annotation 0 of image 7: expected \"bbox\""):
        index(str(root), tmp_path / "run")
    manifest, _, _ = index(str(root), tmp_path / "run", "stages=[index, propose]")
    assert manifest["true_boxes"] == {}


def test_a_size_that_contradicts_the_picture_is_an_error_before_the_work(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data", size=(16, 16))
    with pytest.raises(
        DataError, match=r"instances_train\.json: image 7: expected a picture of 16 x 16 pixels .* got one of 8 x 8"
    ):
        index(str(root), tmp_path / "run")
    for remedy in ("scale", "ignore"):
        _, rows, _ = index(str(root), tmp_path / "run", f"data.stated_size={remedy}")
        assert rows["7"]["labels"] == [0]


def test_what_stated_sizes_count_for_changes_the_digest_and_no_row(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data")
    found = [index(str(root), tmp_path / "run", f"data.stated_size={setting}") for setting in ("check", "ignore")]
    assert found[0][1] == found[1][1]
    assert found[0][0]["truth"] != found[1][0]["truth"]
    recipes = [load_recipe("grid", [f"data.stated_size={setting}"], str(root))[0] for setting in ("check", "ignore")]
    assert len({Run(recipe, str(tmp_path / "run")).instance("evaluate.proposals").key for recipe in recipes}) == 2


# ------------------------------------------------------------------------------------------------------------- contents

AN_HOUR_AGO_NS = time.time_ns() - 3600 * 10**9


def rewrite(path: Path, data: bytes, seconds_later: int = 0) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(AN_HOUR_AGO_NS + seconds_later * 10**9,) * 2)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of pictures that are read for their contents."""
    names: list[str] = []

    def record(path: str, mode: str) -> Any:
        names.append(Path(path).name)
        return open(path, mode)

    monkeypatch.setattr(contents, "open", record, raising=False)
    return names


def pictures(root: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        rewrite(folder_tree(root, "", name) / name, encode(picture((8, 8 + n)), "PNG"))
    return root


def test_the_content_of_a_picture_is_its_bytes(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", "a.png", "b.png")
    _, rows, _ = index(str(root), tmp_path / "run")
    for name in ("a.png", "b.png"):
        assert rows[name]["content"] == hashlib.sha256((root / name).read_bytes()).hexdigest()[:32]


def test_a_picture_is_read_once_in_a_run_folder_whatever_the_recipe(tmp_path: Path, read: list[str]) -> None:
    root = pictures(tmp_path / "data", "a.png", "b.png")
    _, before, _ = index(str(root), tmp_path / "run")
    assert sorted(read) == ["a.png", "b.png"]
    rewrite(root / "b.png", bytes((root / "b.png").stat().st_size), seconds_later=1)
    pictures(root, "a.png", "c.png")
    _, after, _ = index(str(root), tmp_path / "run", "data.train_split=none")
    assert sorted(read[2:]) == ["b.png", "c.png"]
    assert after["a.png"]["content"] == before["a.png"]["content"]
    assert after["b.png"]["content"] != before["b.png"]["content"]


def test_touching_a_picture_changes_its_content_in_no_way(tmp_path: Path, read: list[str]) -> None:
    root = pictures(tmp_path / "data", "a.png")
    first, before, _ = index(str(root), tmp_path / "run")
    os.utime(root / "a.png", ns=(AN_HOUR_AGO_NS + 10**9,) * 2)
    second, after, _ = index(str(root), tmp_path / "run")
    assert first["key"] != second["key"]
    assert read == ["a.png", "a.png"]
    assert after == before


@pytest.mark.slow
def test_the_reading_of_pictures_is_shown_where_there_is_any(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", "a.png", "b.png")
    for data, shown in ((str(root), [("index: reading images", 2, 0, 2)]), ("shapes:", [])):
        voice = Recorder()
        Run(load_recipe("grid", (), data)[0], str(tmp_path / f"run {len(shown)}")).bring(["index"], Options(), voice)
        assert voice.counted == shown


def test_two_data_sets_in_one_run_folder_are_both_remembered(tmp_path: Path, read: list[str]) -> None:
    first, second = pictures(tmp_path / "1", "a.png"), pictures(tmp_path / "2", "b.png")
    for root, setting in ((first, "auto"), (second, "auto"), (first, "none"), (second, "none")):
        index(str(root), tmp_path / "run", f"data.train_split={setting}")
    assert read == ["a.png", "b.png"]


def test_damage_to_what_is_remembered_costs_a_reading(
    tmp_path: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = pictures(tmp_path / "data", "a.png")
    _, before, _ = index(str(root), tmp_path / "run")
    (part,) = (tmp_path / "run" / "index" / "_contents").iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    _, after, _ = index(str(root), tmp_path / "run", "data.train_split=none")
    assert after["a.png"]["content"] == before["a.png"]["content"]
    assert f"{part}: damaged" in caplog.text
    index(str(root), tmp_path / "run", "data.splits=[all]")
    assert read == ["a.png", "a.png"]


def test_a_picture_that_is_missing_has_no_content_until_it_is_there(tmp_path: Path) -> None:
    root = build_voc_tree(tmp_path / "voc")
    path = root / "JPEGImages" / "000001.jpg"
    data = path.read_bytes()
    path.unlink()
    _, before, _ = index(str(root), tmp_path / "run")
    path.write_bytes(data)
    _, after, _ = index(str(root), tmp_path / "run")
    assert before.pop("000001")["content"] == ""
    assert after.pop("000001")["content"] == hashlib.sha256(data).hexdigest()[:32]
    assert after == before


def test_drawn_images_have_contents_of_their_own(tmp_path: Path) -> None:
    shapes = ("data.shapes.train=3", "data.shapes.val=2", "data.shapes.test=0", "data.shapes.size=32")
    _, rows, _ = index("shapes:", tmp_path / "run", *shapes)
    assert len({row["content"] for row in rows.values()}) == 5
    assert not (tmp_path / "run" / "index" / "_contents").exists()


# ---------------------------------------------------------------------------------------------------------- true boxes


def test_corrected_boxes_change_the_digest_of_their_split_and_no_row(tmp_path: Path) -> None:
    root = build_coco_tree(tmp_path / "coco")
    before, rows_before, _ = index(str(root), tmp_path / "run")
    assert set(before["truth"]) == {"train2017", "val2017"}
    path = root / "annotations" / "instances_val2017.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"][2] -= 0.5
    path.write_text(json.dumps(document))
    after, rows_after, _ = index(str(root), tmp_path / "run")
    assert after["key"] != before["key"]
    assert after["truth"]["val2017"] != before["truth"]["val2017"]
    assert after["truth"]["train2017"] == before["truth"]["train2017"]
    assert rows_after == rows_before


def test_an_index_that_looked_at_no_box_does_not_stand_for_one_that_did(tmp_path: Path) -> None:
    root = build_coco_tree(tmp_path / "coco")
    without, _, _ = index(str(root), tmp_path / "run", "stages=[index, propose]")
    measuring, _, _ = index(str(root), tmp_path / "run")
    assert without["truth"] == {}
    assert set(measuring["truth"]) == {"train2017", "val2017"}


@pytest.mark.parametrize("stages", ["[index, propose]", "[index, propose, evaluate.proposals]"])
def test_corrected_boxes_are_measured_anew_whether_or_not_the_recipe_lists_it(tmp_path: Path, stages: str) -> None:
    root, keys = build_coco_tree(tmp_path / "coco"), []
    for width in (5, 6):
        path = root / "annotations" / "instances_val2017.json"
        document = json.loads(path.read_text())
        document["annotations"][0]["bbox"][2] = width
        path.write_text(json.dumps(document))
        run = Run(load_recipe("grid", [f"stages={stages}"], str(root))[0], str(tmp_path / "run"))
        keys.append([run.instance(name).key for name in ("propose", "evaluate.proposals")])
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]


def test_a_split_without_known_boxes_has_no_digest(tmp_path: Path) -> None:
    manifest, _, _ = index(str(pictures(tmp_path / "data", "a.png")), tmp_path / "run")
    assert manifest["truth"] == {}


# ---------------------------------------------------------------------------------------------------------- true masks

BY_MASKS = "stages=[index, propose, evaluate.proposals, segment, evaluate.segment]"


def coco_tree_of_masks(root: Path, right: float) -> Path:
    """A tree whose first object of the split val2017 is a triangle that ends at ``right``; no other has a mask."""
    root = build_coco_tree(root) if not root.is_dir() else root
    path = root / "annotations" / "instances_val2017.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["segmentation"] = [[1, 1, right, 1, right, 9]]
    path.write_text(json.dumps(document))
    return root


def test_true_masks_are_counted_where_they_measure(tmp_path: Path) -> None:
    root = coco_tree_of_masks(tmp_path / "coco", 9)
    manifest, _, _ = index(str(root), tmp_path / "run", BY_MASKS)
    boxes, (of_val,) = manifest["true_boxes"]["val2017"], manifest["true_masks"].values()
    assert of_val == {"images": 3, "masks": 1, "without": boxes["objects"] - 1, "left_out": 0}
    assert manifest["mask_truth"].keys() == manifest["true_masks"].keys() == {"val2017"}
    assert f"true masks of no object 0, objects without one {boxes['objects'] - 1}" in manifest["text"]
    by_boxes, _, _ = index(str(root), tmp_path / "run")
    assert (by_boxes["true_masks"], by_boxes["mask_truth"]) == ({}, {})


def test_a_malformed_mask_is_an_error_where_it_measures_and_none_elsewhere(tmp_path: Path) -> None:
    root = coco_tree_of_masks(tmp_path / "coco", float("nan"))
    with pytest.raises(
        DataError, match=r"instances_val2017\.json: annotations\[0\] of image 5: expected \"segmentation\""
    ):
        index(str(root), tmp_path / "run", BY_MASKS)
    manifest, _, _ = index(str(root), tmp_path / "run")
    assert manifest["true_masks"] == {}


def test_corrected_masks_are_measured_anew_and_nothing_else_is(tmp_path: Path) -> None:
    names = ["propose", "segment", "evaluate.proposals", "evaluate.segment"]
    keys = []
    for right in (9, 8):
        root = coco_tree_of_masks(tmp_path / "coco", right)
        run = Run(load_recipe("grid", [BY_MASKS], str(root))[0], str(tmp_path / "run"))
        keys.append([run.instance(name).key for name in names])
    stale = [name for name, before, after in zip(names, *keys, strict=True) if before != after]
    assert stale == ["evaluate.segment"]


# ----------------------------------------------------------------------------------------------------- true label maps


def folder_of_maps(root: Path, number: int) -> Path:
    """A folder of two pictures, of which one has a label map of one number."""
    if not root.is_dir():
        pictures(root, "a.png", "b.png")
        (root / "classes.txt").write_text("cat\n")
        (root / "masks").mkdir()
    with Image.open(root / "a.png") as picture:
        label_map = np.full((picture.height, picture.width), number, np.uint8)
    (root / "masks" / "a.png").write_bytes(encode_label_map(label_map))
    return root


@pytest.fixture
def by_maps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Settings of a recipe that measures label maps, which a stage of another package makes."""
    add_painting(monkeypatch)
    return ["instances={evaluate.mine: {of: paint}}", "stages=[index, propose, paint, evaluate.mine]"]


def test_true_label_maps_are_counted_where_they_measure(tmp_path: Path, by_maps: list[str]) -> None:
    root = str(folder_of_maps(tmp_path / "data", 1))
    manifest, _, _ = index(root, tmp_path / "run", *by_maps)
    assert manifest["true_label_maps"] == {"all": 1}
    assert manifest["label_map_truth"].keys() == {"all"}
    assert manifest["truth"] == manifest["mask_truth"] == {}
    elsewhere, _, _ = index(root, tmp_path / "run")
    assert (elsewhere["true_label_maps"], elsewhere["label_map_truth"]) == ({}, {})


def test_a_malformed_label_map_is_an_error_where_it_measures_and_none_elsewhere(
    tmp_path: Path, by_maps: list[str]
) -> None:
    root = str(folder_of_maps(tmp_path / "data", 2))
    with pytest.raises(DataError, match=r"masks/a\.png: expected numbers of classes 1\.\.1, 0 and 255, got 2"):
        index(root, tmp_path / "run", *by_maps)
    index(root, tmp_path / "run")


def test_corrected_label_maps_are_measured_anew_and_nothing_else_is(tmp_path: Path, by_maps: list[str]) -> None:
    names, keys = ["propose", "paint", "evaluate.mine"], []
    for number in (1, 0):
        root = folder_of_maps(tmp_path / "data", number)
        os.utime(root / "masks" / "a.png", ns=(0, number * 10**9))
        run = Run(load_recipe("grid", by_maps, str(root))[0], str(tmp_path / "run"))
        keys.append([run.instance(name).key for name in names])
    stale = [name for name, before, after in zip(names, *keys, strict=True) if before != after]
    assert stale == ["evaluate.mine"]


def test_hash_order_is_fixed_and_does_not_follow_names() -> None:
    ids = [f"{n:03}" for n in range(20)]
    # sha1 of "012" begins with 4ab3…, of "000" with 8aef…: any order but that of the names
    assert in_hash_order(ids) == in_hash_order(ids[::-1])
    assert sorted(in_hash_order(ids)) == ids
    assert in_hash_order(ids) != ids
    assert in_hash_order([]) == []


@pytest.mark.parametrize(("limit", "count"), [(0, 4), (1, 1), (4, 4), (9, 4)])
def test_a_limit_of_zero_keeps_all(limit: int, count: int) -> None:
    records = [ImageRecord(image_id=i, uri=i, split="all", labels=None, labels_difficult=None) for i in "dbca"]
    assert len(first_in_hash_order(records, limit)) == count


def test_a_limit_prefers_images_with_a_label() -> None:
    labels: dict[str, tuple[int, ...] | None] = {"a": None, "b": (0,), "c": (), "d": None, "e": (1,), "f": (0,)}
    records = [ImageRecord(image_id=i, uri=i, split="all", labels=of, labels_difficult=of) for i, of in labels.items()]
    assert [r.image_id for r in first_in_hash_order(records, 3)] == ["b", "e", "f"]
    assert {"b", "e", "f"} < {r.image_id for r in first_in_hash_order(records, 5)}
    assert set(first_in_hash_order(records, 1)) < set(first_in_hash_order(records, 2))
