from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.index import first_in_hash_order, in_hash_order
from pipelines.recipe import load_recipe
from pipelines.runs import current_instance
from pipelines.schemas import IMAGES
from pipelines.stage import Options
from pipelines.stages import run_instances
from tests.broken_files import encode, picture
from tests.weaksam.datasets.trees import build_coco_tree, build_voc_tree
from weaksam.errors import ConfigError, DataError
from weaksam.structures import ImageRecord


def index(data: str, run: Path, *overrides: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]], tuple[str, ...]]:
    """Index a data set; returns the manifest, the rows by image id and the class names."""
    recipe, _ = load_recipe("grid", overrides, data)
    manifest = run_instances(recipe, str(run), ["index"], Options(), Console(file=io.StringIO()))["index"]
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
