"""Ranks of trials, by hand."""

import pytest

from tune.ranks import mean_ranks


def test_ranks_are_averaged_and_ties_share_theirs():
    # First column: 3 is best, 1 worst. Second: the first two are tied above the third.
    assert mean_ranks([[0.1, 0.2, 0.3], [0.9, 0.9, 0.1]]) == [
        pytest.approx((0 + 0.75) / 2),
        pytest.approx((0.5 + 0.75) / 2),
        pytest.approx((1 + 0) / 2),
    ]
    assert mean_ranks([[0.1, None, 0.3], [0.2, 0.9, 0.1]]) == [0.5, None, 0.5]
    assert mean_ranks([[0.4], [0.5]]) == [0.0]
    assert mean_ranks([[], []]) == []
