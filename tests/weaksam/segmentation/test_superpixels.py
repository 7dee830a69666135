"""Quasi-superpixels: worked by hand, against a loop over pairs, and in any order."""

from __future__ import annotations

import pytest
import torch

from weaksam.segmentation.superpixels import intersections, quasi_superpixels


def ranges(pixels: int, *spans: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(spans), 1, pixels, dtype=torch.bool)
    for mask, (start, end) in zip(masks, spans, strict=True):
        mask[0, start:end] = True
    return masks


def test_ten_pixels() -> None:
    masks = ranges(10, (0, 4), (2, 6), (3, 9), (4, 8), (8, 10), (9, 10))
    level = torch.tensor([2, 1, 1, 1, 0, 0])
    assert quasi_superpixels(level, intersections(masks), 0.3).tolist() == [True, False, True, True, False, True]


def test_without_a_whole_the_first_level_that_has_masks_is_taken_as_it_is() -> None:
    masks = ranges(10, (0, 5), (1, 5), (0, 2), (6, 8))
    level = torch.tensor([1, 1, 0, 0])
    assert quasi_superpixels(level, intersections(masks), 0.3).tolist() == [True, True, False, True]


def test_no_masks_make_no_superpixels() -> None:
    none = torch.zeros(0, 3, 3, dtype=torch.bool)
    assert quasi_superpixels(torch.zeros(0, dtype=torch.int64), intersections(none), 0.3).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_loop_over_pairs_and_does_not_depend_on_the_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(14, 5, 6, generator=generator) < 0.3
    masks[:, 0, 0] = True
    level = torch.randint(0, 3, (14,), generator=generator)
    kept: list[int] = []
    for number in (2, 1, 0):
        before = list(kept)
        for n in range(14):
            shares = [int((masks[n] & masks[k]).sum()) / int(masks[n].sum()) for k in before]
            if level[n] == number and (not shares or max(shares) < 0.3):
                kept.append(n)
    found = quasi_superpixels(level, intersections(masks), 0.3)
    assert found.nonzero()[:, 0].tolist() == sorted(kept)
    order = torch.randperm(14, generator=generator)
    assert torch.equal(quasi_superpixels(level[order], intersections(masks[order]), 0.3), found[order])
