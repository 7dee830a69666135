from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.trees import build_coco_tree, build_voc_tree, coco_document
from weaksam.config import DataConfig
from weaksam.datasets import detect_kind, open_dataset
from weaksam.datasets.coco import CocoDataset
from weaksam.datasets.coco_layout import split_of
from weaksam.errors import ConfigError, DataError


def write(root: Path, path: str, *names: str, first: int = 0) -> None:
    """Write an instances file; image n, counted from ``first``, holds one object of class n."""
    content: dict[str, Any] = coco_document()
    for n, name in enumerate(names):
        content["images"].append({"id": first + n, "file_name": name, "width": 64, "height": 64})
        content["annotations"].append({"id": n, "image_id": first + n, "category_id": 3 + n, "bbox": [0, 0, 9, 9]})
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(content))


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def records(root: Path, *splits: str) -> dict[str, dict[str, str]]:
    """Path under the root by image id, by split."""
    dataset = CocoDataset(str(root), splits=splits)
    return {s: {r.image_id: str(Path(r.uri).relative_to(root)) for r in dataset.records(s)} for s in dataset.splits}


# ---------------------------------------------------------------------------------------------------- annotation files


def test_roboflow_export_is_read_with_an_id_for_every_picture(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path, f"{split}/_annotations.coco.json", "a.jpg", f"{split}.jpg")
        touch(tmp_path, f"{split}/a.jpg", f"{split}/{split}.jpg")
    touch(tmp_path, "README.roboflow.txt")
    assert detect_kind(str(tmp_path)) == "coco"
    assert records(tmp_path) == {
        split: {f"{split}/0": f"{split}/a.jpg", f"{split}/1": f"{split}/{split}.jpg"}
        for split in ("test", "train", "valid")
    }
    dataset = CocoDataset(str(tmp_path))
    assert list(dataset.ground_truth("valid")) == ["valid/0", "valid/1"]
    assert [str(one) for one in dataset.passed_over] == ["1 files .txt (e.g. README.roboflow.txt)"]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("Annotations/Instances_Train.JSON", "Train"),
        ("coco/annotations/instances_val.json", "val"),
        ("_annotations.coco.json", "all"),
        ("train/_Annotations.COCO.json", "train"),
        ("annotations/train.json", "train"),
        ("train/labels.json", "train"),
        ("result.json", "all"),
        ("annotations/annotations_coco.json", "all"),
        ("x/my_train_annotations.coco.json", "my_train"),
    ],
)
def test_annotation_files_of_usual_names_are_found(tmp_path: Path, path: str, split: str) -> None:
    write(tmp_path, path, "a.jpg")
    touch(tmp_path, "pictures/a.jpg")
    assert detect_kind(str(tmp_path)) == "coco"
    assert records(tmp_path) == {split: {"0": "pictures/a.jpg"}}


@pytest.mark.parametrize(
    "content",
    [
        {"images": [], "annotations": []},
        {"images": [], "annotations": [], "categories": [], "segments_info": 1},
        [],
        {"a": 1},
    ],
)
def test_json_of_other_content_is_no_annotation_file(tmp_path: Path, content: Any) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert detect_kind(str(tmp_path)) == "folder"


def test_a_json_for_every_picture_is_no_annotation_file(tmp_path: Path) -> None:
    for n in range(17):
        write(tmp_path, f"{n}.json", f"{n}.jpg")
        touch(tmp_path, f"{n}.jpg")
    assert detect_kind(str(tmp_path)) == "folder"


def test_an_annotation_file_that_is_cut_short_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "annotations/train.json", "a.jpg")
    touch(tmp_path, "a.jpg")
    path = tmp_path / "annotations" / "train.json"
    path.write_text(path.read_text()[:-1])
    with pytest.raises(DataError, match=r"train\.json:1:\d+: expected JSON"):
        open_dataset(DataConfig(uri=str(tmp_path))).records("train")


@pytest.mark.parametrize(
    "paths",
    [
        ("annotations/instances_train.json", "train/_annotations.coco.json"),
        ("annotations/instances_train.json", "annotations/instances_train.JSON"),
        ("old/annotations/instances_train.json", "annotations/instances_train.json"),
        ("annotations/train.json", "train/annotations.json"),
    ],
)
def test_two_annotation_files_for_a_split_are_refused_with_their_names(tmp_path: Path, paths: tuple[str, ...]) -> None:
    for path in paths:
        write(tmp_path, path, "a.jpg")
    touch(tmp_path, "train/a.jpg")
    with pytest.raises(
        DataError, match=r"expected one annotation file for split train, found .* move all but one"
    ) as caught:
        open_dataset(DataConfig(uri=str(tmp_path)))
    assert all(path in str(caught.value) for path in paths)
    (tmp_path / paths[0]).unlink()  # the way out
    assert list(records(tmp_path)) == ["train"]


