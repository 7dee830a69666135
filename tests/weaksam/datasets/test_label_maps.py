"""True label maps: drawn of objects, in files, of pictures of another size; what is not known and what is wrong."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from tests.support.trees import SIZE, build_coco_tree, build_folder_tree, build_voc_tree
from weaksam.config import DataConfig, ShapesConfig
from weaksam.datasets import Dataset, check_true_label_maps, open_dataset
from weaksam.datasets.coco import CocoDataset
from weaksam.datasets.folder import FolderDataset
from weaksam.datasets.ground_truth import StatedSize
from weaksam.datasets.label_maps import MapsOfObjects
from weaksam.datasets.shapes import Shapes
from weaksam.datasets.voc import CLASS_NAMES, VocDataset
from weaksam.errors import DataError
from weaksam.label_maps import IGNORED, encode_label_map
from weaksam.masks_np import encode_rle
from weaksam.structures import GroundTruth

HORSE, PERSON = CLASS_NAMES.index("horse") + 1, CLASS_NAMES.index("person") + 1
STRIPES = np.repeat(np.array([[0, HORSE, PERSON, IGNORED]], np.uint8), 6, axis=0)  # [6, 4]


def map_of(dataset: Dataset, split: str, image_id: str, size_hw: tuple[int, int]) -> np.ndarray:
    found = dataset.true_label_maps(split).of(image_id, size_hw)
    assert found is not None
    assert (found.dtype, found.shape) == (np.uint8, size_hw)
    return found


# -------------------------------------------------------------------------------------------------------- of objects


def objects(*of: tuple[int, np.ndarray | None, list[float]], crowd: int = -1) -> GroundTruth:
    """Objects of (class, mask, box), the one of the number ``crowd`` a crowd."""
    return GroundTruth(
        boxes_xyxy=np.array([box for _, _, box in of], np.float32).reshape(-1, 4),
        class_index=np.array([c for c, _, _ in of], np.int64),
        difficult=np.zeros(len(of), np.bool_),
        crowd=np.arange(len(of)) == crowd,
        mask_rle=[None if mask is None else encode_rle(mask) for _, mask, _ in of],
    )


def mask(*columns: int) -> np.ndarray:
    drawn = np.zeros((2, 6), np.bool_)
    drawn[:, list(columns)] = True
    return drawn


BOX = [0.0, 0.0, 6.0, 2.0]


@pytest.mark.parametrize(
    ("truth", "row"),
    [
        pytest.param(objects(), [0, 0, 0, 0, 0, 0], id="no-object"),
        pytest.param(objects((0, mask(2), BOX), (1, mask(1, 2, 3), BOX)), [0, 2, 1, 2, 0, 0], id="smaller-on-top"),
        pytest.param(objects((1, mask(1, 2, 3), BOX), (0, mask(2), BOX)), [0, 2, 1, 2, 0, 0], id="in-any-order"),
        pytest.param(objects((0, mask(1, 2), BOX), (1, mask(2, 3), BOX)), [0, 1, 2, 2, 0, 0], id="equal-the-later"),
        pytest.param(
            objects((0, mask(0, 1, 2, 3), BOX), (1, mask(3, 4), BOX), crowd=0), [1, 1, 1, 2, 2, 0], id="crowds-too"
        ),
        pytest.param(objects((0, mask(), BOX)), [0, 0, 0, 0, 0, 0], id="an-empty-mask"),
        pytest.param(
            objects((0, mask(1, 2), BOX), (1, None, [1.5, 0, 3.5, 2])), [0, 1, 1, IGNORED, 0, 0], id="a-box-alone"
        ),
    ],
)
def test_maps_are_drawn_of_objects(truth: GroundTruth, row: list[int]) -> None:
    drawn = MapsOfObjects(truth={"a": truth}).of("a", (2, 6))
    np.testing.assert_array_equal(drawn, [row, row])


def test_without_masks_no_map_is_known() -> None:
    maps = MapsOfObjects(truth={"boxes": replace(objects((0, None, BOX)), mask_rle=None), "masks": objects()})
    assert list(maps.image_ids) == ["masks"]
    assert maps.of("boxes", (2, 6)) is None
    assert maps.of("nowhere", (2, 6)) is None


def test_more_classes_than_a_map_has_numbers_are_refused() -> None:
    maps = MapsOfObjects(truth={"a": objects((254, mask(1), BOX)), "b": objects((253, mask(0, 1, 2, 3, 4, 5), BOX))})
    with pytest.raises(DataError, match=r"image a: expected at most 254 classes, .* got 255"):
        maps.of("a", (2, 6))
    np.testing.assert_array_equal(maps.of("b", (2, 6)), np.full((2, 6), 254))


def test_the_digest_of_objects_changes_with_masks_and_classes() -> None:
    digests = {
        MapsOfObjects(truth={"a": of}).digest()
        for of in (objects((0, mask(1), BOX)), objects((1, mask(1), BOX)), objects((0, mask(2), BOX)), objects())
    }
    assert len(digests) == 4
    assert MapsOfObjects(truth={"a": objects()}).digest() in digests


def test_drawings_know_their_visible_pixels() -> None:
    dataset = Shapes(ShapesConfig(size=64, train=3, val=0, test=0))
    for image_id, truth in dataset.ground_truth("train").items():
        expected = np.zeros((64, 64), np.uint8)
        for of_object, class_index in zip(dataset.masks(image_id), truth.class_index, strict=True):
            expected[of_object] = class_index + 1
        np.testing.assert_array_equal(map_of(dataset, "train", image_id, (64, 64)), expected)


def coco(root: Path, segmentation: object, stated_size: StatedSize = "check") -> CocoDataset:
    """A tree in which the first object of val2017 alone has a mask, and image 5 no other object."""
    if not root.is_dir():
        build_coco_tree(root)
    path = root / "annotations" / "instances_val2017.json"
    document = json.loads(path.read_text())
    first = document["annotations"][0]
    document["annotations"] = [
        {**first, "segmentation": segmentation},
        *(one for one in document["annotations"] if one["image_id"] != first["image_id"]),
    ]
    path.write_text(json.dumps(document))
    return CocoDataset(str(root), stated_size=stated_size)


def test_coco_s_polygons_become_maps_and_a_split_without_any_has_none(tmp_path: Path) -> None:
    dataset = coco(tmp_path / "coco", [[8, 16, 24, 16, 24, 32, 8, 32]])
    expected = np.zeros((SIZE, SIZE), np.uint8)
    first = dataset.ground_truth("val2017")["5"].class_index[0]
    expected[16:32, 8:24] = first + 1
    np.testing.assert_array_equal(map_of(dataset, "val2017", "5", (SIZE, SIZE)), expected)
    assert set(dataset.true_label_maps("val2017").image_ids) == {"5", "6", "7"}
    assert not dataset.true_label_maps("train2017").image_ids
    assert dataset.true_label_maps("train2017").of("1", (SIZE, SIZE)) is None
    with pytest.raises(DataError, match="image 5: expected a picture of 64 x 64 pixels"):
        dataset.true_label_maps("val2017").of("5", (32, 32))


def test_coco_s_maps_are_scaled_to_resized_pictures(tmp_path: Path) -> None:
    dataset = coco(tmp_path / "coco", [[8, 16, 24, 16, 24, 32, 8, 32]], "scale")
    small = map_of(dataset, "val2017", "5", (SIZE // 2, SIZE // 2))
    np.testing.assert_array_equal(np.unique(np.argwhere(small), axis=0)[[0, -1]], [[8, 4], [15, 11]])


# ---------------------------------------------------------------------------------------------------------- in files


def voc(root: Path, folder: str = "SegmentationClass", stated_size: StatedSize = "check") -> VocDataset:
    """A devkit of two splits, in which the first image of trainval has a segmentation."""
    year = root / "VOC2012"
    if not year.is_dir():
        build_voc_tree(year)
        for path in (year / "Annotations").glob("*.xml"):
            path.write_text("<annotation><object><name>horse</name></object></annotation>")
    if folder == "SBD":
        (root / "SBD" / "cls").mkdir(parents=True)
        scipy.io.savemat(root / "SBD/cls/000001.mat", {"GTcls": {"Segmentation": STRIPES}})
    else:
        (year / folder).mkdir(exist_ok=True)
        (year / folder / "000001.png").write_bytes(encode_label_map(STRIPES))
    return VocDataset(str(year), stated_size=stated_size)


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassAug", "SBD"])
def test_voc_s_maps_are_those_of_the_devkit_or_of_sbd(tmp_path: Path, folder: str) -> None:
    dataset = voc(tmp_path, folder)
    np.testing.assert_array_equal(map_of(dataset, "trainval", "000001", (6, 4)), STRIPES)
    maps = dataset.true_label_maps("trainval")
    assert list(maps.image_ids) == ["000001"]
    assert maps.of("000002", (6, 4)) is None
    assert not dataset.true_label_maps("test").image_ids
    assert not [one for one in dataset.passed_over if "Segmentation" in str(one)]


def test_the_devkit_s_own_map_comes_first(tmp_path: Path) -> None:
    voc(tmp_path, "SegmentationClassAug")
    dataset = voc(tmp_path)
    (tmp_path / "VOC2012/SegmentationClassAug/000001.png").write_bytes(b"not looked at")
    np.testing.assert_array_equal(map_of(dataset, "trainval", "000001", (6, 4)), STRIPES)


def test_where_voc_s_classes_are_others_their_numbers_are_not_known(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "VOC2012/Annotations/000002.xml").write_text(
        "<annotation><object><name>zebra</name></object></annotation>"
    )
    assert not VocDataset(str(tmp_path / "VOC2012")).true_label_maps("trainval").image_ids


@pytest.mark.parametrize(
    ("stated_size", "size_hw", "expected"),
    [
        pytest.param("scale", (12, 8), STRIPES.repeat(2, 0).repeat(2, 1), id="doubled"),
        pytest.param("scale", (3, 2), STRIPES[1::2, 1::2], id="halved"),
        pytest.param("scale", (6, 4), STRIPES, id="as it is"),
        pytest.param("ignore", (2, 3), STRIPES[:2, :3], id="cut"),
        pytest.param("ignore", (6, 6), np.pad(STRIPES, ((0, 0), (0, 2)), constant_values=IGNORED), id="filled up"),
        pytest.param("ignore", (7, 3), np.pad(STRIPES[:, :3], ((0, 1), (0, 0)), constant_values=IGNORED), id="both"),
    ],
)
def test_a_picture_of_another_size(
    tmp_path: Path, stated_size: StatedSize, size_hw: tuple[int, int], expected: np.ndarray
) -> None:
    dataset = voc(tmp_path, stated_size=stated_size)
    np.testing.assert_array_equal(map_of(dataset, "trainval", "000001", size_hw), expected)


@pytest.mark.parametrize(
    ("stated_size", "size_hw", "message"),
    [
        ("check", (12, 8), "4 x 6 pixels .* got one of 8 x 12; annotate this picture, .* data.stated_size=scale"),
        ("check", (4, 6), "4 x 6 pixels .* got one of 6 x 4; width and height have changed places"),
        ("scale", (12, 4), "4 x 6 pixels .* got one of 4 x 12; its proportions are others"),
    ],
    ids=["another", "turned", "squeezed"],
)
def test_a_picture_of_another_size_is_an_error_as_for_boxes(
    tmp_path: Path, stated_size: StatedSize, size_hw: tuple[int, int], message: str
) -> None:
    dataset = voc(tmp_path, stated_size=stated_size)
    with pytest.raises(DataError, match=rf"000001\.png: image 000001: expected a picture of {message}"):
        dataset.true_label_maps("trainval").of("000001", size_hw)


def rgb() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 6)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode_label_map(STRIPES * 0 + 21), r"expected numbers of classes 1\.\.20, 0 and 255, got 21"),
        (b"", "expected a PNG of numbers, got empty file"),
        (encode_label_map(STRIPES)[:40], "expected a PNG of numbers, got truncated"),
        (rgb(), "expected a PNG of numbers, got not a picture of numbers"),
    ],
    ids=["of-no-class", "empty", "cut", "colours"],
)
def test_a_file_that_is_no_map_is_told_when_it_is_read(tmp_path: Path, data: bytes, message: str) -> None:
    voc(tmp_path)
    (tmp_path / "VOC2012/SegmentationClass/000001.png").write_bytes(data)
    dataset = VocDataset(str(tmp_path / "VOC2012"))
    maps = dataset.true_label_maps("trainval")
    with pytest.raises(DataError, match=rf"SegmentationClass/000001\.png: {message}"):
        maps.of("000001", (6, 4))
    with pytest.raises(DataError, match=message):
        check_true_label_maps(dataset, "trainval", lambda: {"000001": (6, 4)})
    assert check_true_label_maps(dataset, "trainval", dict) == (1, maps.digest())


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassAug"])
def test_a_map_that_is_written_again_makes_other_data(tmp_path: Path, folder: str) -> None:
    before = voc(tmp_path, folder)
    digest = before.true_label_maps("trainval").digest()
    path = tmp_path / "VOC2012" / folder / "000001.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    after = VocDataset(str(tmp_path / "VOC2012"))
    assert after.true_label_maps("trainval").digest() != digest
    assert after.fingerprint() != before.fingerprint()
    assert after.true_label_maps("test").digest() == before.true_label_maps("test").digest()


# ---------------------------------------------------------------------------------------------------------- a folder


def folder(root: Path, *maps: str, classes: str = "cat\ndog\n", pictures: tuple[str, ...] = ("a.jpg", "b.jpg")) -> Path:
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 6)).save(root / name)
    for name in maps:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode_label_map(np.minimum(STRIPES, 2)))
    (root / "classes.txt").write_text(classes)
    return root


@pytest.mark.parametrize(
    ("picture", "path"),
    [
        ("a.jpg", "masks/a.png"),
        ("images/a.jpg", "masks/a.png"),
        ("cam 1/a.JPG", "masks/cam 1/a.PNG"),
        ("images/cam/a.png", "masks/cam/a.png"),
        ("train/a.png", "masks/train/a.png"),
    ],
)
def test_a_folder_has_the_map_of_a_picture_under_masks(tmp_path: Path, picture: str, path: str) -> None:
    dataset = FolderDataset(str(folder(tmp_path, path, pictures=(picture, f"{picture}.jpg"))))
    assert [record.image_id for split in dataset.splits for record in dataset.records(split)] == sorted(
        [picture, f"{picture}.jpg"]
    )
    (split,) = dataset.splits
    assert list(dataset.true_label_maps(split).image_ids) == [picture]
    np.testing.assert_array_equal(map_of(dataset, split, picture, (6, 4)), np.minimum(STRIPES, 2))
    assert dataset.passed_over == ()


def test_maps_do_not_touch_splits_and_belong_to_those_of_their_pictures(tmp_path: Path) -> None:
    pictures = ("train/a.jpg", "val/a.jpg")
    dataset = FolderDataset(str(folder(tmp_path, "masks/train/a.png", pictures=pictures)))
    assert dataset.splits == ("train", "val")
    assert [len(dataset.true_label_maps(split).image_ids) for split in dataset.splits] == [1, 0]


def test_maps_of_no_picture_are_told(tmp_path: Path) -> None:
    dataset = FolderDataset(str(folder(tmp_path, "masks/a.png", "masks/c.png")))
    assert [record.image_id for record in dataset.records("all")] == ["a.jpg", "b.jpg"]
    assert [str(one) for one in dataset.passed_over] == ["1 label maps of no picture (e.g. masks/c.png)"]


def test_pictures_in_a_folder_masks_stay_pictures_where_they_are_maps_of_none_or_labelled(tmp_path: Path) -> None:
    dataset = FolderDataset(str(folder(tmp_path / "one", "masks/c.png")))
    assert [record.image_id for record in dataset.records("all")] == ["a.jpg", "b.jpg", "masks/c.png"]
    root = folder(tmp_path / "other", "masks/a.png")
    (root / "labels.csv").write_text("path,labels\nmasks/a.png,cat\n")
    labelled = FolderDataset(str(root))
    assert [record.image_id for record in labelled.records("all")] == ["a.jpg", "b.jpg", "masks/a.png"]
    assert not labelled.true_label_maps("all").image_ids


def test_classes_that_a_folder_does_not_name_have_no_number(tmp_path: Path) -> None:
    dataset = FolderDataset(str(folder(tmp_path, "masks/a.png", classes="cat\n")))
    with pytest.raises(DataError, match=r"masks/a\.png: expected numbers of classes 1\.\.1, 0 and 255, got 2"):
        dataset.true_label_maps("all").of("a.jpg", (6, 4))


def test_a_folder_s_map_that_is_written_again_makes_other_data(tmp_path: Path) -> None:
    before = FolderDataset(str(folder(tmp_path, "masks/a.png")))
    path = tmp_path / "masks/a.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    after = FolderDataset(str(tmp_path))
    assert after.fingerprint() != before.fingerprint()
    assert after.true_label_maps("all").digest() != before.true_label_maps("all").digest()


@pytest.mark.parametrize("kind", ["voc", "coco", "folder", "shapes"])
def test_every_kind_says_what_it_knows_and_pictures_alone_know_nothing(tmp_path: Path, kind: str) -> None:
    build = {"voc": build_voc_tree, "coco": build_coco_tree, "folder": build_folder_tree}.get(kind)
    config = DataConfig(
        uri=str(build(tmp_path)) if build else "shapes:", shapes=ShapesConfig(size=64, train=2, val=1, test=1)
    )
    dataset = open_dataset(config)
    for split in dataset.splits:
        maps = dataset.true_label_maps(split)
        assert set(maps.image_ids) <= {record.image_id for record in dataset.records(split)}
        assert maps.digest() == open_dataset(config).true_label_maps(split).digest()
        assert maps.of("nonsense", (SIZE, SIZE)) is None
        assert not open_dataset(replace(config, pictures_only=True)).true_label_maps(split).image_ids
    assert bool(dataset.true_label_maps(dataset.splits[0]).image_ids) == (kind == "shapes")
    with pytest.raises(DataError, match="nonsense"):
        dataset.true_label_maps("nonsense")
