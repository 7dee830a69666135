import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.support.tolerances import near
from weaksam.config import PeaksConfig
from weaksam.proposals.peaks import find_peaks


def one_map(*pixels, height=40, width=50):
    """A map of zeros with the given (x, y, value) pixels."""
    drawn = torch.zeros(height, width)
    for x, y, value in pixels:
        drawn[y, x] = value
    return drawn


def peaks_of(drawn, *, kernel=17, **options):
    (found,) = find_peaks(drawn[None], PeaksConfig(**options), kernel=kernel)
    return [tuple(point) for point in found.points_xy.tolist()]


def test_gaussian_bumps_are_found_where_they_are_and_best_first():
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    bumps = [(10, 20, 0.95), (50, 40, 1.0), (70, 5, 0.92), (30, 50, 0.5)]
    drawn = torch.stack([v * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 20) for cx, cy, v in bumps]).amax(0)
    (found,) = find_peaks(drawn[None], PeaksConfig(), kernel=17)
    assert found.points_xy.tolist() == [[50, 40], [10, 20], [70, 5]]
    assert found.values.tolist() == near([1.0, 0.95, 0.92])


@pytest.mark.parametrize(
    ("pixels", "options", "expected"),
    [
        pytest.param([], {}, [], id="all-zero"),
        pytest.param([], {"threshold": 0.0}, [], id="all-zero-without-a-threshold"),
        pytest.param([(5, 6, 0.9)], {}, [(5, 6)], id="value-equal-to-the-threshold-stays"),
        pytest.param([(5, 6, 0.89)], {}, [], id="below-the-threshold"),
        pytest.param([(20, 20, 1.0), (20, 28, 0.95)], {}, [(20, 20)], id="two-in-one-window-leave-the-higher"),
        pytest.param([(20, 20, 1.0), (20, 29, 0.95)], {}, [(20, 20), (20, 29)], id="next-window"),
        pytest.param([(20, 20, 1.0), (24, 24, 1.0)], {}, [(20, 20), (24, 24)], id="tie-at-the-radius-stays"),
        pytest.param([(20, 20, 1.0), (24, 23, 1.0)], {}, [(20, 20)], id="tie-nearer-than-the-radius-goes"),
        pytest.param([(24, 21, 1.0), (20, 22, 1.0)], {}, [(24, 21)], id="of-a-tie-the-upper-row-wins"),
        pytest.param([(20, 20, 1.0), (26, 26, 1.0)], {"distance": "l2"}, [(20, 20), (26, 26)], id="l2-beyond"),
        pytest.param([(20, 20, 1.0), (25, 26, 1.0)], {"distance": "l2"}, [(20, 20)], id="l2-within"),
        pytest.param([(0, 0, 1.0), (49, 39, 0.95)], {}, [(0, 0), (49, 39)], id="corners"),
        pytest.param([(5, 5, 0.9), (30, 5, 1.0)], {"max_candidates": 1}, [(30, 5)], id="only-the-best-candidate"),
    ],
)
def test_peaks_of_one_map_with_kernel_17_and_radius_8(pixels, options, expected):
    assert peaks_of(one_map(*pixels), **options) == expected


@pytest.mark.parametrize(
    ("kernel", "second", "options", "peaks"),
    [
        # Algorithm 1, line 19: what lies within half of k = 128 of a peak goes, 64 included.
        pytest.param(128, (114, 100), {"spacing": "more-than", "distance": "l2"}, 1, id="paper-half-a-kernel-goes"),
        pytest.param(128, (115, 100), {"spacing": "more-than", "distance": "l2"}, 2, id="paper-beyond-it-stays"),
        pytest.param(128, (114, 101), {"spacing": "more-than", "distance": "l2"}, 2, id="paper-just-beyond-it-stays"),
        pytest.param(129, (114, 100), {"spacing": "more-than", "distance": "l2"}, 1, id="half-of-129-is-64.5"),
        pytest.param(129, (114, 101), {"spacing": "more-than", "distance": "l2"}, 1, id="and-64.01-is-within"),
        pytest.param(129, (115, 100), {"spacing": "more-than"}, 2, id="65-is-not"),
        pytest.param(128, (114, 100), {}, 2, id="code-half-a-kernel-stays"),
        pytest.param(128, (113, 100), {}, 1, id="code-nearer-goes"),
        pytest.param(129, (114, 100), {"distance": "l2"}, 2, id="code-64-of-129-stays"),
    ],
)
def test_equal_maxima_half_a_kernel_apart(kernel, second, options, peaks):
    drawn = one_map((50, 100, 1.0), (*second, 1.0), height=200, width=200)
    assert peaks_of(drawn, kernel=kernel, **options) == [(50, 100), second][:peaks]


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        pytest.param(slice(10, 14), slice(20, 25), (20, 10), id="inside"),
        pytest.param(slice(0, 4), slice(0, 4), (0, 0), id="at-a-corner-the-corner"),
        pytest.param(slice(36, 40), slice(46, 50), (46, 36), id="at-the-opposite-corner-the-inner-pixel"),
        pytest.param(slice(0, 3), slice(20, 24), (20, 0), id="at-the-upper-border"),
        pytest.param(slice(20, 24), slice(48, 50), (48, 20), id="at-the-right-border"),
    ],
)
def test_of_a_plateau_the_first_pixel_in_reading_order_is_the_peak(rows, columns, expected):
    drawn = torch.zeros(40, 50)
    drawn[rows, columns] = 1
    assert peaks_of(drawn, kernel=17) == peaks_of(drawn, kernel=129) == [expected]


