"""What the benchmark of precisions counts as the same; its networks are run by hand."""

import numpy as np

from benchmarks.precision import _distance_to_nearest, _matched, _points, _shown_of_class
from weaksam.structures import Detections, Prompts


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def test_a_box_is_matched_once_and_at_an_iou_of_nine_tenths():
    twice = boxes([0, 0, 10, 10], [0, 0, 10, 10])
    assert _matched(twice, boxes([0, 0, 10, 9])) == 1  # IoU 90 / 100
    assert _matched(twice, boxes([0, 0, 10, 8.9])) == 0
    assert _matched(twice, boxes()) == 0


def test_a_point_lies_as_far_from_another_set_as_from_its_nearest_point():
    apart = _distance_to_nearest(np.array([[0.0, 0.0], [5.0, 5.0]]), np.array([[1.0, 3.0], [5.0, 5.0]]))
    assert apart.tolist() == [3, 0]
    assert _distance_to_nearest(np.zeros((1, 2)), np.zeros((0, 2))).tolist() == [np.inf]


def test_a_point_of_several_prompts_counts_once():
    points_xy = [np.array(points, np.float32) for points in ([[1, 2]], [[3, 4]], [[1, 2], [3, 4]])]
    prompts = [
        Prompts(source="fine", points_xy=points_xy, kind=["semantic", "semantic", "class-joint"], class_index=[0, 0, 0])
    ]
    assert _points(prompts, "fine").tolist() == [[1, 2], [3, 4]]
    assert len(_points(prompts, "cross")) == 0


def test_detections_of_a_low_score_are_not_compared():
    found = Detections(
        boxes_xyxy=boxes([0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]),
        class_index=np.array([1, 1, 0]),
        score=np.array([0.05, 0.04, 0.9], np.float32),
        image_scores=np.zeros(6, np.float32),
    )
    assert [len(of_class) for of_class in _shown_of_class(found)] == [1, 1, 0, 0, 0, 0]
