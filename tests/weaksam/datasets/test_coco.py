from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.trees import build_coco_tree, coco_document, write_json
from weaksam.datasets.coco import CocoDataset
from weaksam.errors import DataError

Document = dict[str, Any]


def document(*boxes: Any, image: dict[str, Any] | None = None, crowd: int = 0) -> Document:
    """One image of 100 x 50 pixels with an object of class 0 per box."""
    result = coco_document()
    result["images"].append({"id": 7, "file_name": "7.jpg", "width": 100, "height": 50} | (image or {}))
    for number, box in enumerate(boxes):
        result["annotations"].append({"id": number, "image_id": 7, "category_id": 3, "bbox": box, "iscrowd": crowd})
    return result


def write_tree(root: Path, content: Any, split: str = "train") -> CocoDataset:
    write_json(root, split, content)
    (root / split).mkdir(exist_ok=True)
    (root / split / "7.jpg").touch()
    return CocoDataset(str(root))


# ------------------------------------------------------------------------------------------------- boxes and labels


@pytest.mark.parametrize(
    ("box", "expected", "cut", "left_out"),
    [
        pytest.param([10, 20, 30, 5], [10, 20, 40, 25], 0, 0, id="plain"),
        pytest.param([0, 0, 100, 50], [0, 0, 100, 50], 0, 0, id="whole image"),
        pytest.param([90, 40, 20, 20], [90, 40, 100, 50], 1, 0, id="sticks out at the end"),
        pytest.param([-5, -5, 10, 10], [0, 0, 5, 5], 1, 0, id="sticks out at the start"),
        pytest.param([33.33, 0, 66.68, 50], [33.33, 0, 100, 50], 0, 0, id="sticks out by rounding"),
        pytest.param([10, 10, 0, 5], None, 0, 1, id="no width"),
        pytest.param([10, 10, -3, 5], None, 0, 1, id="negative width"),
        pytest.param([200, 10, 5, 5], None, 0, 1, id="outside"),
    ],
)
def test_width_and_height_become_exclusive_corners(
    tmp_path: Path, box: list[float], expected: list[float] | None, cut: int, left_out: int
) -> None:
    truth = write_tree(tmp_path, document(box)).ground_truth("train")["7"]
    assert truth.boxes_xyxy.tolist() == ([] if expected is None else [pytest.approx(expected, abs=1e-5)])
    assert len(truth.class_index) == len(truth.crowd) == len(truth.boxes_xyxy)
    assert (truth.cut, truth.left_out) == (cut, left_out)


def test_image_of_unknown_size_cuts_nothing_at_its_end(tmp_path: Path) -> None:
    content = document([-1, 40, 500, 500])
    del content["images"][0]["width"], content["images"][0]["height"]
    assert write_tree(tmp_path, content).ground_truth("train")["7"].boxes_xyxy.tolist() == [[0, 40, 499, 540]]


def test_crowd_counts_for_the_labels_with_difficult_objects_only(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, document([0, 0, 5, 5], crowd=1))
    (record,) = dataset.records("train")
    assert (record.labels, record.labels_difficult) == ((), (0,))
    truth = dataset.ground_truth("train")["7"]
    assert (truth.crowd.tolist(), truth.difficult.tolist()) == ([True], [False])


def test_image_without_objects_has_empty_labels_and_no_boxes(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, document())
    assert dataset.records("train")[0].labels == ()
    assert dataset.ground_truth("train")["7"].boxes_xyxy.shape == (0, 4)


def test_classes_are_ordered_by_category_id(tmp_path: Path) -> None:
    content = document([0, 0, 5, 5])
    content["categories"] = [{"id": 90, "name": "ant"}, {"id": 3, "name": "zebra"}, {"id": 11, "name": "cow"}]
    dataset = write_tree(tmp_path, content)
    assert dataset.class_names == ("zebra", "cow", "ant")
    assert dataset.category_ids == (3, 11, 90)
    assert dataset.records("train")[0].labels == (0,)


