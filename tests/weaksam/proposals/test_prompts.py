import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.cluster.vq import kmeans2

from weaksam.config import PeaksConfig, PromptsConfig
from weaksam.proposals.prompts import clue_prompts, cluster_points, grid_prompts
from weaksam.structures import ClassMaps

PEAKS = PeaksConfig(kernel_cam=3, kernel_cross=3, threshold=0.5)
SIZE_HW = (30, 40)


def with_peaks(*points_xy):
    """One map whose peaks, best first, are the given points."""
    drawn = torch.zeros(SIZE_HW)
    for rank, (x, y) in enumerate(points_xy):
        drawn[y, x] = 1 - 0.01 * rank
    return drawn


def points(prompts):
    return [prompt.tolist() for prompt in prompts.points_xy]


def test_grid_points_are_the_centres_of_the_cells_row_by_row():
    grid = grid_prompts((20, 40), 2)
    assert points(grid) == [[[10, 5]], [[30, 5]], [[10, 15]], [[30, 15]]]
    assert (grid.source, set(grid.kind), set(grid.class_index)) == ("grid", {"grid"}, {-1})
    assert grid.points_xy[0].dtype == np.float32


def test_the_grid_of_a_one_pixel_image_lies_inside_it():
    assert points(grid_prompts((1, 1), 1)) == [[[0.5, 0.5]]]
    assert len(grid_prompts((1, 1), 32)) == 1024


def test_every_peak_alone_and_then_the_peaks_of_each_class_together():
    class_maps = [
        ClassMaps(class_index=7, maps={"coarse": with_peaks((4, 5), (20, 6))[None]}),
        ClassMaps(class_index=2, maps={"coarse": with_peaks((30, 8))[None]}),
    ]
    (coarse,) = clue_prompts(class_maps, PromptsConfig(sources=("coarse",), peaks=PEAKS))
    assert points(coarse) == [[[4, 5]], [[20, 6]], [[30, 8]], [[4, 5], [20, 6]], [[30, 8]]]
    assert coarse.kind == ["semantic"] * 3 + ["class-joint"] * 2
    assert coarse.class_index == [7, 7, 2, 7, 2]
    assert {prompt.dtype for prompt in coarse.points_xy} == {np.dtype(np.float32)}


def test_without_class_joint_every_peak_stays_alone():
    class_maps = [ClassMaps(class_index=0, maps={"fine": with_peaks((4, 5), (20, 6))[None]})]
    (fine,) = clue_prompts(class_maps, PromptsConfig(sources=("fine",), class_joint=False, peaks=PEAKS))
    assert fine.kind == ["semantic", "semantic"]


def test_cross_peaks_of_all_classes_and_maps_are_pooled_and_clustered():
    class_maps = [
        ClassMaps(class_index=0, maps={"cross": torch.stack([with_peaks((4, 5)), with_peaks((6, 5))])}),
        ClassMaps(class_index=1, maps={"cross": torch.stack([with_peaks((5, 8)), with_peaks()])}),
    ]
    (clustered,) = clue_prompts(class_maps, PromptsConfig(sources=("cross",), points_per_cluster=3, peaks=PEAKS))
    assert points(clustered) == [[[5, 6]]]
    assert (clustered.kind, clustered.class_index) == (["instance"], [-1])
    (raw,) = clue_prompts(class_maps, PromptsConfig(sources=("cross",), cluster_cross=False, peaks=PEAKS))
    assert points(raw) == [[[4, 5]], [[6, 5]], [[5, 8]]]


def test_sources_come_as_coarse_fine_cross_restricted_to_the_wanted():
    class_maps = [
        ClassMaps(class_index=0, maps={name: with_peaks((4, 5))[None] for name in ("coarse", "fine", "cross")})
    ]
    found = clue_prompts(class_maps, PromptsConfig(sources=("cross", "grid", "coarse", "fine"), peaks=PEAKS))
    assert [prompts.source for prompts in found] == ["coarse", "fine", "cross"]
    found = clue_prompts(class_maps, PromptsConfig(sources=("cross", "grid"), peaks=PEAKS))
    assert [prompts.source for prompts in found] == ["cross"]


