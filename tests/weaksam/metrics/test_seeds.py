"""Means, spreads and paired differences, by hand."""

import math

import pytest

from weaksam.metrics.seeds import interval, mean_and_spread, paired_difference


@pytest.mark.parametrize(
    ("values", "mean", "spread"),
    [([], None, None), ([0.5], 0.5, 0.0), ([0.5, None], None, None), ([0.25, 0.75], 0.5, 0.5), ([3, 1, 2], 2, 2)],
)
def test_a_mean_is_that_of_all_values_or_unknown(values, mean, spread):
    assert mean_and_spread(values) == (mean, spread)


def test_the_interval_is_students_t_of_the_differences():
    # Mean 2, standard deviation 1, n = 3: 4.303 (t of 2 degrees at .975) / sqrt(3).
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / math.sqrt(3)))
    assert interval([0.5, 0.5]) == (0.5, 0.0)
    assert interval([0.5]) == (0.5, math.inf)


def test_settings_are_compared_over_the_seeds_that_both_have():
    one, other = {0: 10.0, 1: 50.0, 2: 30.0, 3: 1.0, 4: None}, {2: 30.9, 1: 51.1, 0: 11.0, 4: 5.0, 5: 9.0}
    found = paired_difference(one, other)  # 1.0, 1.1, 0.9: deviation .1
    assert found == pytest.approx((1.0, 4.302653 * 0.1 / math.sqrt(3)))
    assert not found.holds_zero
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({}, {}) is None


def test_an_interval_with_zero_says_so():
    assert interval([2.0, -1.0, 0.0]).holds_zero
    assert interval([0.5]).holds_zero
    assert not interval([0.5, 0.5]).holds_zero
