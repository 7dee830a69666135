"""True masks of every kind of data set: read when asked for, of the pixels that the annotations say, and never for labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.trees import build_coco_tree, coco_document
from weaksam.config import ShapesConfig
from weaksam.datasets.coco import CocoDataset
from weaksam.datasets.ground_truth import (
    MaskCounts,
    StatedSize,
    TrueObject,
    count_masks,
    digest_of,
    ground_truth_of,
    mask_digest_of,
    true_objects,
)
from weaksam.datasets.shapes import Shapes
from weaksam.datasets.voc_masks import NumberedObjects, classes_of, object_masks
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle, encode_rle

HEIGHT, WIDTH = 6, 8
SQUARE = [1, 1, 4, 1, 4, 4, 1, 4]  # the pixels 1..3 of both axes
DRAWN = np.zeros((HEIGHT, WIDTH), np.bool_)
DRAWN[1:4, 1:4] = True


def coco(
    tmp_path: Path,
    *segmentations: Any,
    size_hw: tuple[int, int] | None = (HEIGHT, WIDTH),
    stated_size: StatedSize = "check",
) -> CocoDataset:
    """A data set of one picture with an object for each segmentation; ``...`` leaves it out."""
    document = coco_document()
    image = {"id": 1, "file_name": "1.png"}
    if size_hw is not None:
        image |= {"height": size_hw[0], "width": size_hw[1]}
    document["images"].append(image)
    category = document["categories"][0]["id"]
    for n, segmentation in enumerate(segmentations):
        annotation = {"id": n + 1, "image_id": 1, "category_id": category, "bbox": [1, 1, 3, 3], "iscrowd": 0}
        document["annotations"].append(annotation | ({} if segmentation is ... else {"segmentation": segmentation}))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document))
    (tmp_path / "train").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "train" / "1.png")
    return CocoDataset(str(tmp_path), stated_size=stated_size)


def masks_of(dataset: CocoDataset) -> list[np.ndarray | None] | None:
    (truth,) = dataset.ground_truth("train", masks=True).values()
    if truth.mask_rle is None:
        return None
    return [None if rle is None else decode_rle(rle) for rle in truth.mask_rle]


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.flatten()
    ends = [*(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": encode_rle(mask)["counts"].decode()}


CORNER = np.zeros((HEIGHT, WIDTH), np.bool_)
CORNER[0, 0] = CORNER[5, 7] = True
TWO_PARTS = DRAWN.copy()
TWO_PARTS[5, 5:8] = True
LOW = np.zeros((HEIGHT, WIDTH), np.bool_)
LOW[4:, 5:] = True
TOUCHED = DRAWN.copy()
TOUCHED[4:, 3] = True  # more than half of the column 3, down to the end


@pytest.mark.parametrize(
    ("segmentation", "mask"),
    [
        pytest.param([SQUARE], DRAWN, id="polygon"),
        pytest.param([SQUARE, [5, 5, 8, 5, 8, 6, 5, 6]], TWO_PARTS, id="two-polygons"),
        pytest.param([[1, 1, 4, 1, 4, 4, 4, 400_000, 3, 4, 1, 4]], TOUCHED, id="a-polygon-that-leaves-the-image"),
        pytest.param([SQUARE, [7, 7, 7, 7]], DRAWN, id="a-polygon-of-two-corners-beside-it"),
        pytest.param(uncompressed(DRAWN), DRAWN, id="run-lengths"),
        pytest.param(uncompressed(CORNER), CORNER, id="run-lengths-from-the-first-pixel-to-the-last"),
        pytest.param(compressed(DRAWN), DRAWN, id="compressed"),
        pytest.param(compressed(CORNER), CORNER, id="compressed-from-the-first-pixel"),
        pytest.param([], None, id="empty"),
        pytest.param(..., None, id="missing"),
        pytest.param(None, None, id="null"),
        pytest.param([[1, 1, 4, 4]], None, id="nothing-but-two-corners"),
    ],
)
def test_coco_segmentations(tmp_path: Path, segmentation: Any, mask: np.ndarray | None) -> None:
    found = masks_of(coco(tmp_path, [SQUARE], segmentation))
    assert found is not None
    np.testing.assert_array_equal(found[0], DRAWN)
    if mask is None:
        assert found[1] is None
    else:
        np.testing.assert_array_equal(found[1], mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        pytest.param([[1, 1, 4, 1, 4]], 'expected "segmentation" of polygons', id="odd"),
        pytest.param([[1, 1, 4, 1, 4, "x"]], "of polygons", id="text"),
        pytest.param([1, 1, 4, 1, 4, 4], "of polygons", id="flat"),
        pytest.param("abc", "of polygons", id="string"),
        pytest.param([[0, 0, 1e9, 0, 1e9, 1e9]], "in or about an image of 8 x 6 pixels", id="out-of-all-bounds"),
        pytest.param([[1e12, 0, 1e12, 1, 1e12, 2]], "in or about an image of 8 x 6 pixels", id="small-but-far-away"),
        pytest.param([SQUARE, [0, 0, 2e6, 0, 0, 1]], "in or about an image", id="the-second-is-long"),
        pytest.param([[0, 0, 400_000, 0, 800_000, 1]], "in or about an image", id="long-by-its-last-edge"),
        pytest.param({"size": [WIDTH, HEIGHT], "counts": [48]}, r'"size" of its image, \[6, 8\]', id="another-size"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [40]}, "run lengths of 48 pixels", id="short"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [-2, 50]}, "run lengths of 48 pixels", id="negative"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": "11"}, "expected run lengths of a mask of 6 x 8", id="cut"),
        pytest.param({"size": [HEIGHT, WIDTH]}, "expected run lengths of a mask of 6 x 8", id="no-counts"),
    ],
)
def test_a_segmentation_that_is_none_is_told_with_its_place(tmp_path: Path, segmentation: Any, message: str) -> None:
    dataset = coco(tmp_path, [SQUARE], segmentation)
    with pytest.raises(DataError, match=message) as error:
        dataset.ground_truth("train", masks=True)
    assert "instances_train.json: annotations[1] of image 1" in str(error.value)
    assert len(dataset.ground_truth("train")["1"].boxes_xyxy) == 2  # boxes are read all the same


@pytest.mark.parametrize(
    ("segmentation", "mask"),
    [
        ([SQUARE], DRAWN),
        (uncompressed(DRAWN), DRAWN),
        (compressed(CORNER), CORNER),
        ([[5, 4, 12, 4, 12, 6, 5, 6]], LOW),
    ],
    ids=["polygon", "run-lengths", "compressed", "a-polygon-that-sticks-out"],
)
@pytest.mark.parametrize("stated_size", ["check", "ignore"])
def test_without_a_stated_size_that_counts_masks_are_pixels_of_the_picture(
    tmp_path: Path, segmentation: Any, mask: np.ndarray, stated_size: Any
) -> None:
    turned = (WIDTH, HEIGHT) if stated_size == "ignore" else None
    truth = coco(tmp_path, segmentation, size_hw=turned, stated_size=stated_size).ground_truth("train", masks=True)
    (rle,) = true_objects(truth, "1", (HEIGHT, WIDTH)).mask_rle or ()
    np.testing.assert_array_equal(decode_rle(rle), mask)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[0, 0, 20_000, 0, 0, 20_000]],
        {"size": [20_000, 20_000], "counts": [400_000_000]},
        {"size": [0, 8], "counts": []},
    ],
    ids=["polygon", "run-lengths", "no-pixel"],
)
def test_without_a_stated_size_masks_have_at_most_the_pixels_of_a_picture(tmp_path: Path, segmentation: Any) -> None:
    with pytest.raises(DataError, match=r"annotations\[0\] of image 1: expected .* image"):
        masks_of(coco(tmp_path, segmentation, size_hw=None))


def test_without_a_segmentation_anywhere_there_are_no_masks(tmp_path: Path) -> None:
    assert masks_of(coco(tmp_path, ..., [])) is None


def test_masks_are_read_when_asked_for_alone(tmp_path: Path) -> None:
    (truth,) = coco(tmp_path, [SQUARE]).ground_truth("train").values()
    assert truth.mask_rle is None


def test_image_labels_do_not_know_polygons(tmp_path: Path) -> None:
    records = []
    for name, polygon in (("a", SQUARE), ("b", [0, 0, 8, 0, 8, 6])):
        (tmp_path / name).mkdir()
        (record,) = coco(tmp_path / name, [polygon]).records("train")
        records.append((record.labels, record.labels_difficult, record.image_id))
    assert records[0] == records[1]


# --- VOC


NUMBERS = np.zeros((HEIGHT, WIDTH), np.uint8)
NUMBERS[1:4, 1:4] = 1
NUMBERS[0, 6:8] = 2
NUMBERS[4, 1:4] = 255
BOXES = [(1.0, 1.0, 4.0, 4.0), (6.0, 0.0, 8.0, 1.0)]


def assigned(numbers: np.ndarray, boxes: Any, classes: np.ndarray | None = None, of_objects: Any = ()) -> list[int]:
    """Number of the mask that each object gets, 0 for none."""
    numbers = numbers.astype(np.uint8)
    class_of = {} if classes is None else classes_of(numbers, classes.astype(np.uint8))
    found = object_masks(NumberedObjects(numbers, class_of), boxes, of_objects or [0] * len(boxes))
    decoded = [np.zeros_like(numbers, bool) if rle is None else decode_rle(rle) for rle in found.mask_rle]
    values = [numbers[mask] for mask in decoded]
    assert all((v == v[0]).all() and len(v) == (numbers == v[0]).sum() for v in values if len(v))
    used = [int(v[0]) if len(v) else 0 for v in values]
    assert found.left_out == len(set(np.unique(numbers).tolist()) - {0, 255} - set(used))
    return used


def test_numbered_pixels_are_the_objects_whose_boxes_they_fit() -> None:
    assert assigned(NUMBERS, BOXES) == [1, 2]
    assert assigned(NUMBERS, BOXES[::-1]) == [2, 1]


def test_an_object_that_no_mask_fits_has_none_and_a_mask_of_no_object_is_left_out() -> None:
    elsewhere = (0.0, 5.0, 2.0, 6.0)
    assert assigned(NUMBERS, [BOXES[1], elsewhere]) == [2, 0]
    assert assigned(NUMBERS, []) == []
    assert assigned(np.zeros((HEIGHT, WIDTH)), BOXES) == [0, 0]


def test_the_void_around_a_small_object_does_not_cost_it_its_mask() -> None:
    numbers = np.zeros((20, 20))
    numbers[4:14, 4:14], numbers[6:12, 6:12] = 255, 1  # 6 x 6 of 10 x 10 pixels remain
    assert assigned(numbers, [(4, 4, 14, 14)]) == [1]
    numbers[4:14, 4:14], numbers[7:11, 7:11] = 255, 1  # 4 x 4: less than a quarter
    assert assigned(numbers, [(4, 4, 14, 14)]) == [0]


def test_of_objects_that_fit_alike_the_number_tells_and_of_others_the_box() -> None:
    numbers = np.zeros((20, 20), np.uint8)
    numbers[:10], numbers[10:19], numbers[0, 19], numbers[19, 0] = 1, 2, 2, 1  # the boxes of both: all or nearly all
    whole = (0, 0, 20, 20)
    assert assigned(numbers, [whole, whole]) == [1, 2]
    assert assigned(np.array([0, 2, 1])[numbers], [whole, whole]) == [1, 2]
    apart = [(0, 10, 20, 20), (0, 0, 20, 10)]
    numbers[0, 19], numbers[19, 0] = 1, 0
    assert assigned(numbers, apart) == [2, 1]


def test_a_mask_is_of_an_object_of_its_class() -> None:
    rider, horse = (0, 0, 20, 20), (0, 1, 20, 20)
    numbers, classes = np.zeros((20, 20)), np.zeros((20, 20))
    numbers[0:20:2], numbers[1:20:2] = 1, 2
    classes[numbers == 1], classes[numbers == 2] = 13, 15
    assert assigned(numbers, [rider, horse]) == [1, 2]
    assert assigned(numbers, [rider, horse], classes, [15, 13]) == [2, 1]
    assert assigned(numbers, [rider, horse], classes, [15, 7]) == [2, 0]
    classes[0, :3] = 15  # a few pixels say otherwise
    assert assigned(numbers, [rider, horse], classes, [15, 13]) == [2, 1]
    classes[:] = 255  # nothing is known
    assert assigned(numbers, [rider, horse], classes, [15, 13]) == [1, 2]


# --- drawn, and what all share


def test_drawn_masks_fill_their_boxes() -> None:
    dataset = Shapes(ShapesConfig(train=5, val=0, test=0, size=64))
    for truth in dataset.ground_truth("train", masks=True).values():
        for box, rle in zip(truth.boxes_xyxy.tolist(), truth.mask_rle, strict=True):
            y, x = np.nonzero(decode_rle(rle))
            assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert all(truth.mask_rle is None for truth in dataset.ground_truth("train").values())


def square(stated: str, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> Any:
    objects = [
        TrueObject((1, 1, 4, 4), 0, mask_rle=encode_rle(DRAWN)),
        TrueObject((9, 9, 9, 9), 0),  # left out: nothing of it lies inside
        TrueObject((6, 0, 8, 1), 1),
    ]
    return {"a": ground_truth_of(objects, size_hw, stated, masks=True)}  # type: ignore[arg-type]


def test_masks_stay_with_their_boxes_where_others_are_left_out() -> None:
    truth = true_objects(square("check"), "a", (HEIGHT, WIDTH))
    assert truth.class_index.tolist() == [0, 1]
    assert truth.mask_rle == [encode_rle(DRAWN), None]


def test_masks_are_scaled_with_their_boxes() -> None:
    truth = true_objects(square("scale"), "a", (2 * HEIGHT, 2 * WIDTH))
    np.testing.assert_array_equal(decode_rle(truth.mask_rle[0]), DRAWN.repeat(2, 0).repeat(2, 1))
    assert truth.mask_rle[1] is None


@pytest.mark.parametrize("size_hw", [(3, 3), (HEIGHT + 2, WIDTH + 5)], ids=["smaller", "larger"])
def test_where_the_stated_size_is_ignored_masks_are_pixels_of_the_picture(size_hw: tuple[int, int]) -> None:
    truth = true_objects(square("ignore"), "a", size_hw)
    expected = np.zeros((20, 20), np.bool_)
    expected[:HEIGHT, :WIDTH] = DRAWN
    np.testing.assert_array_equal(decode_rle(truth.mask_rle[0]), expected[: size_hw[0], : size_hw[1]])


def of_masks(*masks: np.ndarray | None, image_id: str = "a", left_out: int = 0) -> dict[str, Any]:
    encoded = [None if mask is None else encode_rle(mask) for mask in masks]
    objects = [TrueObject((1, 1, 4, 4), 0, mask_rle=rle) for rle in encoded]
    return {image_id: ground_truth_of(objects, (6, 8), masks=True, masks_left_out=left_out)}


def test_digests_of_masks_tell_them_apart_and_those_of_boxes_do_not() -> None:
    one, two = of_masks(DRAWN, None), of_masks(None, DRAWN)
    turned = of_masks(np.ascontiguousarray(DRAWN.T), None)  # as runs: of other lengths, or of the same in another size
    none = {"a": ground_truth_of([TrueObject((1, 1, 4, 4), 0)] * 2, (6, 8))}
    others = [one, two, turned, none, of_masks(None, None), of_masks(CORNER, None), of_masks(DRAWN), {}]
    others += [of_masks(DRAWN, None, image_id="b"), of_masks(DRAWN, None, left_out=1)]
    assert len(set(map(mask_digest_of, others))) == len(others)
    assert mask_digest_of(one) == mask_digest_of(of_masks(DRAWN.copy(), None))
    assert digest_of(one) == digest_of(two) == digest_of(none)
    both = one | of_masks(CORNER, image_id="b")
    assert mask_digest_of(both) == mask_digest_of(dict(reversed(both.items())))


def test_masks_are_counted_in_the_images_whose_annotations_state_some() -> None:
    boxes_alone = {"c": ground_truth_of([TrueObject((1, 1, 4, 4), 0)], (6, 8))}
    truth = of_masks(DRAWN, None, CORNER, left_out=2) | of_masks(None, image_id="b") | boxes_alone
    assert count_masks(truth) == MaskCounts(images=2, masks=2, without=2, left_out=2)
    assert count_masks({}) == MaskCounts(images=0, masks=0, without=0, left_out=0)


def test_a_tree_of_boxes_has_no_masks(tmp_path: Path) -> None:
    truth = CocoDataset(str(build_coco_tree(tmp_path))).ground_truth("train2017", masks=True)
    assert all(of_image.mask_rle is None for of_image in truth.values())
