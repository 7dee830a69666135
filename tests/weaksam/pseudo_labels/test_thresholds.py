"""Thresholds chosen by the data, by hand and against slow searches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tolerances import near
from weaksam.pseudo_labels.thresholds import knee, outlier_fence, two_groups


def slow_two_groups(values):
    """Every cut between different values, by its definition."""
    ordered = sorted(values)
    best, cut = -1.0, None
    for n in range(1, len(ordered)):
        if ordered[n] == ordered[n - 1]:
            continue
        low, high = ordered[:n], ordered[n:]
        between = len(low) * len(high) * (np.mean(low) - np.mean(high)) ** 2
        if between > best * (1 + 1e-9):
            best, cut = between, (ordered[n - 1] + ordered[n]) / 2
    return cut


def test_two_groups_are_parted_in_the_middle_between_them():
    assert two_groups(np.array([0.0, 0.1, 0.9, 1.0])) == 0.5
    assert two_groups(np.array([1.0, 0.0])) == 0.5
    assert two_groups(np.array([0.0] * 97 + [0.8] * 3)) == 0.4  # groups of very different sizes
    assert two_groups(np.array([0.0, 0.0, 1.0, 1.0, 1.0])) == 0.5  # never between equal values


def test_the_lowest_of_several_that_part_as_well_is_taken_whatever_rounding_says():
    # Symmetric about 9: at 7.5 and at 10.5 two values lie on one side and seven on the other, 36/7 between the means.
    assert two_groups(np.array([3.0, 7, 8, 9, 9, 9, 10, 11, 15])) == 7.5


@given(st.lists(st.integers(0, 20), min_size=2, max_size=30).filter(lambda values: len(set(values)) > 1))
def test_two_groups_equal_a_slow_search(values):
    assert two_groups(np.array(values, float)) == near(slow_two_groups(values), dtype=torch.float64, length=30)


def test_the_knee_is_where_a_flat_curve_turns_up():
    # 90 values on a line from 0 to .89, then ten that rise by 1 each: the last flat one is farthest below the chord.
    values = np.concatenate([np.arange(90) / 100, 0.89 + np.arange(1, 11)])
    assert knee(np.random.default_rng(0).permutation(values)) == near(0.89, dtype=torch.float64)
    # Two straight pieces that meet at the 61st of 101 points.
    bent = np.concatenate([np.linspace(0, 0.1, 61), np.linspace(0.1, 1, 41)[1:]])
    assert knee(bent) == near(0.1, dtype=torch.float64)


def test_one_huge_value_does_not_move_the_knee():
    values = np.concatenate([np.linspace(0, 1, 1800), np.linspace(1, 4, 200)])
    with_outlier = np.append(values, 1e6)
    assert knee(with_outlier) == pytest.approx(knee(values), abs=0.05)


def test_the_knee_of_few_values():
    assert knee(np.array([0.0, 1.0])) == 0.0
    assert knee(np.array([0.0] * 5000 + [1.0])) == 0.0  # the 99.9th percentile is the smallest value itself


def test_the_fence_is_tukeys():
    assert outlier_fence(np.arange(5.0)) == 3 + 1.5 * 2


@pytest.mark.parametrize("find", [two_groups, knee, outlier_fence])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "got 0, all"),
        ([1.0], "got 1, all"),
        ([2.0, 2.0, 2.0], "got 3, all"),
        ([1.0, np.nan], "finite"),
        ([1.0, np.inf], "finite"),
    ],
)
def test_without_variety_there_is_no_threshold(find, values, message):
    with pytest.raises(ValueError, match=message):
        find(np.array(values))


@pytest.mark.parametrize("find", [two_groups, knee, outlier_fence])
@given(shift=st.floats(-3, 3), scale=st.floats(0.1, 10), seed=st.integers(0, 1000))
def test_a_threshold_moves_with_its_values(find, shift, scale, seed):
    values = np.random.default_rng(seed).exponential(size=50)
    assert find(scale * values + shift) == near(
        scale * find(values) + shift, dtype=torch.float64, length=50, magnitude=abs(shift) + scale * values.sum()
    )
