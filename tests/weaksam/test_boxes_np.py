from __future__ import annotations

import numpy as np
import pytest

from weaksam.boxes_np import inside_float64, intersection_area, iou_float64, paired_iou, resized_boxes

UNIT = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("other", "shared", "iou"),
    [
        pytest.param(UNIT, 100, 1.0, id="identical"),
        pytest.param([5, 5, 15, 15], 25, 25 / 175, id="a corner"),
        pytest.param([10, 0, 20, 10], 0, 0.0, id="touching"),
        pytest.param([20, 20, 30, 30], 0, 0.0, id="apart in both directions"),
        pytest.param([2, 2, 4, 5], 6, 0.06, id="inside"),
        pytest.param([0, 0, 10, 9], 90, 0.9, id="the number nearest to 9/10"),
        pytest.param([3, 3, 3, 3], 0, 0.0, id="empty"),
    ],
)
def test_area_and_iou_of_two_boxes(other: list[int], shared: int, iou: float) -> None:
    a, b = np.array([UNIT], float), np.array([other], float)
    assert intersection_area(a, b).tolist() == [shared]
    assert paired_iou(a, b).tolist() == paired_iou(b, a).tolist() == [iou]


def test_two_empty_boxes_do_not_overlap() -> None:
    assert paired_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [0.0]


def test_every_box_meets_every_other_in_float64() -> None:
    a, b = np.array([UNIT, [0, 0, 5, 10]], np.float32), np.array([UNIT, [5, 0, 10, 10], [0, 0, 3, 10]], np.float32)
    assert iou_float64(a, b).tolist() == [[1.0, 0.5, 0.3], [0.5, 0.0, 0.6]]
    assert iou_float64(a[:0], b).shape == (0, 3)
    assert iou_float64(a, b[:0]).shape == (2, 0)


def test_the_share_inside_another_box_is_of_the_first_ones_area() -> None:
    a = np.array([UNIT, [8, 0, 12, 10], [3, 3, 3, 3]], np.float32)  # the last is empty
    b = np.array([[0, 0, 9, 10], [0, 0, 100, 100], [20, 0, 30, 10]], np.float32)
    assert inside_float64(a, b).tolist() == [[0.9, 1.0, 0.0], [0.25, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert inside_float64(a[:0], b).shape == (0, 3)
    assert inside_float64(a, b[:0]).shape == (3, 0)


def test_boxes_of_an_image_at_another_size_by_hand():
    boxes = np.array([[0, 0, 10, 20], [2.5, 5, 5, 10]], np.float32)
    assert resized_boxes(boxes, (20, 10), (5, 20)).tolist() == [[0, 0, 20, 5], [5, 1.25, 10, 2.5]]
    assert np.array_equal(resized_boxes(boxes, (7, 3), (7, 3)), boxes)
    assert resized_boxes(boxes[:0], (20, 10), (5, 20)).shape == (0, 4)
