"""Drawn images: the same seed draws the same pixels, and boxes, masks and labels say what is drawn."""

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from weaksam.config import ShapesConfig
from weaksam.datasets.shapes import (
    IMAGES_PER_SPLIT,
    MIN_VISIBLE_DIFFICULT,
    RESERVED,
    RESERVED_LENGTH,
    RESERVED_START,
    SPLITS,
    Shapes,
    _lay_out,
    data_set_seed,
    draw,
    read_shape_png,
    reserved_seed,
    shape_uri,
)
from weaksam.errors import DataError, ImageError

SMALL = ShapesConfig(size=64, train=6, val=3, test=0, seed=7)


@pytest.mark.parametrize("size", [32, 64, 128, 333])
def test_the_same_seed_draws_the_same_image(size):
    first, again = draw(5, size), draw(5, size)
    assert first.image.shape == (size, size, 3)
    assert first.image.dtype == np.uint8
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.instance_map, again.instance_map)
    assert not np.array_equal(first.image, draw(6, size).image)


@pytest.mark.parametrize("size", [32, 64, 128, 333])
@pytest.mark.parametrize("seed", range(8))
def test_boxes_are_those_of_the_instance_map(seed, size):
    drawing = draw(seed, size)
    assert 1 <= len(drawing.class_index) <= 4
    assert set(np.unique(drawing.instance_map)) <= set(range(len(drawing.class_index) + 1))
    for k, box in enumerate(drawing.boxes_xyxy):
        rows, columns = np.nonzero(drawing.instance_map == k + 1)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_markings_lie_on_their_object_and_blobs_beside_the_objects():
    for seed in range(40):
        drawing = draw(seed, 128)
        marked = drawing.part_map > 0
        np.testing.assert_array_equal(drawing.part_map[marked], drawing.instance_map[marked])
        assert not np.any((drawing.distractor_map > 0) & (drawing.instance_map > 0))


def test_objects_are_visible_enough_or_difficult():
    hidden = 0
    for seed in range(300):
        scene = _lay_out(seed, 64)
        for k, (item, difficult) in enumerate(zip(scene.objects, scene.truth().difficult, strict=True)):
            share = (scene.instance_map == k + 1).sum() / item.area
            assert share >= (MIN_VISIBLE_DIFFICULT if difficult else 0.6)
            hidden += share < 0.6
    assert hidden > 0


def test_objects_grow_with_the_image():
    small = np.concatenate([draw(seed, 64).boxes_xyxy for seed in range(60)])
    large = np.concatenate([draw(seed, 256).boxes_xyxy for seed in range(60)])
    side_64 = (small[:, 2:] - small[:, :2]).mean()
    side_256 = (large[:, 2:] - large[:, :2]).mean()
    assert side_256 / side_64 == pytest.approx(4, rel=0.1)


def test_seed_ranges_are_disjoint_and_data_sets_never_reach_the_reserved_ones():
    ranges = [
        (data_set_seed(seed, split, 0), data_set_seed(seed, split, IMAGES_PER_SPLIT - 1))
        for seed in range(1000)
        for split in SPLITS
    ]
    assert max(last for _, last in ranges) < RESERVED_START
    ranges += [(reserved_seed(purpose, 0), reserved_seed(purpose, RESERVED_LENGTH - 1)) for purpose in RESERVED]
    ranges.sort()
    assert all(last < first for (_, last), (first, _) in pairwise(ranges))


@pytest.mark.parametrize(
    ("seed", "split", "index"),
    [(-1, "train", 0), (1000, "train", 0), (0, "all", 0), (0, "test", -1), (0, "test", IMAGES_PER_SPLIT)],
)
def test_a_seed_outside_its_range_is_refused(seed, split, index):
    with pytest.raises(DataError, match="expected seed 0"):
        data_set_seed(seed, split, index)


@pytest.mark.parametrize(("purpose", "index"), [("train", 0), ("sam-train", -1), ("sam-train", RESERVED_LENGTH)])
def test_a_reserved_seed_outside_its_range_is_refused(purpose, index):
    with pytest.raises(DataError, match="expected a purpose of"):
        reserved_seed(purpose, index)


def test_a_uri_alone_draws_its_image():
    config = ShapesConfig(size=96, seed=3)
    uri = shape_uri("val", 17, config)
    assert uri == "shapes:val/17?size=96&seed=3"
    pixels = np.asarray(Image.open(io.BytesIO(read_shape_png(uri))))
    np.testing.assert_array_equal(pixels, draw(data_set_seed(3, "val", 17), 96).image)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "shapes:",
        "file:train/1?size=64&seed=0",
        "shapes:train/1",
        "shapes:train/1?size=64",
        "shapes:train/1?size=64&seed=0&more=1",
        "shapes:train/1?size=8&seed=0",
        "shapes:train/x?size=64&seed=0",
        "shapes:other/1?size=64&seed=0",
        "shapes:train/-1?size=64&seed=0",
    ],
)
def test_an_address_of_no_image_is_missing(uri):
    with pytest.raises(ImageError, match="shapes:train/17") as caught:
        read_shape_png(uri)
    assert caught.value.reason == "missing"


def test_a_split_without_images_is_not_offered():
    data_set = Shapes(SMALL)
    assert data_set.splits == ("train", "val")
    assert data_set.records("test") == []
    assert data_set.ground_truth("test") == {}
    with pytest.raises(DataError, match="'trainval'"):
        data_set.records("trainval")


def test_records_ground_truth_and_masks_agree():
    data_set = Shapes(SMALL)
    records, truth = data_set.records("train"), data_set.ground_truth("train")
    assert [record.image_id for record in records] == [f"train-{index:05d}" for index in range(6)]
    assert list(truth) == [record.image_id for record in records]
    for record in records:
        objects = truth[record.image_id]
        assert record.labels == tuple(sorted(set(objects.class_index[~objects.difficult].tolist())))
        assert record.labels_difficult == tuple(sorted(set(objects.class_index.tolist())))
        masks = data_set.masks(record.image_id)
        assert masks.shape == (len(objects.class_index), 64, 64)
        for mask, box in zip(masks, objects.boxes_xyxy, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("image_id", ["", "train", "train-00006", "test-00000", "train-x"])
def test_masks_of_an_unknown_image_are_refused(image_id):
    with pytest.raises(DataError, match="train-00017"):
        Shapes(SMALL).masks(image_id)


def test_the_fingerprint_follows_every_option():
    prints = {
        Shapes(config).fingerprint()
        for config in (
            SMALL,
            ShapesConfig(size=65, train=6, val=3, test=0, seed=7),
            ShapesConfig(size=64, train=7, val=3, test=0, seed=7),
            ShapesConfig(size=64, train=6, val=3, test=0, seed=8),
        )
    }
    assert len(prints) == 4
    assert Shapes(SMALL).fingerprint() == Shapes(SMALL).fingerprint()


def test_what_one_reader_writes_into_true_boxes_no_other_sees():
    data_set = Shapes(SMALL)
    first = data_set.ground_truth("train")
    image_id, kept = next((image_id, truth.boxes_xyxy.copy()) for image_id, truth in first.items())
    first[image_id].boxes_xyxy[:] = -1
    np.testing.assert_array_equal(data_set.ground_truth("train")[image_id].boxes_xyxy, kept)
