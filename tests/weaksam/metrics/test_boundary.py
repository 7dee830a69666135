import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.ndimage import distance_transform_edt

from tests.support.metric_images import box_mask
from weaksam.metrics.boundary import boundary_scores, contour, tolerance_pixels

EMPTY, FULL = np.zeros((8, 9), bool), np.ones((8, 9), bool)


def drawn(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def text(mask):
    return ["".join("#" if pixel else "." for pixel in row) for row in mask]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(["....", ".#..", "...."], ["....", ".#..", "...."], id="one-pixel"),
        pytest.param(["#...", "....", "...."], ["#...", "....", "...."], id="one-pixel-in-the-corner"),
        pytest.param(["....", "####", "...."], ["....", "####", "...."], id="a-line-through-the-image"),
        pytest.param(
            [".....", ".###.", ".###.", ".###.", "....."], [".....", ".###.", ".#.#.", ".###.", "....."], id="a-square"
        ),
        # Only the side to the right of it is a contour: above, below and left the image ends.
        pytest.param(["###..", "###..", "###.."], ["..#..", "..#..", "..#.."], id="touching-the-border"),
        pytest.param(["####", "####", "####"], ["....", "....", "...."], id="the-whole-image"),
        pytest.param(["####", "##.#", "####"], ["..#.", ".#.#", "..#."], id="around-a-hole"),
        pytest.param(["#..", "...", "..#"], ["#..", "...", "..#"], id="two-parts"),
        pytest.param(["...", "..."], ["...", "..."], id="empty"),
        pytest.param(["#"], ["."], id="an-image-of-one-pixel"),
    ],
)
def test_the_contour_of_a_hand_made_mask(rows, expected):
    assert text(contour(drawn(*rows))) == expected


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [((1, 1), 1), ((60, 80), 1), ((80, 107), 2), ((240, 320), 3), ((375, 500), 5), ((480, 640), 6), ((300, 400), 4)],
)
def test_the_tolerance_is_rounded_up(size_hw, expected):
    assert tolerance_pixels(size_hw) == expected


@pytest.mark.parametrize(
    ("mask", "true_mask", "precision", "recall", "f"),
    [
        pytest.param(box_mask((8, 9), 2, 2, 6, 6), box_mask((8, 9), 2, 2, 6, 6), 1, 1, 1, id="the-same"),
        pytest.param(box_mask((8, 9), 2, 2, 6, 6), box_mask((8, 9), 3, 2, 7, 6), 1, 1, 1, id="a-pixel-aside"),
        # Contours are 12 pixels; two aside, the left column of the one and the right one of the other are 2 pixels off
        # everything, and of the upper and lower rows only the two in between lie on the other's.
        pytest.param(box_mask((8, 9), 1, 2, 5, 6), box_mask((8, 9), 3, 2, 7, 6), 8 / 12, 8 / 12, 8 / 12, id="two-aside"),
        pytest.param(box_mask((8, 9), 4, 4, 5, 5), box_mask((8, 9), 4, 4, 5, 5), 1, 1, 1, id="one-pixel"),
        pytest.param(box_mask((8, 9), 4, 4, 5, 5), box_mask((8, 9), 5, 4, 6, 5), 1, 1, 1, id="one-pixel-next-to-it"),
        pytest.param(box_mask((8, 9), 4, 4, 5, 5), box_mask((8, 9), 5, 5, 6, 6), 0, 0, 0, id="one-pixel-diagonally"),
        # A pixel in the middle of a row of 5: all of the pixel is near, and 3 of the 5.
        pytest.param(box_mask((8, 9), 4, 4, 5, 5), box_mask((8, 9), 2, 4, 7, 5), 1, 0.6, 0.75, id="a-pixel-of-a-line"),
        # The left halves of the image, one column further: columns 3 and 4 are the contours, all else is the border.
        pytest.param(box_mask((8, 9), 0, 0, 4, 8), box_mask((8, 9), 0, 0, 5, 8), 1, 1, 1, id="touching-the-border"),
        pytest.param(box_mask((8, 9), 0, 0, 4, 8), box_mask((8, 9), 0, 0, 6, 8), 0, 0, 0, id="touching-it-two-aside"),
        pytest.param(FULL, FULL, 1, 1, 1, id="both-the-whole-image"),
        pytest.param(EMPTY, EMPTY, 1, 1, 1, id="both-empty"),
        pytest.param(EMPTY, FULL, 0, 0, 0, id="empty-for-the-whole-image"),
        pytest.param(EMPTY, box_mask((8, 9), 2, 2, 6, 6), 1, 0, 0, id="empty"),
        pytest.param(box_mask((8, 9), 2, 2, 6, 6), FULL, 0, 1, 0, id="the-whole-image-is-true"),
    ],
)  # fmt: skip
def test_boundary_by_hand(mask, true_mask, precision, recall, f):
    scores = boundary_scores(mask, true_mask)
    assert (scores.precision, scores.recall) == pytest.approx((precision, recall))
    assert scores.f == pytest.approx(f)


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"expected two masks of one size, got \(8, 9\) and \(9, 8\)"):
        boundary_scores(FULL, FULL.T)


def pixel_by_pixel(mask, true_mask):
    """Precision and recall by looking at every pair of contour pixels."""
    height, width = mask.shape

    def edge(one):
        pixels = []
        for y, x in np.argwhere(one):
            beside = [(y + dy, x + dx) for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
            if any(0 <= v < height and 0 <= u < width and not one[v, u] for v, u in beside):
                pixels.append((y, x))
        return pixels

    def share(some, others):
        near = [any((y - v) ** 2 + (x - u) ** 2 <= tolerance**2 for v, u in others) for y, x in some]
        return np.mean(near) if some else 1.0

    tolerance = tolerance_pixels(mask.shape)
    a, b = edge(mask), edge(true_mask)
    if not a and not b:
        return (1.0, 1.0) if (mask == true_mask).all() else (0.0, 0.0)
    return share(a, b), share(b, a)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 300))
def test_scores_are_those_of_every_pair_of_pixels(seed, height, width):
    rng = np.random.default_rng(seed)  # a diagonal of up to 300 pixels: tolerances of 1, 2 and 3
    masks = rng.random((2, height, width)) < rng.choice([0, 0.02, 0.5, 0.98, 1], (2, 1, 1))
    masks[:, :, : rng.integers(width)] = False
    assert tuple(boundary_scores(*masks)) == pytest.approx(pixel_by_pixel(*masks))


def test_the_tolerance_of_a_large_photograph_reaches_exactly_as_far_as_a_circle():
    true_mask = box_mask((3000, 4000), 2000, 1500, 2001, 1501)
    tolerance = tolerance_pixels(true_mask.shape)
    assert tolerance == 38
    distance = distance_transform_edt(~true_mask[1400:1600, 1900:2100])
    rng = np.random.default_rng(0)
    for y, x in rng.integers(60, 140, (100, 2)):
        near = box_mask((3000, 4000), 1900 + x, 1400 + y, 1901 + x, 1401 + y)
        assert boundary_scores(near, true_mask).precision == float(distance[y, x] <= tolerance)
