"""Agreement of two sets of boxes, by hand."""

import math

import numpy as np
import pytest

from weaksam.metrics.agreement import Agreement
from weaksam.structures import PseudoGroundTruth

A, B, AWAY = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)


def boxes(*rows):
    """Of (box, class, score)."""
    return PseudoGroundTruth(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        class_index=np.array([row[1] for row in rows], np.int64),
        score=np.array([row[2] for row in rows], np.float32),
        score_normalised=np.ones(len(rows), np.float32),
    )


def agreement(*pairs):
    found = Agreement(3)
    for n, (one, other) in enumerate(pairs):
        found.add(str(n), one, other)
    return found.score()


def test_the_same_boxes_agree_and_others_do_not():
    same = boxes((A, 0, 0.9), (AWAY, 1, 0.5))
    assert agreement((same, same)) == 1
    assert agreement((boxes((A, 0, 1.0)), boxes((AWAY, 0, 1.0)))) == 0
    assert agreement((boxes((A, 0, 1.0)), boxes((A, 1, 1.0)))) == 0  # another class
    assert agreement((boxes((A, 0, 1.0)), boxes((B, 0, 0.1)))) == 1  # IoU .8


def test_it_is_f1_over_all_images():
    # One match; three boxes on one side, one on the other: 2 * 1 / 4.
    one = boxes((A, 0, 0.9), (B, 0, 0.8), (AWAY, 2, 0.7))
    assert agreement((one, boxes((A, 0, 1.0)))) == 0.5
    assert agreement((boxes((A, 0, 1.0)), one)) == 0.5
    # A second image with one box on each side that match: 2 * 2 / 6.
    assert agreement((one, boxes((A, 0, 1.0))), (boxes((A, 1, 1.0)), boxes((A, 1, 1.0)))) == pytest.approx(4 / 6)


def test_where_one_side_is_empty_nothing_matches_and_nothing_at_all_is_unknown():
    assert agreement((boxes((A, 0, 1.0)), boxes())) == 0
    assert agreement((boxes(), boxes((A, 0, 1.0)))) == 0
    assert math.isnan(agreement((boxes(), boxes())))
    assert math.isnan(agreement())
