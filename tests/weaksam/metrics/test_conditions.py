"""What makes a class hard, on a few pixels by hand; and its IoU, pooled over the images of a group."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weaksam.label_maps import IGNORED
from weaksam.metrics.conditions import GROUPS, ConditionedIou, elongation, is_beside_another


def numbers(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def filled(height: int, width: int) -> np.ndarray:
    mask = np.zeros((20, 20), np.bool_)
    mask[3 : 3 + height, 5 : 5 + width] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        pytest.param(filled(1, 1), 1.0, id="one pixel"),
        pytest.param(filled(4, 4), 1.0, id="a square"),
        pytest.param(filled(2, 9), 4.5, id="lying"),
        pytest.param(filled(9, 2), 4.5, id="standing"),
        # Of a diagonal of n pixels: the moment along it is (n² - 1) / 6 + 1 / 12, across it 1 / 12.
        pytest.param(np.eye(5, dtype=np.bool_), 7.0, id="connected at corners"),
        pytest.param(
            filled(2, 6) | np.eye(20, dtype=np.bool_)[::-1] & (np.arange(20) < 2), 3.0, id="the largest region"
        ),
    ],
)
def test_elongation(mask: np.ndarray, expected: float) -> None:
    assert elongation(mask) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("true_map", "expected"),
    [
        pytest.param(numbers([1, 1, 0, 2]), False, id="background between"),
        pytest.param(numbers([1, 1, 2, 0]), True, id="side by side"),
        pytest.param(numbers([1, 0], [0, 2]), True, id="at a corner"),
        pytest.param(numbers([1, IGNORED, IGNORED, 2]), True, id="void between"),
        pytest.param(numbers([1, IGNORED, IGNORED, 0]), False, id="void, and then background"),
        pytest.param(numbers([1, *[IGNORED] * 6, 2]), False, id="too much void between"),
        pytest.param(numbers([1, 1, 1]), False, id="nothing else"),
        pytest.param(numbers([3, 2, 0, 1]), False, id="others side by side"),
    ],
)
def test_contact_with_another_class(true_map: np.ndarray, expected: bool) -> None:
    assert is_beside_another(true_map, 1) == expected


def test_pixels_of_a_group_are_added_up_before_they_are_divided() -> None:
    quality = ConditionedIou(4)
    quality.add(numbers([1, 1, 0, 0, 0, 0]), numbers([1, 1, 0, 0, 0, 0]))  # 2 of 2
    quality.add(numbers([0, 1, 1, 0, 0, 1]), numbers([1, 1, 0, 0, 0, IGNORED]))  # 1 of 3, the void not counted
    quality.add(numbers([1, 0, 0, 4, 0, 4]), numbers([1, 0, 0, 0, 4, 4]))  # 1 of 1, and 1 of 3
    quality.add(numbers([1, 2, 3, 4, 4, 4]), numbers([0] * 6))  # of no class that is there
    found = {(of.condition, of.group): (of.pairs, of.mean_iou) for of in quality.scores()}
    assert [condition for condition, _ in found] == [of for of, groups in GROUPS.items() for _ in groups]
    assert found["classes in the image", "1"] == (2, pytest.approx(3 / 5))
    assert found["classes in the image", "2"] == (2, pytest.approx((1 + 1 / 3) / 2))
    assert found["elongation", "below 1.5"] == (1, 1.0)
    assert found["elongation", "1.5 to 3"] == (3, pytest.approx((3 / 5 + 1 / 3) / 2))
    assert found["contact", "apart from other classes"] == (4, pytest.approx((4 / 6 + 1 / 3) / 2))
    pairs, mean_iou = found["classes in the image", "3 or more"]
    assert pairs == 0
    assert math.isnan(mean_iou)


def test_three_classes_and_more_are_one_group() -> None:
    quality = ConditionedIou(4)
    quality.add(numbers([1, 2, 3, 4]), numbers([1, 2, 3, 4]))
    found = {(of.condition, of.group): of.pairs for of in quality.scores() if of.pairs}
    assert found == {
        ("classes in the image", "3 or more"): 4, ("elongation", "below 1.5"): 4, ("contact", "beside another class"): 4,
    }  # fmt: skip
