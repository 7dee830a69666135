"""Quasi-superpixels: worked by hand, against a loop over pairs, and in any order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.automatic_masks import automatic_masks
from weaksam.masks_np import decode_rle, encode_rle, rle_inside
from weaksam.segmentation.superpixels import quasi_superpixels, superpixels_among
from weaksam.structures import PART, SUBPART, WHOLE


def ranges(pixels: int, *spans: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(spans), 1, pixels, dtype=torch.bool)
    for mask, (start, end) in zip(masks, spans, strict=True):
        mask[0, start:end] = True
    return masks


def inside(masks: torch.Tensor) -> NDArray[np.float64]:
    return rle_inside([encode_rle(mask.numpy()) for mask in masks])


def test_ten_pixels() -> None:
    masks = ranges(10, (0, 4), (2, 6), (3, 9), (4, 8), (8, 10), (9, 10))
    level = np.array([WHOLE, PART, PART, PART, SUBPART, SUBPART])
    assert quasi_superpixels(level, inside(masks), 0.3).tolist() == [True, False, True, True, False, True]
    chosen = superpixels_among(automatic_masks(list(masks.numpy()), size_hw=(1, 10), level=level.tolist()), 0.3)
    assert [np.flatnonzero(decode_rle(rle)).tolist() for rle in chosen.mask_rle] == [
        [0, 1, 2, 3], [3, 4, 5, 6, 7, 8], [4, 5, 6, 7], [9],
    ]  # fmt: skip
    assert (chosen.level.tolist(), chosen.area.tolist()) == ([WHOLE, PART, PART, SUBPART], [4, 6, 4, 1])


def test_a_share_as_large_as_the_threshold_is_too_much() -> None:
    masks = ranges(20, (0, 10), (7, 17), (8, 18))  # of the parts 3 and 2 of 10 pixels
    level = np.array([WHOLE, PART, PART])
    assert quasi_superpixels(level, inside(masks), 0.3).tolist() == [True, False, True]
    assert quasi_superpixels(level, inside(masks), 0.31).tolist() == [True, True, True]


def test_without_a_whole_the_first_level_that_has_masks_is_taken_as_it_is() -> None:
    masks = ranges(10, (0, 5), (1, 5), (0, 2), (6, 8))
    level = np.array([PART, PART, SUBPART, SUBPART])
    assert quasi_superpixels(level, inside(masks), 0.3).tolist() == [True, True, False, True]


def test_no_masks_make_no_superpixels() -> None:
    assert quasi_superpixels(np.zeros(0, np.int8), rle_inside([]), 0.3).shape == (0,)
    assert len(superpixels_among(automatic_masks([], size_hw=(3, 3)), 0.3)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_loop_over_pairs_and_does_not_depend_on_the_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(14, 5, 6, generator=generator) < 0.3
    masks[:, 0, 0] = True
    level = torch.randint(0, 3, (14,), generator=generator).numpy()
    kept: list[int] = []
    for number in (2, 1, 0):
        before = list(kept)
        for n in range(14):
            shares = [int((masks[n] & masks[k]).sum()) / int(masks[n].sum()) for k in before]
            if level[n] == number and (not shares or max(shares) < 0.3):
                kept.append(n)
    found = quasi_superpixels(level, inside(masks), 0.3)
    assert np.flatnonzero(found).tolist() == sorted(kept)
    order = torch.randperm(14, generator=generator)
    assert quasi_superpixels(level[order.numpy()], inside(masks[order]), 0.3).tolist() == found[order.numpy()].tolist()