@pytest.mark.parametrize(
    "garbage", [None, [], "nonsense", [1, 2, 3], ["a", "b", "c", "d"], [0, 0, float("nan"), 1], [True] * 5]
)
def test_records_never_look_at_coordinates(tmp_path: Path, garbage: Any) -> None:
    dataset = CocoDataset(str(build_coco_tree(tmp_path)))
    before = {split: dataset.records(split) for split in dataset.splits}
    for path in (tmp_path / "annotations").iterdir():
        content = json.loads(path.read_text())
        for item in content["annotations"]:
            item["bbox"] = item["segmentation"] = item["area"] = garbage
        path.write_text(json.dumps(content))
    ruined = CocoDataset(str(tmp_path))
    assert {split: ruined.records(split) for split in ruined.splits} == before
    with pytest.raises(DataError, match=r'annotation 1 of image 1: expected "bbox" \[x, y, width, height\]'):
        ruined.ground_truth("train2017")


# ----------------------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize(
    ("folder", "file_name"),
    [
        ("train2017", "7.jpg"),
        ("images/train2017", "7.jpg"),
        ("images", "7.jpg"),
        (".", "7.jpg"),
        (".", "train2017/7.jpg"),
        ("pictures of all years", "7.jpg"),
        ("train2014", "COCO_train2014_000000000007.jpg"),
    ],
)
def test_images_are_found(tmp_path: Path, folder: str, file_name: str) -> None:
    write_json(tmp_path, "train2017", document(image={"file_name": file_name}))
    path = tmp_path / folder / file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    (record,) = CocoDataset(str(tmp_path)).records("train2017")
    assert record.image_id == "7"
    assert Path(record.uri) == path


def test_usual_folder_wins_over_a_copy(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path, document())
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "7.jpg").touch()
    assert dataset.records("train")[0].uri == str(tmp_path / "train" / "7.jpg")


def test_missing_image_gets_the_address_where_it_should_be(tmp_path: Path) -> None:
    content = document()
    content["images"].append({"id": 8, "file_name": "gone.jpg"})
    assert write_tree(tmp_path, content).records("train")[1].uri == str(tmp_path / "train" / "gone.jpg")


def test_other_annotation_files_are_not_splits_and_unused_splits_are_not_read(tmp_path: Path) -> None:
    build_coco_tree(tmp_path)
    (tmp_path / "annotations" / "captions_val2017.json").write_text("nonsense")
    (tmp_path / "annotations" / "instances_broken.json").write_text("nonsense")
    assert CocoDataset(str(tmp_path)).splits == ("broken", "train2017", "val2017")
    assert len(CocoDataset(str(tmp_path), splits=("val2017",)).records("val2017")) == 3


# ----------------------------------------------------------------------------------------------------------- errors


def break_document(change: Callable[[Document], object]) -> Document:
    content = document([0, 0, 5, 5], [1, 1, 5, 5])
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda d: d.pop("images"), 'expected a list "images", got nothing; is this', id="no images"),
        pytest.param(lambda d: d.pop("annotations"), 'expected a list "annotations", got nothing', id="no annotations"),
        pytest.param(lambda d: d.update(categories={}), 'expected a list "categories", got an object', id="no list"),
        pytest.param(
            lambda d: d["images"].append(5), r'images\[1\]: expected an integer "id", got a number', id="no object"
        ),
        pytest.param(
            lambda d: d["images"].append(d["images"][0]), r"images\[1\]: id 7 occurs a second time", id="same id"
        ),
        pytest.param(
            lambda d: d["images"][0].update(id="7a"), r"images\[0\]: expected an integer \"id\", got '7a'", id="string"
        ),
        pytest.param(lambda d: d["images"][0].update(id=True), 'expected an integer "id", got True', id="boolean id"),
        pytest.param(
            lambda d: d["images"][0].pop("file_name"), 'expected a string "file_name", got nothing', id="no name"
        ),
        pytest.param(
            lambda d: d["annotations"][1].update(category_id=91),
            r"annotations\[1\]: category_id 91 is not among the categories \(3, 4, 5, 6, 7, 8\); correct or add it",
            id="unknown category",
        ),
        pytest.param(
            lambda d: d["annotations"][1].update(image_id=8),
            r"annotations\[1\]: image_id 8 is not among the images",
            id="unknown image",
        ),
        pytest.param(
            lambda d: d["annotations"][0].pop("category_id"), r"annotations\[0\]: expected an integer", id="no category"
        ),
        pytest.param(
            lambda d: d["categories"][0].update(id=3), "categories: id 3 occurs 2 times", id="same category id"
        ),
        pytest.param(
            lambda d: d["categories"][0].update(name="ring"), "name 'ring' occurs 2 times", id="same class name"
        ),
    ],
)
def test_malformed_document_is_named_with_its_place(
    tmp_path: Path, change: Callable[[Document], object], message: str
) -> None:
    dataset = write_tree(tmp_path, break_document(change))
    with pytest.raises(DataError, match=message) as caught:
        dataset.records("train")
    assert "instances_train.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n  {"id": 1,}\n]}', r"instances_train\.json:2:1[12]: expected JSON"),
        ("", r"instances_train\.json:1:1: expected JSON"),
        ("[1]", "expected an object of images, annotations and categories, got a list"),
        ("[" * 100_000, "expected JSON"),
        (b"\xff\xfe\xff", "expected JSON"),
    ],
    ids=["syntax", "empty", "list", "deep", "bytes"],
)
def test_malformed_json_is_named_with_its_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    dataset = write_tree(tmp_path, {})
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=message):
        dataset.records("train")


