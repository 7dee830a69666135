"""Maps of a few pixels by hand, and every measure beside a loop over pixels."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from weaksam.errors import DataError
from weaksam.label_maps import IGNORED
from weaksam.metrics.boundary import band, band_pixels
from weaksam.metrics.label_maps import LabelMapQuality, LabelMapScores, background_map, largest_class_map

VOID = IGNORED


def numbers(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def scores(*pairs: tuple[np.ndarray, np.ndarray], num_classes: int = 2) -> LabelMapScores:
    quality = LabelMapQuality(num_classes)
    for n, (label_map, true_map) in enumerate(pairs):
        quality.add(n, label_map, true_map)
    return quality.scores()


def test_two_images_by_hand() -> None:
    # True: 3 background, 3 of class 1, 1 void; of the class 2 are found, and one pixel of background is taken for it.
    first = numbers([1, 1, 0], [1, 0, 0], [0, 2, 0]), numbers([0, 1, 1], [1, 0, 0], [0, VOID, 0])
    # True: 2 of class 2, of which one is found, the other called class 1.
    second = numbers([2, 1]), numbers([2, 2])
    found = scores(first, second)
    np.testing.assert_array_equal(found.confusion, [[4, 1, 0], [1, 2, 0], [0, 1, 1]])
    np.testing.assert_allclose(found.iou, [4 / 6, 2 / 5, 1 / 2])
    assert found.mean_iou == pytest.approx((4 / 6 + 2 / 5 + 1 / 2) / 3)
    np.testing.assert_allclose(found.precision, [4 / 5, 2 / 4, 1])
    np.testing.assert_allclose(found.recall, [4 / 5, 2 / 3, 1 / 2])
    assert found.pixel_accuracy == pytest.approx(7 / 10)


def test_the_iou_of_all_pixels_is_not_the_mean_of_the_images() -> None:
    good, bad = (numbers([1] * 8), numbers([1] * 8)), (numbers([0, 0]), numbers([1, 1]))
    quality = LabelMapQuality(1)
    assert [quality.add(0, *good), quality.add(1, *bad)] == [1.0, 0.0]
    assert quality.scores().iou[1] == pytest.approx(8 / 10)


@pytest.mark.parametrize(
    ("label_map", "true_map", "iou", "mean"),
    [
        pytest.param([0, 0], [0, 0], [1, math.nan, math.nan], 1.0, id="classes that occur nowhere do not count"),
        pytest.param([0, 2], [0, 0], [0.5, math.nan, 0], 0.25, id="a class that is predicted alone counts as 0"),
        pytest.param([0, 0], [0, 1], [0.5, 0, math.nan], 0.25, id="one that is missed, too"),
        pytest.param([1, 1], [1, 1], [math.nan, 1, math.nan], 1.0, id="background counts only where it occurs"),
        pytest.param([1, 2], [VOID, VOID], [math.nan] * 3, math.nan, id="nothing but void"),
        pytest.param([VOID, 1], [0, 1], [1, 1, math.nan], 1.0, id="undecided pixels are background"),
        pytest.param([VOID, VOID], [1, 0], [0.5, 0, math.nan], 0.25, id="a map that decides nothing"),
    ],
)
def test_which_classes_count(label_map: list[int], true_map: list[int], iou: list[float], mean: float) -> None:
    found = scores((numbers(label_map), numbers(true_map)))
    np.testing.assert_allclose(found.iou, iou)
    np.testing.assert_allclose(found.mean_iou, mean)


def test_without_an_image_nothing_is_known() -> None:
    found = scores()
    assert not found.confusion.any()
    assert all(math.isnan(of) for of in (found.mean_iou, found.pixel_accuracy, found.mean_boundary_iou))


@pytest.mark.parametrize(
    ("size_hw", "width"), [((1, 1), 1), ((30, 40), 1), ((60, 80), 2), ((375, 500), 12), ((480, 640), 16)]
)
def test_the_band_is_as_wide_as_two_per_cent_of_the_diagonal(size_hw: tuple[int, int], width: int) -> None:
    assert band_pixels(size_hw) == width


def test_the_band_of_a_square_and_of_what_touches_the_border() -> None:
    square = np.zeros((7, 7), np.bool_)
    square[1:6, 1:6] = True
    inner = np.zeros_like(square)
    inner[2:5, 2:5] = True
    np.testing.assert_array_equal(band(square, 1), square & ~inner)
    whole = np.ones((5, 5), np.bool_)
    assert (band(whole, 1).sum(), band(whole, 2).sum(), band(whole, 3).sum()) == (16, 24, 25)
    assert not band(np.zeros((3, 3), np.bool_), 2).any()


def test_boundary_iou_of_shifted_squares_by_hand() -> None:
    true_map, label_map = np.zeros((2, 9, 9), np.uint8)
    true_map[1:6, 1:6] = 1
    label_map[1:6, 2:7] = 1  # one column to the right; bands are a pixel wide
    found = scores((label_map, true_map), num_classes=1)
    # Two rings of 16 pixels share the four of the top row between their corners, and the four of the bottom row.
    assert found.boundary_iou[1] == pytest.approx(8 / 24)
    assert scores((true_map, true_map), num_classes=1).mean_boundary_iou == 1.0


def test_void_around_an_object_is_no_part_of_its_band() -> None:
    true_map, label_map = np.zeros((2, 9, 9), np.uint8)
    true_map[2:7, 2:7] = VOID
    true_map[3:6, 3:6] = 1
    label_map[2:7, 2:7] = 1  # goes through the void: its contour lies in it, where nothing counts
    found = scores((label_map, true_map), num_classes=1)
    assert found.iou[1] == 1.0
    assert found.boundary_iou[1] == 0.0  # of 8 pixels of the true band none lies in the predicted one


@pytest.mark.parametrize(
    ("true_map", "largest"),
    [([0, 0, 0, 1], 1), ([1, 2, 2, 0], 2), ([2, 1, 0, 0], 1), ([0, VOID], 0), ([VOID, VOID], 0), ([VOID, VOID, 2], 2)],
    ids=["not-background", "largest", "tie", "background", "void", "not-void"],
)
def test_maps_that_need_no_method(true_map: list[int], largest: int) -> None:
    np.testing.assert_array_equal(background_map(numbers(true_map)), numbers([0] * len(true_map)))
    np.testing.assert_array_equal(largest_class_map(numbers(true_map)), numbers([largest] * len(true_map)))


@pytest.mark.parametrize(
    ("label_map", "true_map", "message"),
    [
        ([0, 0], [0], r"image 7: expected a label map of 1 x 1 pixels .* got 1 x 2"),
        ([3], [0], r"image 7: expected numbers of classes 0\.\.2 and 255, got 3"),
        ([0], [254], r"image 7: expected numbers of classes 0\.\.2 and 255, got 254"),
    ],
    ids=["size", "predicted", "true"],
)
def test_maps_that_cannot_be_compared_are_refused(label_map: list[int], true_map: list[int], message: str) -> None:
    quality = LabelMapQuality(2)
    with pytest.raises(DataError, match=message):
        quality.add(7, numbers(label_map), numbers(true_map))
    assert not quality.scores().confusion.any()


# ------------------------------------------------------------------------------------------------------ slow reference


def near_the_outside(mask: np.ndarray, y: int, x: int, width: int) -> bool:
    height, columns = mask.shape
    return any(
        not (0 <= y + dy < height and 0 <= x + dx < columns) or not mask[y + dy, x + dx]
        for dy in range(-width, width + 1)
        for dx in range(-width, width + 1)
    )


def by_loops(pairs: list[tuple[np.ndarray, np.ndarray]], num_classes: int) -> tuple[np.ndarray, list[float]]:
    confusion = np.zeros((num_classes + 1, num_classes + 1), int)
    shared, either = [0] * (num_classes + 1), [0] * (num_classes + 1)
    for label_map, true_map in pairs:
        decided = np.where(label_map == VOID, 0, label_map)
        width = max(1, round(0.02 * math.hypot(*true_map.shape)))
        for y, x in np.ndindex(*true_map.shape):
            if true_map[y, x] == VOID:
                continue
            confusion[true_map[y, x], decided[y, x]] += 1
            for c in range(num_classes + 1):
                found, true = (
                    bool(one[y, x] == c) and near_the_outside(one == c, y, x, width) for one in (decided, true_map)
                )
                shared[c] += found and true
                either[c] += found or true
    return confusion, [a / b if b else math.nan for a, b in zip(shared, either, strict=True)]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_measure_is_that_of_a_loop_over_pixels(data: st.DataObject) -> None:
    pairs = []
    for _ in range(data.draw(st.integers(0, 3))):
        height, width = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
        pixels = st.lists(st.sampled_from([0, 0, 1, 1, 2, VOID]), min_size=height * width, max_size=height * width)
        pairs.append(tuple(np.array(data.draw(pixels), np.uint8).reshape(height, width) for _ in range(2)))
    found = scores(*pairs, num_classes=3)
    confusion, boundary_iou = by_loops(pairs, 3)
    np.testing.assert_array_equal(found.confusion, confusion)
    np.testing.assert_allclose(found.boundary_iou, boundary_iou)


def test_a_wide_band_is_that_of_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((12, 15)) < 0.97
    for width in (1, 2, 3):
        expected = [[bool(mask[y, x]) and near_the_outside(mask, y, x, width) for x in range(15)] for y in range(12)]
        np.testing.assert_array_equal(band(mask, width), expected)
