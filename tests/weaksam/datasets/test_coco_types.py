"""Values of other types than COCO's own: taken for what they say where they say one thing, else refused with their place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.trees import coco_document, write_json
from weaksam.datasets.coco import CocoDataset
from weaksam.errors import DataError


def write_tree(root: Path, *, image: Any = None, annotation: Any = None, category: Any = None) -> CocoDataset:
    """One image 7.jpg of 100 x 50 pixels with one object of category 3, changed as asked for."""
    content: dict[str, Any] = coco_document()
    content["images"] = [{"id": 7, "file_name": "7.jpg", "width": 100, "height": 50} | (image or {})]
    content["annotations"] = [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]} | (annotation or {})]
    content["categories"][-1] |= category or {}
    write_json(root, "train", content)
    (root / "train").mkdir()
    (root / "train" / "7.jpg").touch()
    return CocoDataset(str(root))


@pytest.mark.parametrize("value", [0, "0", 0.0, False, "false", " 0 ", None])
def test_no_crowd_whatever_its_type(tmp_path: Path, value: Any) -> None:
    dataset = write_tree(tmp_path, annotation={"iscrowd": value})
    assert dataset.records("train")[0].labels == (0,)
    assert not dataset.ground_truth("train")["7"].crowd.any()


@pytest.mark.parametrize("value", [1, "1", 1.0, True, "True"])
def test_a_crowd_whatever_its_type(tmp_path: Path, value: Any) -> None:
    dataset = write_tree(tmp_path, annotation={"iscrowd": value})
    assert dataset.records("train")[0].labels == ()
    assert dataset.ground_truth("train")["7"].crowd.all()


@pytest.mark.parametrize("value", [2, -1, 0.5, "yes", "", [], {}, float("nan"), 10**400])
def test_a_flag_that_is_neither_0_nor_1_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r'instances_train\.json: annotations\[0\]: expected 0 or 1 as "iscrowd", got '):
        write_tree(tmp_path, annotation={"iscrowd": value}).records("train")


@pytest.mark.parametrize("value", ["7", 7.0, " 7 ", "7.0", "+7", "007"])
def test_ids_that_spell_a_whole_number_are_that_number(tmp_path: Path, value: Any) -> None:
    (record,) = write_tree(tmp_path, image={"id": value}).records("train")
    assert (record.image_id, record.labels) == ("7", (0,))


@pytest.mark.parametrize("value", ["3", 3.0])
def test_categories_that_spell_a_whole_number_are_that_number(tmp_path: Path, value: Any) -> None:
    dataset = write_tree(tmp_path, annotation={"category_id": value}, category={"id": value})
    assert dataset.records("train")[0].labels == (0,)
    assert dataset.category_ids[0] == 3


@pytest.mark.parametrize("value", [7.5, "7_0", "seven", "٧", "", True, None, [7], 2**63, 10**400, float("inf"), "1e1"])
@pytest.mark.parametrize("key", ["image", "annotation", "category"])
def test_an_id_that_is_no_whole_number_is_an_error(tmp_path: Path, key: str, value: Any) -> None:
    change = {"image": {"id": value}, "annotation": {"image_id": value}, "category": {"id": value}}[key]
    with pytest.raises(
        DataError, match=r'(images|annotations|categories)\[\d\]: expected an integer "(image_)?id", got'
    ):
        write_tree(tmp_path, **{key: change}).records("train")


def test_an_id_and_its_text_are_the_same_id(tmp_path: Path) -> None:
    dataset = write_tree(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["images"].append(content["images"][0] | {"id": "7"})
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"images\[1\]: id 7 occurs a second time"):
        dataset.records("train")


def test_a_class_that_is_called_a_number_keeps_its_name(tmp_path: Path) -> None:
    assert write_tree(tmp_path, category={"name": 5}).class_names[0] == "5"


@pytest.mark.parametrize("value", ["", "  ", None, True, ["disc"], "\ud800"])
def test_a_class_without_a_name_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r'categories\[\d\]: expected a string.* "name", got'):
        write_tree(tmp_path, category={"name": value}).records("train")


def test_names_that_differ_in_blanks_or_unicode_form_only_are_one_name(tmp_path: Path) -> None:
    content: dict[str, Any] = coco_document()
    content["categories"] = [{"id": 1, "name": "gru\u0308n  x "}, {"id": 2, "name": "gr\u00fcn x"}]
    write_json(tmp_path, "train", content)
    with pytest.raises(DataError, match=r"categories: name 'gr\u00fcn x' occurs 2 times; remove or rename all but one"):
        CocoDataset(str(tmp_path)).class_names  # noqa: B018
    content["categories"].pop()
    write_json(tmp_path, "train", content)
    assert CocoDataset(str(tmp_path)).class_names == ("gr\u00fcn x",)


@pytest.mark.parametrize("value", ["", None, 7, "\ud800.jpg"])
def test_an_image_without_a_name_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r'images\[0\]: expected a string.* "file_name", got'):
        write_tree(tmp_path, image={"file_name": value}).records("train")


@pytest.mark.parametrize(
    ("size", "expected"),
    [(100, (50, 100)), ("100", (50, 100)), (100.0, (50, 100)), (0, (50, 0)), (None, (50, 0)), ("0", (50, 0))],
)
def test_sizes_are_whole_pixels_and_0_means_unknown(tmp_path: Path, size: Any, expected: tuple[int, int]) -> None:
    assert write_tree(tmp_path, image={"width": size}).ground_truth("train")["7"].size_hw == expected


@pytest.mark.parametrize("size", [-1, "-5", 99.5, "wide", True, [100], 10**400, float("nan")])
def test_a_size_that_no_image_has_is_an_error(tmp_path: Path, size: Any) -> None:
    with pytest.raises(DataError, match=r'images\[0\]: expected a whole number of pixels.* "width", got'):
        write_tree(tmp_path, image={"width": size}).ground_truth("train")


@pytest.mark.parametrize("box", [["1", "2", "3", "4"], ["1.0", 2, " 3 ", 4.0]])
def test_boxes_of_numbers_as_text_are_read(tmp_path: Path, box: list[Any]) -> None:
    dataset = write_tree(tmp_path, annotation={"bbox": box})
    assert dataset.ground_truth("train")["7"].boxes_xyxy.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize(
    "box",
    [
        [10**400, 1, 2, 3], ["1" * 400, 1, 2, 3], [1e300, 1, 2, 3], [2**24 + 2, 1, 2, 3], [float("inf"), 1, 2, 3],
        [float("nan"), 1, 2, 3], ["nan", 1, 2, 3], [True, 1, 2, 3], ["1_0", 1, 2, 3], ["", 1, 2, 3], [None, 1, 2, 3],
        [[1, 2, 3, 4]], [1, 2, 3], [1, 2, 3, 4, 5], {"x": 1}, "1 2 3 4", None,
    ],
)  # fmt: skip
def test_a_box_that_is_not_four_numbers_is_an_error_that_names_the_annotation(tmp_path: Path, box: Any) -> None:
    dataset = write_tree(tmp_path, annotation={"bbox": box})
    assert dataset.records("train")[0].labels == (0,)
    with pytest.raises(DataError, match=r'annotation 1 of image 7: expected "bbox" \[x, y, width, height\]') as caught:
        dataset.ground_truth("train")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (1, [1, 2, 4, 6]),
        ("1", [1, 2, 4, 6]),
        ("BoxMode.XYWH_ABS", [1, 2, 4, 6]),
        (0, [1, 2, 3, 4]),
        ("XYXY_ABS", [1, 2, 3, 4]),
    ],
)
def test_the_mode_of_a_box_is_honoured(tmp_path: Path, mode: Any, expected: list[int]) -> None:
    dataset = write_tree(tmp_path, annotation={"bbox_mode": mode})
    assert dataset.ground_truth("train")["7"].boxes_xyxy.tolist() == [expected]


@pytest.mark.parametrize("mode", [2, 3, 4, "XYWH_REL", None, True, []])
def test_a_mode_that_is_not_in_pixels_is_an_error(tmp_path: Path, mode: Any) -> None:
    dataset = write_tree(tmp_path, annotation={"bbox_mode": mode})
    with pytest.raises(DataError, match=r"annotation 1 of image 7: expected bbox_mode 1 .* got"):
        dataset.ground_truth("train")


# ------------------------------------------------------------------------------------------------------- the file itself


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_any_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    dataset = write_tree(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["categories"][-1]["name"] = "Fähre"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert dataset.class_names[0] == "Fähre"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            b'{\n"name": "F\xe4hre"}', r"train\.json:2: expected JSON in UTF-8, got the byte 0xe4 at 12", id="latin"
        ),
        pytest.param(gzip.compress(b"{}"), "expected JSON, got a gzip file; unpack it", id="gzip"),
        pytest.param(b"", "1:1: expected JSON, got an empty file", id="empty"),
        pytest.param(b" \n", "1:1: expected JSON, got an empty file", id="blank"),
        pytest.param(b'{"images": []}\n}', r"json:2:1: expected JSON: Extra data", id="trailing"),
        pytest.param(b'{"id": ' + b"1" * 5000 + b"}", "numbers of ordinary length", id="5000 digits"),
        pytest.param(b'{"a":' * 100_000, "nested too deeply", id="deep"),
        pytest.param(b'"images"', "expected an object of images, annotations and categories, got a string", id="text"),
        pytest.param(b"true", "expected an object of images, annotations and categories, got a boolean", id="boolean"),
    ],
)
def test_a_file_that_is_no_json_is_named_with_its_place(tmp_path: Path, data: bytes, message: str) -> None:
    dataset = write_tree(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").write_bytes(data)
    with pytest.raises(DataError, match=message):
        dataset.records("train")


def test_a_key_that_says_two_things_is_an_error_and_one_that_repeats_itself_is_not(tmp_path: Path) -> None:
    write_tree(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    text = path.read_text()
    path.write_text(text.replace('"image_id": 7', '"image_id": 7, "image_id": 7'))
    assert CocoDataset(str(tmp_path)).records("train")[0].labels == (0,)
    path.write_text(text.replace('"image_id": 7', '"image_id": 7, "image_id": 8'))
    with pytest.raises(DataError, match=r"got 'image_id' with 7 and with 8 in one of id 1; keep one of them"):
        CocoDataset(str(tmp_path)).records("train")


@pytest.mark.parametrize(
    ("annotation", "what"),
    [({"id": 1, "image_id": 7, "caption": "a disc"}, "captions"), ({"image_id": 7, "segments_info": []}, "panoptic")],
)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path: Path, annotation: Any, what: str) -> None:
    dataset = write_tree(tmp_path)
    write_json(tmp_path, "train", {"images": [], "annotations": [annotation]})
    with pytest.raises(DataError, match=rf"expected instances .*, got {what}.*data\.splits"):
        dataset.records("train")
