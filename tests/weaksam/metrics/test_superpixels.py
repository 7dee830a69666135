"""The best that superpixels can give, on a few pixels by hand."""

from __future__ import annotations

import numpy as np
import pytest

from weaksam.label_maps import IGNORED, painting_order
from weaksam.metrics.superpixels import best_map


def masks(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.bool_).reshape(len(rows), 1, -1)


@pytest.mark.parametrize(
    ("true_map", "spans", "level", "expected"),
    [
        pytest.param(
            [0, 1, 1, 2], [[1, 1, 1, 0], [0, 0, 0, 1]], [2, 2], [1, 1, 1, 2], id="the class that most of it is"
        ),
        pytest.param([1, 1, 2, 2], [[1, 1, 1, 1]], [2], [1, 1, 1, 1], id="of equal ones the first"),
        pytest.param([0, 0, 1, 1], [[0, 0, 0, 1]], [2], [0, 0, 0, 1], id="what none covers is background"),
        pytest.param([IGNORED, IGNORED, 1, 1], [[1, 1, 1, 0]], [2], [1, 1, 1, 0], id="ignored pixels have no say"),
        pytest.param([IGNORED, IGNORED, 1, 1], [[1, 1, 0, 0]], [2], [0, 0, 0, 0], id="and alone are background"),
        pytest.param([1, 1, 1, 2], [[1, 1, 1, 1], [0, 0, 1, 1]], [2, 1], [1, 1, 1, 1], id="wholes over parts"),
        pytest.param([2, 2, 1, 1], [[0, 0, 1, 1], [1, 1, 1, 0]], [2, 2], [2, 2, 1, 1], id="the purer on top"),
        pytest.param([1, IGNORED, 0, 1], [], [], [1, 0, 0, 1], id="no superpixel"),
    ],
)
def test_best_map(true_map: list[int], spans: list[list[int]], level: list[int], expected: list[int]) -> None:
    given = masks(*spans) if spans else np.zeros((0, 1, 4), np.bool_)
    assert best_map(np.array([true_map], np.uint8), given, level).tolist() == [expected]


def test_the_last_one_painted_is_of_the_highest_level_and_the_surest_of_it() -> None:
    assert painting_order([2, 0, 1, 2, 0], [0.1, 0.9, 0.5, 0.05, 0.9]) == [1, 4, 2, 3, 0]
    assert painting_order([], []) == []