def test_two_annotation_files_for_a_split_that_is_not_used_do_not_matter(tmp_path: Path) -> None:
    for path in ("annotations/instances_a.json", "a/_annotations.coco.json", "annotations/instances_b.json"):
        write(tmp_path, path, "a.jpg")
    touch(tmp_path, "p/a.jpg")
    assert records(tmp_path, "b") == {"b": {"0": "p/a.jpg"}}


def test_a_folder_of_two_layouts_is_refused_unless_its_kind_is_given(tmp_path: Path) -> None:
    build_voc_tree(tmp_path)
    build_coco_tree(tmp_path)
    with pytest.raises(ConfigError, match=r"found VOC .* and COCO .*train2017, val2017.* data\.kind=voc"):
        open_dataset(DataConfig(uri=str(tmp_path)))
    assert open_dataset(DataConfig(uri=str(tmp_path), kind="coco")).splits == ("train2017", "val2017")
    assert open_dataset(DataConfig(uri=str(tmp_path), kind="voc")).splits == ("trainval", "test")


def test_a_table_of_labels_beside_coco_is_refused_unless_the_kind_is_given(tmp_path: Path) -> None:
    build_coco_tree(tmp_path)
    (tmp_path / "labels.csv").write_text("path,labels\n")
    with pytest.raises(ConfigError, match=r"COCO .* and a folder with labels\.csv.* data\.kind=coco"):
        open_dataset(DataConfig(uri=str(tmp_path)))
    assert open_dataset(DataConfig(uri=str(tmp_path), kind="folder")).kind == "folder"


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("a/b/c.json", "c"),
        ("train/coco.json", "train"),
        ("json/labels.json", "all"),
        ("train.part-1.json", "train_part_1"),
    ],
)
def test_the_split_of_any_name(path: str, split: str) -> None:
    assert split_of(path) == split


# --------------------------------------------------------------------------------------------------------------- pictures


def test_each_split_gets_its_own_folder_of_frames(tmp_path: Path) -> None:
    frames = [f"frame_{n:06d}.png" for n in range(3)]
    for split, first in (("train", 0), ("val", 100)):
        write(tmp_path, f"annotations/instances_{split}.json", *frames, first=first)
        touch(tmp_path, *(f"{split}_images/{frame}" for frame in frames))
    assert records(tmp_path) == {
        split: {str(first + n): f"{split}_images/{frame}" for n, frame in enumerate(frames)}
        for split, first in (("train", 0), ("val", 100))
    }


def test_folders_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 100)):
        write(tmp_path, f"annotations/instances_{split}.json", "1.png", "2.png", first=first)
    touch(tmp_path, "north/1.png", "north/2.png", "south/1.png", "south/2.png")
    with pytest.raises(DataError, match=r"instances_train\.json: images\[0\]: '1\.png' .*north/1\.png, south/1\.png"):
        records(tmp_path)


def test_pictures_of_another_split_are_not_taken_for_missing_ones(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 100)):
        write(tmp_path, f"annotations/instances_{split}.json", "1.png", first=first)
    touch(tmp_path, "train/1.png")
    for splits in ((), ("val",)):
        with pytest.raises(
            DataError, match=r"'1\.png' was found only as train/1\.png, which is image 0 of split train"
        ):
            records(tmp_path, *splits)


def test_equal_numbers_do_not_make_pictures_of_another_split_one_s_own(tmp_path: Path) -> None:
    write(tmp_path, "annotations/instances_train.json", "1.png", "2.png")
    write(tmp_path, "annotations/instances_val.json", "2.png")  # number 0 is 1.png of train
    touch(tmp_path, "train/1.png", "train/2.png")
    with pytest.raises(DataError, match=r"'2\.png' was found only as train/2\.png, which is image 1 of split train"):
        records(tmp_path, "val")
    write(tmp_path, "annotations/instances_val.json", "2.png", "1.png", first=1)  # number 1 shows another class
    with pytest.raises(DataError, match=r"'2\.png' was found only as train/2\.png, which is image 1 of split train"):
        records(tmp_path, "val")


