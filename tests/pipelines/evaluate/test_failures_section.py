"""Which failures of detectors a page shows."""

from itertools import permutations

import numpy as np
import pytest

from pipelines.evaluate.sections.failures import worst_failures
from pipelines.products.detections import DetectedImage
from tests.support.metric_images import found, truth

BOX, HALF, TENTH, AWAY = (0, 0, 50, 50), (0, 0, 50, 25), (0, 0, 10, 25), (60, 60, 90, 90)
# Objects are 50 x 50 pixels: TENTH lies inside with a tenth of the area, AWAY overlaps nothing, HALF has IoU 1/2.


def image(image_id, split, detections):
    return DetectedImage(image_id=image_id, split=split, size_hw=(1000, 1000), detections=detections)


THREE = [
    image("a", "val", found((0, 0.9, *BOX), (1, 0.7, *TENTH))),  # the second class is a part
    image("b", "val", found((0, 0.8, *AWAY), (0, 0.6, *BOX), (1, 0.7, *AWAY))),  # both are elsewhere
    image("c", "val", found((0, 0.8, *HALF))),  # a part, and the second class is missed
]
TRUTH = {image_id: truth((0, *BOX), (1, *BOX)) for image_id in "abc"}


def picked(images, most=6, ground_truth=TRUTH, num_classes=2):
    worst = worst_failures(images, lambda _: ground_truth, num_classes, most)
    return {
        split: [(f.image_id, f.class_index, f.verdict, round(f.score, 4)) for f in fs] for split, fs in worst.items()
    }


def test_the_worst_failures_of_three_images():
    # b and c tie at .8 and stand in the order of their ids; each image is there once, with its worst.
    expected = [("b", 0, "elsewhere", 0.8), ("c", 0, "part", 0.8), ("a", 1, "part", 0.7)]
    for images in permutations(THREE):
        assert picked(images) == {"val": expected}
        assert picked(images, most=2) == {"val": expected[:2]}
        assert picked(images, most=0) == {}


def test_of_two_classes_with_equal_scores_the_first_is_shown():
    assert picked([image("a", "val", found((1, 0.5, *AWAY), (0, 0.5, *AWAY)))]) == {"val": [("a", 0, "elsewhere", 0.5)]}


def test_missed_classes_come_last():
    images = [image("a", "val", found()), image("b", "val", found((0, 0.01, *AWAY)))]
    assert picked(images) == {"val": [("b", 0, "elsewhere", 0.01), ("a", 0, "undetected", 0.0)]}


def test_a_failure_holds_the_top_detection_and_the_objects_of_its_class():
    (failure,) = worst_failures(THREE[2:], lambda _: TRUTH, 2, 6)["val"]
    assert failure.boxes_xyxy.tolist() == [list(HALF)]
    assert failure.objects_xyxy.tolist() == [list(BOX)]


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(image("a", "val", found((0, 0.9, *BOX), (1, 0.9, *BOX))), id="all-correct"),
        pytest.param(image("x", "val", found((0, 0.9, *BOX))), id="image-without-objects"),
    ],
)
def test_images_that_do_not_fail(image):
    assert picked([image]) == {}


def test_splits_are_picked_apart_and_those_without_true_boxes_not_at_all():
    images = [image(image_id, split, found((0, 0.5, *AWAY))) for split in ("val", "test", "train") for image_id in "ab"]
    known = {"val": TRUTH, "train": TRUTH, "test": {}}
    worst = worst_failures(images, known.__getitem__, 2, 1)
    assert {split: [f.image_id for f in fs] for split, fs in worst.items()} == {"train": ["a"], "val": ["a"]}


def test_no_more_failures_are_held_than_are_shown():
    rng = np.random.default_rng(0)
    scores = rng.permutation(200) / 200
    images = [image(f"{n:03}", "val", found((0, score, *AWAY))) for n, score in enumerate(scores)]
    known = {image_id: truth((0, *BOX)) for image_id in (image.image_id for image in images)}
    slow = sorted(((score, f"{n:03}") for n, score in enumerate(scores)), reverse=True)[:5]
    assert [name for name, *_ in picked(images, 5, known, 1)["val"]] == [name for _, name in slow]
