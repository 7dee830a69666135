import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from weaksam.masks import decode_rle, encode_rle, encode_rles, masks_to_boxes, run_lengths


def mask(height, width, *pixels_yx):
    drawn = torch.zeros(height, width, dtype=torch.bool)
    for y, x in pixels_yx:
        drawn[y, x] = True
    return drawn


@pytest.mark.parametrize(
    ("pixels_yx", "box", "empty"),
    [
        pytest.param([(0, 0)], [0, 0, 1, 1], False, id="one-pixel-at-the-origin"),
        pytest.param([(2, 3)], [3, 2, 4, 3], False, id="one-pixel"),
        pytest.param([(3, 4)], [4, 3, 5, 4], False, id="last-pixel"),
        pytest.param([(0, 4), (3, 1)], [1, 0, 5, 4], False, id="two-corners"),
        pytest.param([], [0, 0, 0, 0], True, id="empty"),
    ],
)
def test_box_of_a_mask_of_height_4_and_width_5(pixels_yx, box, empty):
    boxes_xyxy, is_empty = masks_to_boxes(mask(4, 5, *pixels_yx)[None])
    assert boxes_xyxy.tolist() == [box]
    assert boxes_xyxy.dtype == torch.float32
    assert is_empty.tolist() == [empty]


def test_no_masks_have_no_boxes():
    boxes_xyxy, is_empty = masks_to_boxes(torch.zeros(0, 4, 5, dtype=torch.bool))
    assert boxes_xyxy.shape == (0, 4)
    assert is_empty.shape == (0,)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.4))
def test_boxes_are_the_extent_of_the_pixels_and_rle_returns_them(seed, height, width, density):
    drawn = np.random.default_rng(seed).random((3, height, width)) < density
    boxes_xyxy, is_empty = masks_to_boxes(torch.from_numpy(drawn))
    for one, box, empty in zip(drawn, boxes_xyxy.tolist(), is_empty.tolist(), strict=True):
        y, x = np.nonzero(one)
        assert empty == (len(x) == 0)
        assert box == ([0, 0, 0, 0] if empty else [x.min(), y.min(), x.max() + 1, y.max() + 1])
        rle = encode_rle(one)
        assert rle["size"] == [height, width]
        assert isinstance(rle["counts"], bytes)
        np.testing.assert_array_equal(decode_rle(rle), one)


@pytest.mark.parametrize(
    "masks",
    [
        pytest.param(torch.zeros(0, 4, 5, dtype=torch.bool), id="none"),
        pytest.param(torch.zeros(3, 4, 5, dtype=torch.bool), id="empty"),
        pytest.param(torch.ones(2, 4, 5, dtype=torch.bool), id="full"),
        pytest.param(torch.ones(1, 1, 1, dtype=torch.bool), id="one-pixel"),
        pytest.param(mask(4, 5, (0, 0), (3, 4), (2, 2))[None], id="first-and-last-pixel"),
        pytest.param(torch.stack([mask(4, 5), mask(4, 5, (1, 1)), mask(4, 5)]), id="empty-beside-others"),
        pytest.param(torch.rand(7, 33, 21, generator=torch.Generator().manual_seed(0)) < 0.5, id="noise"),
    ],
)
def test_several_masks_are_encoded_as_each_alone(masks):
    assert encode_rles(masks) == [encode_rle(one.numpy()) for one in masks]
    for one, lengths in zip(masks, run_lengths(masks), strict=True):
        inside = np.arange(len(lengths)) % 2 == 1
        assert np.repeat(inside, lengths).tolist() == one.T.flatten().tolist()
        assert (lengths[1:] > 0).all()
