import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from weaksam.errors import DataError
from weaksam.masks import encode_rles, masks_to_boxes, run_lengths
from weaksam.masks_np import decode_rle, encode_rle, mask_nms, rle_area, rle_inside, rle_iou, tight_box


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


@pytest.mark.parametrize(
    ("pixels", "box"),
    [
        pytest.param([(1, 2)], (2, 1, 3, 2), id="one-pixel"),
        pytest.param([(0, 0), (3, 4)], (0, 0, 5, 4), id="first-and-last"),
        pytest.param([], (0, 0, 0, 0), id="none"),
    ],
)
def test_the_box_around_a_mask_ends_one_past_its_last_pixel(pixels, box):
    assert tight_box(mask(4, 5, *pixels).numpy()) == box


def rles(*masks):
    return [encode_rle(np.array(one, bool)) for one in masks]


TWO, LEFT, NONE, ALL = [[1, 1, 0]], [[1, 0, 0]], [[0, 0, 0]], [[1, 1, 1]]


def test_iou_and_area_of_hand_made_masks():
    assert rle_area(rles(TWO, LEFT, NONE, ALL)).tolist() == [2, 1, 0, 3]
    assert rle_iou(rles(TWO, NONE), rles(TWO, LEFT, NONE, ALL)).tolist() == [[1, 0.5, 0, 2 / 3], [0, 0, 0, 0]]


def test_overlap_with_a_crowd_is_the_share_inside_it():
    overlap = rle_iou(rles(TWO, ALL, NONE), rles(ALL, ALL, LEFT), crowd=np.array([True, False, True]))
    assert overlap.tolist() == [[1, 2 / 3, 0.5], [1, 1, 1 / 3], [0, 0, 0]]


@pytest.mark.parametrize(
    ("masks", "score", "class_index", "threshold", "kept"),
    [
        pytest.param([TWO, LEFT], [0.5, 0.9], [0, 0], 0.4, [1], id="the-better-suppresses"),
        pytest.param([TWO, LEFT], [0.5, 0.9], [0, 0], 0.5, [1, 0], id="an-IoU-equal-to-the-threshold-does-not"),
        pytest.param([TWO, LEFT], [0.5, 0.9], [0, 1], 0.4, [1, 0], id="another-class-does-not"),
        pytest.param([ALL, TWO, LEFT], [0.9, 0.8, 0.7], [0, 0, 0], 0.4, [0, 2], id="nor-does-one-that-is-suppressed"),
        pytest.param([ALL, ALL], [0.5, 0.5], [0, 0], 0.4, [0], id="of-equals-the-first"),
        pytest.param([NONE, NONE], [0.5, 0.4], [0, 0], 0.0, [0, 1], id="without-a-pixel"),
        pytest.param([], [], [], 0.5, [], id="none"),
    ],
)
def test_masks_are_suppressed_by_better_ones_of_their_class(masks, score, class_index, threshold, kept):
    found = mask_nms(rles(*masks), np.array(score, np.float32), np.array(class_index, np.int64), threshold)
    assert found.tolist() == kept


def test_the_share_of_each_mask_inside_each():
    assert rle_inside(rles(TWO, LEFT, ALL, NONE)).tolist() == [
        [1, 0.5, 1, 0], [1, 1, 1, 0], [2 / 3, 1 / 3, 1, 0], [0, 0, 0, 0],
    ]  # fmt: skip
    assert rle_inside([]).shape == (0, 0)


def test_no_masks_have_no_area_and_no_overlap():
    assert rle_area([]).tolist() == []
    assert [rle_iou([], rles(ALL, ALL)).shape, rle_iou(rles(ALL), []).shape, rle_iou([], []).shape] == [
        (0, 2), (1, 0), (0, 0),
    ]  # fmt: skip


def test_masks_of_images_of_different_sizes_are_refused():
    with pytest.raises(DataError, match=r"expected masks of one image, got masks of 1 x 3, 3 x 1 pixels"):
        rle_iou(rles(ALL), rles(np.array(ALL).T))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_iou_and_area_of_runs_are_those_of_pixels(seed, height, width, density):
    rng = np.random.default_rng(seed)
    a, b = rng.random((3, height, width)) < density, rng.random((2, height, width)) < density
    assert rle_area(rles(*a)).tolist() == [int(one.sum()) for one in a]
    crowd = np.array([False, True])
    for n, row in enumerate(rle_iou(rles(*a), rles(*b), crowd=crowd)):
        for m, value in enumerate(row):
            of = a[n].sum() if crowd[m] else (a[n] | b[m]).sum()
            assert value == ((a[n] & b[m]).sum() / of if of else 0)


def damaged():
    """Run lengths of 40 x 50 pixels that are not those of a mask, by what is wrong with them."""
    rng = np.random.default_rng(0)
    good = encode_rle(rng.random((40, 50)) < 0.5)["counts"]
    return {
        "cut": good[:50],
        "empty": b"",
        "twice": good * 2,
        "within-a-run": good + b"P",
        "noise": rng.integers(48, 112, 300).astype(np.uint8).tobytes(),
        "zeros": b"0" * 10,
        "not-text": b"\xff" * 50,
        "a-negative-run": encode_rle(np.zeros((40, 50), bool))["counts"] + b"O" + b"1",
        "a-run-without-end": b"P" * 50 + b"0",
    }


@pytest.mark.parametrize("counts", damaged().values(), ids=damaged())
def test_damaged_runs_are_refused(counts):
    bad, good = {"size": [40, 50], "counts": counts}, encode_rle(np.ones((40, 50), bool))
    for use in (lambda: rle_iou([bad], [good]), lambda: rle_iou([good], [bad]), lambda: rle_area([bad]),
                lambda: decode_rle(bad)):  # fmt: skip
        with pytest.raises(DataError, match=r"expected run lengths of a mask of 40 x 50 pixels \(height x width\)"):
            use()


def test_runs_of_a_large_mask_are_read():
    large = np.zeros((3000, 4000), bool)
    large[:, 2000:2002] = large[5, 3000:] = True
    rle = encode_rle(large)
    assert rle_area([rle]).tolist() == [3000 * 2 + 1000]
    np.testing.assert_array_equal(decode_rle(rle), large)