def test_splits_of_different_categories_are_an_error(tmp_path: Path) -> None:
    write_tree(tmp_path, document())
    other = document()
    other["categories"].pop()
    dataset = write_tree(tmp_path, other, split="val")
    with pytest.raises(DataError, match=r"instances_val\.json: expected the categories of .*instances_train\.json"):
        dataset.records("val")


def test_images_found_nowhere_are_an_error_that_says_where_to_put_them(tmp_path: Path) -> None:
    write_json(tmp_path, "train", document())
    with pytest.raises(
        DataError, match=r"expected the 1 images of .* in train/, images/train/ or another folder, found none"
    ):
        CocoDataset(str(tmp_path)).records("train")


def test_split_without_a_file_is_an_error(tmp_path: Path) -> None:
    write_json(tmp_path, "train", document())
    with pytest.raises(
        DataError, match=r"expected instances_val\.json or the like, found splits train; set data\.splits"
    ):
        CocoDataset(str(tmp_path), splits=("train", "val"))


# ------------------------------------------------------------------------------------------------------ fingerprint


def test_pictures_that_are_kept_without_annotations_are_a_split_if_asked_for(tmp_path: Path) -> None:
    root = build_coco_tree(tmp_path)
    document = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    kept = {"info": {}, "images": document["images"], "categories": document["categories"]}
    for image in kept["images"]:  # of COCO's test-dev, whose pictures lie in another folder
        image["id"] += 1000
        (root / "test2017").mkdir(exist_ok=True)
        (root / "val2017" / image["file_name"]).rename(root / "test2017" / image["file_name"])
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(kept))
    assert CocoDataset(str(root)).splits == ("train2017", "val2017")
    dataset = CocoDataset(str(root), splits=("train2017", "test-dev2017"))
    records = dataset.records("test-dev2017")
    assert [(record.labels, record.labels_difficult) for record in records] == [(None, None)] * 3
    assert [record.uri for record in records] == [
        str(root / "test2017" / image["file_name"]) for image in kept["images"]
    ]
    assert [record.image_id for record in records] == [str(image["id"]) for image in kept["images"]]
    assert dataset.ground_truth("test-dev2017") == {}
    assert list(dataset.true_label_maps("test-dev2017").image_ids) == []
    assert all(record.labels for record in dataset.records("train2017"))


def test_fingerprint_changes_with_annotations_and_images_but_not_with_other_files(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return CocoDataset(str(tmp_path)).fingerprint()

    write_tree(tmp_path, document([0, 0, 5, 5]))
    first = fingerprint()
    (tmp_path / "notes.txt").write_text("hello")
    assert fingerprint() == first
    write_tree(tmp_path, document([0, 0, 5, 6]))
    second = fingerprint()
    (tmp_path / "train" / "7.jpg").write_text("longer")
    assert len({first, second, fingerprint()}) == 3
