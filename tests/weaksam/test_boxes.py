import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.support.tolerances import near
from weaksam.boxes import area, clip_boxes, iou_matrix, nms_in_order

UNIT = [0.0, 0.0, 10.0, 10.0]
HALF = [0.0, 0.0, 10.0, 5.0]
POINT = [3.0, 3.0, 3.0, 3.0]
NOTHING = [0.0, 0.0, 0.0, 0.0]  # the box of an empty mask
PIXEL = [0.0, 0.0, 1.0, 1.0]
FAR = [100.0, 100.0, 110.0, 110.0]


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([0, 0, 1, 1], 1.0, id="one-pixel"),
        pytest.param([2, 3, 12, 8], 50.0, id="rectangle"),
        pytest.param(POINT, 0.0, id="empty"),
        pytest.param([5, 5, 2, 9], 0.0, id="turned-inside-out"),
        pytest.param([5, 5, 2, 2], 0.0, id="turned-inside-out-twice"),
    ],
)
def test_area(box, expected):
    assert area(boxes(box)).tolist() == [expected]


def test_area_of_no_boxes_is_empty():
    assert area(boxes()).shape == (0,)
    assert area(boxes().reshape(2, 0, 4)).shape == (2, 0)


def test_area_keeps_leading_dimensions():
    grid = boxes(UNIT, HALF, POINT, FAR, UNIT, HALF).reshape(3, 1, 2, 4)
    assert area(grid).tolist() == [[[100, 50]], [[0, 100]], [[100, 50]]]
    assert area(boxes(HALF)[0]).item() == 50  # a box alone


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([1, 2, 3, 4], [1, 2, 3, 4], id="inside"),
        pytest.param([-5, -1, 30, 40], [0, 0, 20, 10], id="larger-than-the-image"),
        pytest.param([25, 12, 30, 14], [20, 10, 20, 10], id="outside-becomes-empty"),
    ],
)
def test_boxes_are_clipped_to_an_image_of_height_10_and_width_20(box, expected):
    assert clip_boxes(boxes(box), (10, 20)).tolist() == [expected]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(UNIT, UNIT, 1.0, id="identical"),
        pytest.param(UNIT, HALF, 0.5, id="half"),
        pytest.param(UNIT, FAR, 0.0, id="apart"),
        pytest.param(UNIT, [10, 0, 20, 10], 0.0, id="touching"),
        pytest.param(UNIT, [5, 0, 15, 10], 1 / 3, id="shifted"),
        pytest.param(POINT, POINT, 0.0, id="two-empty-boxes"),
        pytest.param(UNIT, POINT, 0.0, id="empty-inside"),
    ],
)
def test_iou(a, b, expected):
    assert iou_matrix(boxes(a), boxes(b)).item() == near(expected, length=4)


def test_exclusive_boxes_have_the_legacy_iou_of_inclusive_ones():
    # Inclusive 0..9 and 0..4: legacy widths are 10 and 5.
    assert iou_matrix(boxes([0, 0, 9 + 1, 0 + 1]), boxes([0, 0, 4 + 1, 0 + 1])).item() == 0.5


def test_iou_with_no_boxes_keeps_the_other_side():
    assert iou_matrix(boxes(), boxes(UNIT, HALF)).shape == (0, 2)
    assert iou_matrix(boxes(UNIT, HALF), boxes()).shape == (2, 0)
    assert iou_matrix(boxes().reshape(3, 0, 4), torch.zeros(3, 5, 4)).shape == (3, 0, 5)


def test_iou_of_pairs_of_sets_never_mixes_them():
    # Set 0: UNIT and FAR against HALF; set 1: the other way round.
    a = torch.stack([boxes(UNIT, FAR), boxes(HALF, POINT)])
    b = torch.stack([boxes(HALF), boxes(FAR)])
    assert iou_matrix(a, b).tolist() == [[[0.5], [0.0]], [[0.0], [0.0]]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 3), max_size=2), st.integers(0, 5), st.integers(0, 5))
def test_iou_with_leading_dimensions_is_that_of_each_pair_of_sets(seed, leading, n, m):
    rng = np.random.default_rng(seed)

    def drawn(count):
        corners = np.sort(rng.integers(0, 6, (*leading, count, 2, 2)), axis=-2).astype(np.float32)
        return torch.from_numpy(corners).flatten(-2)

    a, b = drawn(n), drawn(m)
    together = iou_matrix(a, b)
    assert together.shape == (*leading, n, m)
    for place in np.ndindex(*leading):
        for i in range(n):
            for j in range(m):
                x, y = a[place][i], b[place][j]
                inside = [max(0.0, (min(x[k + 2], y[k + 2]) - max(x[k], y[k])).item()) for k in (0, 1)]
                intersection = inside[0] * inside[1]
                union = area(x).item() + area(y).item() - intersection
                assert together[place][i, j].item() == near(intersection / union if union else 0.0, length=4)


@pytest.mark.parametrize(
    ("rows", "threshold", "kept"),
    [
        pytest.param([], 0.9, [], id="no-boxes"),
        pytest.param([UNIT], 0.9, [0], id="one-box"),
        pytest.param([UNIT, UNIT, UNIT], 0.9, [0], id="identical-boxes-keep-the-first"),
        pytest.param([UNIT, UNIT], 1.0, [0, 1], id="threshold-1-keeps-duplicates"),
        pytest.param([HALF, UNIT], 0.5, [0, 1], id="iou-equal-to-the-threshold-stays"),
        pytest.param([HALF, UNIT], 0.49, [0], id="first-wins-though-smaller"),
        pytest.param([FAR, UNIT, HALF, UNIT], 0.9, [0, 1, 2], id="only-the-duplicate-goes"),
        pytest.param(
            [[0, 0, 10, 10], [0, 0, 10, 7], [0, 0, 10, 5]], 0.6, [0, 2], id="a-suppressed-box-suppresses-none"
        ),
        pytest.param([NOTHING, NOTHING], 0.9, [0], id="two-boxes-of-empty-masks-are-one-pixel"),
        pytest.param([POINT, UNIT, POINT, NOTHING], 0.9, [0, 1, 3], id="empty-boxes-elsewhere-are-others"),
        pytest.param([NOTHING, PIXEL], 0.9, [0], id="as-published-no-other-than-the-first-pixel"),
        pytest.param([NOTHING, NOTHING], 1.0, [0, 1], id="threshold-1-keeps-empty-duplicates"),
    ],
)
def test_suppression_in_order(rows, threshold, kept):
    assert nms_in_order(boxes(*rows), threshold).tolist() == kept


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_suppression_in_order_equals_the_obvious_loop(seed, n, threshold):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 8, (n, 2, 2)), axis=1).astype(np.float32)
    found = torch.from_numpy(corners.reshape(n, 4))
    as_pixels = [box if area(box) > 0 else torch.cat([box[:2], box[:2] + 1]) for box in found]
    overlap = iou_matrix(*(torch.stack([torch.zeros(4), *as_pixels])[1:] for _ in range(2)))
    expected: list[int] = []
    for i in range(n):
        if all(overlap[j, i].item() <= np.float32(threshold) for j in expected):
            expected.append(i)
    assert nms_in_order(found, threshold).tolist() == expected