@pytest.mark.parametrize(
    "class_maps",
    [
        pytest.param([], id="no-class-is-present"),
        pytest.param([ClassMaps(class_index=0, maps={})], id="no-such-maps"),
        pytest.param(
            [ClassMaps(class_index=0, maps={name: torch.zeros(1, 9, 9) for name in ("coarse", "fine", "cross")})],
            id="no-peaks",
        ),
    ],
)
def test_a_source_without_peaks_is_there_and_empty(class_maps):
    found = clue_prompts(class_maps, PromptsConfig())
    assert [(prompts.source, len(prompts)) for prompts in found] == [("coarse", 0), ("fine", 0), ("cross", 0)]


def test_maps_are_taken_one_class_at_a_time():
    alive = []

    def lazily():
        for class_index in range(3):
            assert sum(alive) == 0
            alive.append(1)
            yield ClassMaps(class_index=class_index, maps={"fine": with_peaks((4, 5))[None]})
            alive[-1] = 0

    (fine,) = clue_prompts(lazily(), PromptsConfig(sources=("fine",), peaks=PEAKS))
    assert fine.class_index == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("points_xy", "per_cluster", "expected"),
    [
        pytest.param([], 5, [], id="no-points"),
        pytest.param([[3, 4]], 5, [[3, 4]], id="one-point"),
        pytest.param([[0, 0], [1, 1]], 5, [[0, 0]], id="truncated-not-rounded"),
        pytest.param([[0, 0], [1, 1], [2, 2], [8, 9]], 5, [[2, 3]], id="fewer-than-five-make-one"),
        pytest.param([[5, 5]] * 12, 5, [[5, 5]], id="never-more-clusters-than-different-points"),
        pytest.param([[0, 0]] * 5 + [[50, 60]] * 5, 5, [[0, 0], [50, 60]], id="two-heaps"),
        pytest.param([[0, 0], [9, 9]], 1, [[0, 0], [9, 9]], id="each-its-own"),
    ],
)
def test_clusters(points_xy, per_cluster, expected):
    found = cluster_points(np.array(points_xy, dtype=np.int64).reshape(-1, 2), per_cluster)
    assert sorted(found.tolist()) == expected


@pytest.mark.parametrize("seed", range(20))
def test_heaps_far_apart_get_a_cluster_each(seed):
    rng = np.random.default_rng(seed)
    places = rng.permutation(100)[:12]  # of a 10 x 10 lattice, 100 pixels wide; heaps are 5 pixels wide
    heaps = np.stack([places % 10, places // 10], axis=1)[:, None] * 100 + rng.integers(0, 5, (12, 5, 2))
    found = cluster_points(heaps.reshape(-1, 2), 5)
    assert sorted(found.tolist()) == sorted(np.floor(heaps.mean(axis=1)).astype(int).tolist())


def test_clusters_are_tighter_than_those_of_a_plain_start():
    # Greedy k-means++ is what scikit-learn, and so the published code, starts from. Over these sets a plain k-means++ start,
    # which is SciPy's, leaves a sum of squared distances a tenth larger.
    ratios = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        points = rng.integers(0, 400, (100, 2))
        plain, _ = kmeans2(points.astype(float), 20, iter=50, minit="++", seed=np.random.default_rng(0))
        sums = [
            ((points[:, None] - np.floor(centres)) ** 2).sum(axis=2).min(axis=1).sum()
            for centres in (cluster_points(points, 5), plain)
        ]
        ratios.append(sums[0] / sums[1])
    assert np.mean(ratios) < 0.97


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.integers(1, 7), st.sampled_from([3, 500]))
def test_clusters_are_repeatable_counted_and_within_their_points(seed, n, per_cluster, extent):
    points_xy = np.random.default_rng(seed).integers(0, extent, (n, 2))
    found = cluster_points(points_xy, per_cluster)
    np.testing.assert_array_equal(found, cluster_points(points_xy, per_cluster))
    assert len(found) == min(max(1, n // per_cluster), len(np.unique(points_xy, axis=0)))
    assert (found >= points_xy.min(axis=0)).all()
    assert (found <= points_xy.max(axis=0)).all()
