import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.tolerances import assert_near, near, rounding, roundings_in

EPS = 2.0**-23


def test_the_allowance_follows_type_length_and_magnitude():
    assert rounding(torch.float32, 1) == 8 * EPS
    assert rounding(torch.float32, 64) == 64 * EPS  # the worst case
    assert rounding(torch.float32, 100, 3.0) == 240 * EPS
    assert rounding(torch.float64, 1) == 8 * 2.0**-52


def test_a_networks_roundings_are_the_terms_of_its_sums():
    first = nn.Conv2d(3, 8, 5)  # 75 terms
    second = nn.Sequential(nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 4))  # 32
    assert roundings_in(first, second) == 107


@pytest.mark.parametrize("length", [1, 100, 10_000])
def test_every_order_of_a_sum_is_near_and_a_lost_term_is_not(length):
    terms = np.random.default_rng(length).uniform(0.5, 1, length).astype(np.float32)
    one_by_one = terms.cumsum(dtype=np.float32)[-1]
    assert_near(one_by_one, terms.sum(dtype=np.float64), length=length)
    assert_near(terms[::-1].cumsum(dtype=np.float32)[-1], one_by_one, length=length)
    assert one_by_one == near(math.fsum(terms), length=length)
    with pytest.raises(AssertionError):
        assert_near(one_by_one - terms[0], math.fsum(terms), length=length)


def test_the_coarsest_type_counts_and_without_any_float32():
    off = torch.tensor([1 + 4 * EPS, 1.0], dtype=torch.float64)
    assert_near(off, torch.ones(2))
    assert_near(off.numpy(), [1.0, 1.0], dtype=torch.float32)
    for expected in (torch.ones(2, dtype=torch.float64), np.ones(2)):
        with pytest.raises(AssertionError):
            assert_near(off, expected)
    assert_near([1 + 4 * EPS], [1.0])
    assert_near(torch.ones(1, dtype=torch.bfloat16), torch.tensor([1.03]))


def test_shape_nan_and_infinity_are_part_of_a_value():
    assert_near([math.nan, math.inf, 1.0], [math.nan, math.inf, 1.0])
    for found in ([0.0, math.inf, 1.0], [math.nan, 1e30, 1.0], [math.nan, math.inf], [[math.nan, math.inf, 1.0]]):
        with pytest.raises(AssertionError):
            assert_near(found, [math.nan, math.inf, 1.0])
    assert_near([], [])


def test_numbers_near_zero_need_the_magnitude_of_their_terms():
    assert near(0.0) != 1e-9
    assert near(0.0, magnitude=1.0) == 1e-9
    assert near({"a": 1.0, "b": [2.0]}["b"]) == [2.0 + EPS]
