"""Affinity of patches: worked by hand, the boxes of a map's parts, and what is spread."""

from __future__ import annotations

import pytest
import torch

from weaksam.networks.clip.affinity import attention_affinity, box_mask, normalised_scores, refine

ATTENTION = torch.tensor([[0.5, 0.2], [0.1, 0.4]])


def test_one_round_of_two_patches() -> None:
    affinity = attention_affinity(ATTENTION, rounds=1)
    assert affinity.flatten().tolist() == pytest.approx([0.714286, 0.242857, 0.242857, 0.8], abs=1e-6)


def test_many_rounds_end_with_rows_and_columns_that_sum_to_one() -> None:
    affinity = attention_affinity(torch.rand(7, 7, generator=torch.Generator().manual_seed(0)) + 0.1, rounds=50)
    torch.testing.assert_close(affinity.sum(dim=0), torch.ones(7))
    torch.testing.assert_close(affinity, affinity.T)


def test_what_lies_in_boxes_is_spread_twice() -> None:
    maps = torch.tensor([[[1.0, 0.5]]])  # the second patch is below the threshold, so that b = [1, 0]
    affinity = attention_affinity(ATTENTION, rounds=1)
    found = refine(maps, affinity, threshold=0.6, power=2, of_scores=False)
    assert found.flatten().tolist() == pytest.approx([0.569184, 0.367755], abs=1e-6)
    scores = refine(2 * maps + 1, affinity, threshold=0.6, power=2, of_scores=True)
    assert scores.flatten().tolist() == pytest.approx([0.569184, 0.367755], abs=1e-6)


def test_a_box_holds_all_of_an_eight_connected_part_to_the_border() -> None:
    scores = torch.zeros(1, 5, 6)
    scores[0, 1, 1] = scores[0, 2, 2] = 1.0  # one part, by a corner
    scores[0, 4, 5] = 0.5  # another, in the last corner
    found = box_mask(scores, 0.4)[0]
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1:3, 1:3] = expected[4, 5] = True
    assert torch.equal(found, expected)
    assert box_mask(scores, 0.5)[0, 4, 5].item() is False  # 127 of 255 is not above half of 255


def test_a_map_that_is_nowhere_positive_becomes_zero() -> None:
    maps = -torch.rand(2, 3, 3) - 0.1
    assert (normalised_scores(maps) == 0).all()
    assert (refine(maps, torch.eye(9), threshold=0.4, power=2, of_scores=False) == 0).all()


def test_a_map_counts_by_its_shape_and_not_by_its_size() -> None:
    maps = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalised_scores(1e-12 * maps), normalised_scores(maps))


def test_no_maps_give_none() -> None:
    assert refine(torch.zeros(0, 3, 3), torch.eye(9), threshold=0.4, power=2, of_scores=True).shape == (0, 3, 3)