def test_an_absolute_name_that_says_one_split_is_not_a_picture_of_another(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 100)):
        write(tmp_path, f"annotations/instances_{split}.json", f"/data/{split}/1.png", first=first)
    touch(tmp_path, "train/1.png", "train/2.png")
    with pytest.raises(DataError, match=r"'/data/val/1\.png' was found only as train/1\.png, which is image 0 of"):
        records(tmp_path, "val")
    write(tmp_path, "annotations/instances_val.json", "C:\\val\\2.png")
    with pytest.raises(DataError, match=r"was found only as train/2\.png, which is in the folder of split train; put"):
        records(tmp_path, "val")
    touch(tmp_path, "val/2.png")
    assert records(tmp_path, "val") == {"val": {"0": "val/2.png"}}


def test_a_part_of_a_split_finds_its_pictures_in_the_folder_of_the_whole(tmp_path: Path) -> None:
    write(tmp_path, "annotations/instances_val2014.json", "1.png", "2.png")
    write(tmp_path, "annotations/instances_minival2014.json", "1.png")
    touch(tmp_path, "val2014/1.png", "val2014/2.png")
    assert records(tmp_path, "minival2014") == {"minival2014": {"0": "val2014/1.png"}}


# -------------------------------------------------------------------------------------------------------------------- ids


def test_ids_are_coco_s_own_where_splits_do_not_share_one(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 2)):
        write(tmp_path, f"annotations/instances_{split}.json", f"{split}1.png", f"{split}2.png", first=first)
        touch(tmp_path, f"{split}/{split}1.png", f"{split}/{split}2.png")
    assert {split: list(of) for split, of in records(tmp_path).items()} == {"train": ["0", "1"], "val": ["2", "3"]}


def test_one_shared_id_gives_every_image_the_split_in_its_id_and_one_split_alone_none(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 1)):
        write(tmp_path, f"annotations/instances_{split}.json", f"{split}1.png", f"{split}2.png", first=first)
        touch(tmp_path, f"{split}/{split}1.png", f"{split}/{split}2.png")
    assert {split: list(of) for split, of in records(tmp_path).items()} == {
        "train": ["train/0", "train/1"],
        "val": ["val/1", "val/2"],
    }
    assert list(records(tmp_path, "val")["val"]) == ["1", "2"]


def test_one_picture_in_two_of_coco_s_years_is_an_overlap_and_keeps_its_number(tmp_path: Path) -> None:
    for split, name in (("train2014", "COCO_train2014_000000000009.jpg"), ("val2017", "000000000009.jpg")):
        write(tmp_path, f"annotations/instances_{split}.json", name, first=9)
        touch(tmp_path, f"{split}/{name}")
        (tmp_path / split / name).write_bytes(b"the same picture")
    assert {split: list(of) for split, of in records(tmp_path).items()} == {"train2014": ["9"], "val2017": ["9"]}
    (tmp_path / "val2017" / "000000000009.jpg").write_bytes(b"another picture")
    assert list(records(tmp_path)["val2017"]) == ["val2017/9"]


# ------------------------------------------------------------------------------------------------------------ passed over


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    write(tmp_path, "annotations/instances_train.json", "1.png", "2.png", "3.png")
    write(tmp_path, "annotations/instances_val.json", "4.png")
    (tmp_path / "annotations" / "captions_train.json").write_text("nonsense")
    touch(tmp_path, "train/1.png", "train/0.png", "train/x.HEIC", "train/y.heic", "licence", "instances.json.gz")
    told = CocoDataset(str(tmp_path), splits=("train",)).passed_over
    assert [(one.what, one.count, one.example) for one in told] == [
        ("listed images without a file", 2, "train/2.png"),
        ("images that no split in use lists", 1, "train/0.png"),
        ("annotation files that are not read", 2, "annotations/captions_train.json"),
        ("files .heic", 2, "train/x.HEIC"),
        ("files without suffix", 1, "licence"),
    ]


def test_none_found_says_what_lies_there(tmp_path: Path) -> None:
    write(tmp_path, "annotations/instances_train.json", "1.png")
    touch(tmp_path, "train/0001.png")
    with pytest.raises(
        DataError, match=r"found none \(e\.g\. 1\.png; 1 images of other names lie there, e\.g\. train/0001"
    ):
        records(tmp_path)
