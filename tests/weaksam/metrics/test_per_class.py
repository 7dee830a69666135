import itertools
import math

import numpy as np
import pytest

from weaksam.metrics.per_class import PerClass


def kept(*rows, num_classes=3):
    """From rows of (class, value), added one by one."""
    values = PerClass(num_classes)
    for class_index, value in rows:
        values.add(np.array([class_index]), np.array([value]))
    return values


def test_means_and_counts_by_hand():
    values = kept((0, 1.0), (2, 0.5), (0, 0.25))
    values.add(np.array([2, 2]), np.array([0.5, 0.8]))
    assert values.count().tolist() == [2, 0, 3]
    assert values.mean() == pytest.approx([0.625, math.nan, 0.6], nan_ok=True)
    assert values.num_classes == 3


def test_the_order_does_not_change_a_bit():
    rows = [(0, 0.1), (0, 0.2), (0, 0.7), (0, 1e-17)]
    assert len({kept(*order).mean()[0] for order in itertools.permutations(rows)}) == 1


def test_a_value_at_the_border_of_two_bins_is_in_the_upper_one():
    shares = [n / 20 for n in range(21)]
    expected = [1] * 19 + [2]  # 1 is in the last bin, too
    assert kept(*((1, share) for share in shares)).histogram(20).tolist() == [[0] * 20, expected, [0] * 20]
    below = [math.nextafter(share, 0) for share in shares[1:]]
    assert kept(*((1, share) for share in below)).histogram(20)[1].tolist() == [1] * 20


def test_nothing_is_nan_and_no_classes_are_empty():
    assert np.isnan(kept().mean()).all()
    assert kept().histogram(4).tolist() == [[0] * 4] * 3
    kept().add(np.zeros(0, np.int64), np.zeros(0))
    assert kept(num_classes=0).mean().tolist() == kept(num_classes=0).histogram(2).tolist() == []
