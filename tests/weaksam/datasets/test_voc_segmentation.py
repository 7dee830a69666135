"""Segmentations of VOC's images, by PNG and by SBD's MATLAB files: masks to measure by, and trainaug's labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from tests.support.trees import build_voc_tree, voc_object, voc_xml, write_list
from weaksam.datasets.ground_truth import true_objects
from weaksam.datasets.voc import CLASS_NAMES, VocDataset
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle
from weaksam.structures import LABELS_OF_OBJECTS, LABELS_OF_SEGMENTATION

HEIGHT, WIDTH = 6, 8
HORSE, PERSON = CLASS_NAMES.index("horse"), CLASS_NAMES.index("person")
NUMBERS = np.zeros((HEIGHT, WIDTH), np.uint8)
NUMBERS[1:4, 1:4] = 1
NUMBERS[0, 6:8] = 2
NUMBERS[4, 1:4] = 255
BOXES = [(1.0, 1.0, 4.0, 4.0), (6.0, 0.0, 8.0, 1.0)]
STRIPES = np.ones((HEIGHT, WIDTH), np.uint8)  # of two objects, a row each in turn
STRIPES[1::2] = 2


def png(numbers: np.ndarray, mode: str = "P") -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(numbers.astype(np.uint8), "L")
    if mode == "P":
        picture.putpalette(list(range(256)) * 3)  # of fewer colours Pillow writes fewer bits, and other numbers
    picture.convert(mode).save(file, "png") if mode == "RGB" else picture.save(file, "png")
    return file.getvalue()


def test_voc_images_with_and_without_a_png(tmp_path: Path) -> None:
    build_voc_tree(tmp_path, {"trainval": 1})
    write_list(tmp_path, "trainval", "000001", "2")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "JPEGImages" / "2.jpg")
    xml = voc_xml(*(voc_object("ring", box) for box in BOXES))
    (tmp_path / "Annotations" / "2.xml").write_text(xml.replace(">64<", ">0<"))  # states no size
    (tmp_path / "SegmentationObject").mkdir()
    (tmp_path / "SegmentationObject" / "2.png").write_bytes(png(NUMBERS))
    truth = VocDataset(str(tmp_path)).ground_truth("trainval", masks=True)
    assert truth["000001"].mask_rle is None
    assert [rle is None for rle in truth["2"].mask_rle] == [False, False]
    assert VocDataset(str(tmp_path)).ground_truth("trainval")["2"].mask_rle is None


def voc_of_overlapping(root: Path, *names: str) -> VocDataset:
    """One image of 8 x 6 pixels; the rows of the first object are the even ones, those of the second the odd ones."""
    boxes = [(0, 0, WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT)]
    for folder in ("Annotations", "JPEGImages", "SegmentationObject", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    xml = voc_xml(*(voc_object(name, box) for name, box in zip(names, boxes, strict=True)), size=size)
    (root / "Annotations" / "a.xml").write_text(xml)
    (root / "JPEGImages" / "a.jpg").touch()
    write_list(root, "train", "a")
    (root / "SegmentationObject" / "a.png").write_bytes(png(STRIPES))
    classes = np.where(STRIPES == 1, CLASS_NAMES.index("horse") + 1, CLASS_NAMES.index("person") + 1)
    (root / "SegmentationClass" / "a.png").write_bytes(png(classes))
    return VocDataset(str(root))


@pytest.mark.parametrize(
    ("names", "of_first"),
    [(("horse", "person"), 1), (("person", "horse"), 2), (("person", "rider"), 1)],
    ids=["as listed", "listed the other way", "classes whose numbers are not known"],
)
def test_classes_of_pixels_tell_objects_apart_that_boxes_do_not(
    tmp_path: Path, names: tuple[str, str], of_first: int
) -> None:
    truth = voc_of_overlapping(tmp_path, *names).ground_truth("train", masks=True)["a"]
    first, second = truth.mask_rle
    np.testing.assert_array_equal(decode_rle(first), of_first == STRIPES)
    np.testing.assert_array_equal(decode_rle(second), of_first != STRIPES)
    assert truth.masks_left_out == 0


def test_a_mask_of_no_object_is_counted(tmp_path: Path) -> None:
    truth = voc_of_overlapping(tmp_path, "horse", "dog").ground_truth("train", masks=True)["a"]
    assert [rle is None for rle in truth.mask_rle] == [False, True]
    assert truth.masks_left_out == 1


@pytest.mark.parametrize("folder", ["SegmentationObject", "SegmentationClass"])
def test_changed_pixels_make_other_voc_data_and_the_same_records(tmp_path: Path, folder: str) -> None:
    before = voc_of_overlapping(tmp_path, "horse", "person")
    records, fingerprint = before.records("train"), before.fingerprint()
    path = tmp_path / folder / "a.png"
    for data in (png(np.random.default_rng(0).integers(0, 21, STRIPES.shape)), b"no picture"):
        path.write_bytes(data)
        after = VocDataset(str(tmp_path))
        assert after.records("train") == records
        assert after.fingerprint() != fingerprint
    with pytest.raises(DataError, match=rf"{folder}/a\.png: expected a PNG of numbers"):
        after.ground_truth("train", masks=True)


def test_where_the_size_of_an_xml_is_ignored_that_of_the_png_counts(tmp_path: Path) -> None:
    voc_of_overlapping(tmp_path, "horse", "person")
    path = tmp_path / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace(f"<height>{HEIGHT}<", f"<height>{HEIGHT + 3}<"))
    with pytest.raises(DataError, match=r"SegmentationObject/a\.png: expected 8 x 9 pixels"):
        VocDataset(str(tmp_path)).ground_truth("train", masks=True)
    truth = VocDataset(str(tmp_path), stated_size="ignore").ground_truth("train", masks=True)
    (first, _) = true_objects(truth, "a", (HEIGHT, WIDTH)).mask_rle
    np.testing.assert_array_equal(decode_rle(first), STRIPES == 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(png(STRIPES, "RGB"), "expected a PNG of numbers, got .* mode RGB;", id="colours"),
        pytest.param(png(STRIPES[1:]), "expected 8 x 6 pixels .* got 8 x 5", id="another-size"),
        pytest.param(b"no picture", "expected a PNG of numbers, got not an image", id="no-picture"),
        pytest.param(png(STRIPES)[:-14], "expected a PNG of numbers, got truncated", id="cut"),
        pytest.param(b"", "expected a PNG of numbers, got empty file", id="empty"),
    ],
)
@pytest.mark.parametrize("folder", ["SegmentationObject", "SegmentationClass"])
def test_a_file_that_is_no_picture_of_numbers_is_told(tmp_path: Path, folder: str, data: bytes, message: str) -> None:
    dataset = voc_of_overlapping(tmp_path, "horse", "person")
    (tmp_path / folder / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=rf"{folder}/a\.png: {message}"):
        dataset.ground_truth("train", masks=True)
    assert len(dataset.ground_truth("train")["a"].boxes_xyxy) == 2  # boxes are read all the same


# ---------------------------------------------------------------------------------------------------------- trainaug

CLASSES = np.where(STRIPES == 1, PERSON + 1, HORSE + 1).astype(np.uint8)


def mat(**variables: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=True)
    return file.getvalue()


def sbd_classes(pixels: np.ndarray) -> bytes:
    return mat(GTcls={"Boundaries": np.zeros((20, 1)), "Segmentation": pixels, "CategoriesPresent": np.unique(pixels)})


def trainaug(root: Path, beside: str = "SBD") -> Path:
    """Images a (in the devkit's segmentation and in Main/train), b (in SBD's and Main/val) and c (in neither)."""
    year = root / "VOC2012"
    voc_of_overlapping(year, "horse", "person")
    (year / "ImageSets/Segmentation").mkdir()
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    for name in "bc":
        xml = voc_xml(voc_object("dog", (0, 0, 1, 1)), *(voc_object("person", box) for box in BOXES), size=size)
        (year / "Annotations" / f"{name}.xml").write_text(xml)
        (year / "JPEGImages" / f"{name}.jpg").touch()
    write_list(year, "val", "b")
    (year / "ImageSets/Segmentation/trainaug.txt").write_text("a\nb\nc\n")
    (year / "ImageSets/Segmentation/val.txt").write_text("b\n")
    for folder in ("cls", "inst"):
        (root / beside / folder).mkdir(parents=True)
    (root / beside / "cls" / "b.mat").write_bytes(sbd_classes(CLASSES))
    (root / beside / "cls" / "a.mat").write_bytes(b"the devkit's own is read")
    objects = {"Segmentation": NUMBERS % 255, "Categories": np.array([[PERSON + 1], [HORSE + 1]]), "Boundaries": [0]}
    (root / beside / "inst" / "b.mat").write_bytes(mat(GTinst=objects))
    return year


@pytest.mark.parametrize("beside", ["SBD", "SBD/dataset", "benchmark_RELEASE/dataset"])
def test_labels_of_trainaug_are_the_classes_in_the_segmentation(tmp_path: Path, beside: str) -> None:
    dataset = VocDataset(str(trainaug(tmp_path, beside)), splits=("trainaug",))
    a, b, c = dataset.records("trainaug")
    assert [(one.image_id, one.label_source) for one in (a, b, c)] == [(i, LABELS_OF_SEGMENTATION) for i in "abc"]
    assert a.labels == b.labels == b.labels_difficult == (HORSE, PERSON)  # the dog of the XML has no pixel
    assert c.labels is None
    (told,) = (str(one) for one in dataset.passed_over if "trainaug" in one.what)
    assert told == (
        "1 images of trainaug without a segmentation, whose labels are unknown (e.g. JPEGImages/c.jpg; put SBD beside it)"
    )


def test_of_segmentations_labels_know_the_set_of_classes_alone(tmp_path: Path) -> None:
    year = trainaug(tmp_path)
    before = VocDataset(str(year), splits=("trainaug",))
    records, fingerprint = before.records("trainaug"), before.fingerprint()
    shuffled = np.random.default_rng(0).choice([0, HORSE + 1, PERSON + 1, 255], (4, 19)).astype(np.uint8)
    (year / "SegmentationClass" / "a.png").write_bytes(png(shuffled))
    (year / "SegmentationObject" / "a.png").write_bytes(b"")
    (tmp_path / "SBD/cls/b.mat").write_bytes(sbd_classes(shuffled))
    (tmp_path / "SBD/inst/b.mat").write_bytes(b"")
    after = VocDataset(str(year), splits=("trainaug",))
    assert after.records("trainaug") == records
    assert after.fingerprint() != fingerprint
    (tmp_path / "SBD/cls/b.mat").write_bytes(sbd_classes(np.where(shuffled == PERSON + 1, 0, shuffled)))
    assert VocDataset(str(year), splits=("trainaug",)).records("trainaug")[1].labels == (HORSE,)


def test_masks_of_sbd_are_of_the_class_that_it_says(tmp_path: Path) -> None:
    dataset = VocDataset(str(trainaug(tmp_path)), splits=("trainaug",))
    truth = dataset.ground_truth("trainaug", masks=True)
    dog, first, second = truth["b"].mask_rle  # SBD's second object is a horse, the third of the XML a person
    assert (dog, second, truth["b"].masks_left_out) == (None, None, 1)
    np.testing.assert_array_equal(decode_rle(first), NUMBERS == 1)
    assert [rle is None for rle in truth["a"].mask_rle] == [False, False]
    assert truth["c"].mask_rle is None


def test_splits_of_the_segmentation_are_there_for_who_asks(tmp_path: Path) -> None:
    year = str(trainaug(tmp_path))
    assert VocDataset(year).splits == ("train", "val")
    dataset = VocDataset(year, splits=("trainaug", "segmentation-val"))
    (record,) = dataset.records("segmentation-val")
    assert (record.image_id, record.label_source) == ("b", LABELS_OF_OBJECTS)
    assert record.labels == tuple(sorted((CLASS_NAMES.index("dog"), PERSON)))
    with pytest.raises(DataError, match=r"found train, val, trainaug, segmentation-val; set data\.splits"):
        VocDataset(year, splits=("test",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "expected a MATLAB file", id="empty"),
        pytest.param(sbd_classes(CLASSES)[:-9], "expected a MATLAB file", id="cut"),
        pytest.param(mat(GTinst={"Segmentation": CLASSES}), "expected a struct GTcls, got nothing", id="of-objects"),
        pytest.param(mat(GTcls=1), r"expected a struct GTcls, got an array \[1, 1\];", id="a-number"),
        pytest.param(mat(GTcls={"a": 1}), "numbers 0..255 in Segmentation, got nothing", id="without-pixels"),
        pytest.param(mat(GTcls={"Segmentation": "abc"}), "in Segmentation, got a str", id="text"),
        pytest.param(
            mat(GTcls={"Segmentation": CLASSES + 0.5}), f"in Segmentation, got {PERSON + 1}.5;", id="fractions"
        ),
        pytest.param(mat(GTcls={"Segmentation": CLASSES * np.nan}), "in Segmentation, got nan;", id="nan"),
        pytest.param(
            mat(GTcls={"Segmentation": -1.0 * CLASSES}), f"in Segmentation, got -{PERSON + 1};", id="negative"
        ),
        pytest.param(
            mat(GTcls={"Segmentation": np.ones((2, 2, 2))}), r"\[height, width\], got \(2, 2, 2\)", id="volume"
        ),
        pytest.param(sbd_classes(CLASSES + 10), "expected numbers of classes 1..20, 0 and 255, got 25", id="class-25"),
    ],
)
def test_a_malformed_file_of_sbd_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    dataset = VocDataset(str(trainaug(tmp_path)), splits=("trainaug",))
    (tmp_path / "SBD/cls/b.mat").write_bytes(data)
    with pytest.raises(DataError, match=rf"SBD/cls/b\.mat: .*{message}"):
        dataset.records("trainaug")


def test_trainaug_is_of_the_official_classes_alone(tmp_path: Path) -> None:
    year = trainaug(tmp_path)
    path = year / "Annotations" / "c.xml"
    path.write_text(path.read_text().replace("dog", "zebra"))
    with pytest.raises(DataError, match=r"expected the official classes, .* got others \(zebra\)"):
        VocDataset(str(year), splits=("trainaug",)).records("trainaug")
