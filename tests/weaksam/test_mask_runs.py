"""Masks as runs: by hand, and against masks that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.automatic_masks import mask_runs
from tests.support.tolerances import assert_near
from weaksam.errors import DataError
from weaksam.mask_runs import MaskRuns
from weaksam.masks_np import encode_rle


def some_masks(seed: int, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask with holes, one that is full, one without a pixel, a corner, two columns, two rows, and the last pixel."""
    masks = np.zeros((7, *size_hw), np.bool_)
    masks[0] = np.random.default_rng(seed).random(size_hw) < 0.5
    masks[1] = True
    masks[3, : size_hw[0] // 2, : size_hw[1] // 2] = True
    masks[4, :, :2] = True
    masks[5, :2] = True
    masks[6, -1, -1] = True
    return masks


def test_a_run_that_goes_on_in_the_next_column_is_cut_there() -> None:
    mask = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 0, 1]], np.bool_)
    runs = mask_runs(mask[None])
    assert list(zip(runs.column.tolist(), runs.top.tolist(), runs.bottom.tolist(), strict=True)) == [
        (0, 2, 3), (1, 0, 3), (2, 0, 2), (3, 2, 3),
    ]  # fmt: skip
    assert (runs.count, runs.mask.tolist(), runs.areas().tolist()) == (1, [0, 0, 0, 0], [7])
    assert runs.coverage() == 7 / 12


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (9, 1), (7, 5), (2, 2)])
def test_they_hold_what_drawn_masks_hold(size_hw: tuple[int, int]) -> None:
    masks, values = some_masks(0, size_hw), np.random.default_rng(1).random((3, *size_hw), np.float32)
    runs = mask_runs(masks)
    assert runs.areas().tolist() == masks.sum(axis=(1, 2)).tolist()
    pixels = size_hw[0] * size_hw[1]  # each of which adds less than 1
    drawn = np.einsum("nhw,shw->ns", values.astype(np.float64), masks)
    assert_near(runs.sums(values), drawn, length=pixels, magnitude=pixels, dtype=torch.float64)
    for rows in (1, 2, 3):  # in strips
        strips = [runs.sums(values[:, at : at + rows], first_row=at) for at in range(0, size_hw[0], rows)]
        assert_near(sum(strips), drawn, length=pixels, magnitude=pixels, dtype=torch.float64)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (9, 1), (7, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_they_are_painted_one_over_the_other(size_hw: tuple[int, int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    masks = some_masks(seed, size_hw)
    below = generator.integers(0, 256, size_hw).astype(np.uint8)
    expected, before, order = below.copy(), below.copy(), generator.permutation(7)[:5].tolist()
    numbers = [3, 255, 7, 0, 9, 1, 2]
    for n in order:
        expected[masks[n]] = numbers[n]
    found = mask_runs(masks).painted(below, order, numbers)
    assert found.tolist() == expected.tolist()
    assert below.tolist() == before.tolist()


def test_without_a_mask_nothing_is_held_or_painted() -> None:
    runs = MaskRuns.of([], (3, 4))
    assert runs.sums(np.ones((2, 3, 4), np.float32)).shape == (2, 0)
    assert runs.areas().shape == (0,)
    assert runs.coverage() == 0
    label_map = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert runs.painted(label_map, [], []).tolist() == label_map.tolist()


def test_masks_of_an_image_of_another_size_are_refused() -> None:
    rle = encode_rle(np.ones((3, 4), np.bool_))
    with pytest.raises(DataError, match=r"expected a mask of 3 x 5 .* got one of 3 x 4"):
        MaskRuns.of([rle], (3, 5))
    with pytest.raises(DataError, match="cut or damaged"):
        MaskRuns.of([{**rle, "counts": rle["counts"][:-1]}], (3, 4))
