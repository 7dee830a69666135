import math

import pytest
import torch

from tests.support.tolerances import assert_near, near
from weaksam.metrics.similarity import cosine_matrix, mean_off_diagonal


def test_three_features_by_hand():
    # (3, 4) has length 5; with (1, 0) its cosine is 3/5, with (0, 2) it is 8 / (5 x 2) = 4/5; the last two are at right angles.
    matrix = cosine_matrix(torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]))
    expected = torch.tensor([[1.0, 0.6, 0.8], [0.6, 1.0, 0.0], [0.8, 0.0, 1.0]])
    assert_near(matrix, expected, length=2)
    assert mean_off_diagonal(matrix) == near((0.6 + 0.8 + 0.0) / 3, length=6)


def test_opposite_features_have_minus_one():
    assert mean_off_diagonal(cosine_matrix(torch.tensor([[1.0, 2.0], [-2.0, -4.0]]))) == near(-1, length=4)


@pytest.mark.parametrize("number", [2, 7])
def test_identical_features_have_one(number):
    matrix = cosine_matrix(torch.tensor([[0.1, 0.7, 0.2]]).repeat(number, 1))
    assert_near(matrix, torch.ones(number, number), length=3)
    assert mean_off_diagonal(matrix) == near(1, length=number**2)


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_have_nothing_off_the_diagonal(number):
    matrix = cosine_matrix(torch.ones(number, 4))
    assert matrix.shape == (number, number)
    assert math.isnan(mean_off_diagonal(matrix))


def test_a_feature_of_length_zero_is_like_nothing():
    matrix = cosine_matrix(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert_near(matrix, [[0.0, 0.0], [0.0, 1.0]])
    assert mean_off_diagonal(matrix) == 0