def test_a_map_enlarged_by_bilinear_interpolation_peaks_at_the_border_where_its_outer_cell_is_best():
    # From 4 x 4 to 32 x 32 cells of 8 pixels: the outer half cell repeats, so that 4 x 4 pixels in the corner are equal.
    small = torch.zeros(1, 1, 4, 4)
    small[0, 0, 0, 3] = 1
    drawn = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)[0, 0]
    assert (drawn == 1).nonzero().tolist() == [[y, x] for y in range(4) for x in range(28, 32)]
    assert peaks_of(drawn, kernel=129) == [(28, 0)]


def test_at_most_25_candidates_enter_the_distance_filter_by_default():
    drawn = torch.ones(10, 10)  # everything ties; the first 25 in reading order are rows 0, 1 and half of row 2
    assert peaks_of(drawn, kernel=5) == [(0, 0), (2, 0), (4, 0), (6, 0), (8, 0), (1, 1), (3, 1), (5, 1), (7, 1), (9, 1),
                                         (0, 2), (2, 2), (4, 2)]  # fmt: skip
    assert len(peaks_of(drawn, kernel=5, max_candidates=0)) == 50


def test_an_even_kernel_is_rounded_up():
    drawn = one_map((20, 20, 1.0), (20, 28, 0.95))
    assert peaks_of(drawn, kernel=16) == peaks_of(drawn, kernel=17) == [(20, 20)]
    assert peaks_of(drawn, kernel=15) == [(20, 20), (20, 28)]


def test_a_map_smaller_than_the_kernel_and_than_25_pixels():
    assert peaks_of(torch.tensor([[0.9, 0.2], [0.95, 1.0]]), kernel=129) == [(1, 1)]
    assert peaks_of(torch.ones(1, 1), kernel=129) == [(0, 0)]


def test_no_maps_have_no_peaks():
    assert find_peaks(torch.zeros(0, 5, 5), PeaksConfig(), kernel=17) == []


def reference(drawn, config, kernel):
    """Algorithm 1 pixel by pixel."""
    radius, at_least = kernel // 2, config.spacing == "at-least"
    height, width = drawn.shape
    candidates = []
    for y in range(height):
        for x in range(width):
            window = drawn[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            if drawn[y, x] == window.max():
                candidates.append((-drawn[y, x], y, x))
    kept = []
    for negative, y, x in sorted(candidates)[: config.max_candidates or None]:
        apart = [(abs(x - kx), abs(y - ky)) for _, ky, kx in kept]
        if config.distance == "l1":  # twice the distance against the whole kernel: whole numbers on both sides
            far = [(dx + dy >= radius) if at_least else (2 * (dx + dy) > kernel) for dx, dy in apart]
        else:
            squares = [dx * dx + dy * dy for dx, dy in apart]
            far = [(square >= radius**2) if at_least else (4 * square > kernel**2) for square in squares]
        if all(far):
            kept.append((negative, y, x))
    return [(x, y) for negative, y, x in kept if -negative >= config.threshold and negative < 0]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    levels=st.sampled_from([1, 2, 4, 1000]),  # few levels make plateaus and ties
    kernel=st.sampled_from([1, 3, 4, 5, 9, 31]),
    max_candidates=st.sampled_from([0, 1, 5, 25]),
    distance=st.sampled_from(["l1", "l2"]),
    spacing=st.sampled_from(["at-least", "more-than"]),
    threshold=st.sampled_from([0.0, 0.5, 0.9]),
)
def test_batched_peaks_equal_the_pixel_by_pixel_algorithm(
    seed, size, levels, kernel, max_candidates, distance, spacing, threshold
):
    maps = (np.random.default_rng(seed).integers(0, levels + 1, (3, *size)) / levels).astype(np.float32)
    config = PeaksConfig(max_candidates=max_candidates, distance=distance, spacing=spacing, threshold=threshold)
    found = find_peaks(torch.from_numpy(maps), config, kernel=kernel)
    for drawn, peaks in zip(maps, found, strict=True):
        assert [tuple(point) for point in peaks.points_xy.tolist()] == reference(drawn, config, kernel)
        np.testing.assert_array_equal(peaks.values, drawn[peaks.points_xy[:, 1], peaks.points_xy[:, 0]])
