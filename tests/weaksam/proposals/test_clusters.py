import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.cluster.vq import kmeans2

from weaksam.config import ClustersConfig
from weaksam.errors import ConfigError
from weaksam.proposals.clusters import cluster_points


def in_heaps_of(points_per_cluster):
    return ClustersConfig(points_per_cluster=points_per_cluster)


def as_points(points_xy):
    return np.array(points_xy, dtype=np.int64).reshape(-1, 2)


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
    found = cluster_points(as_points(points_xy), in_heaps_of(per_cluster))
    assert sorted(found.tolist()) == expected


@pytest.mark.parametrize("seed", range(20))
def test_heaps_far_apart_get_a_cluster_each(seed):
    rng = np.random.default_rng(seed)
    places = rng.permutation(100)[:12]  # of a 10 x 10 lattice, 100 pixels wide; heaps are 5 pixels wide
    heaps = np.stack([places % 10, places // 10], axis=1)[:, None] * 100 + rng.integers(0, 5, (12, 5, 2))
    found = cluster_points(heaps.reshape(-1, 2), in_heaps_of(5))
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
            for centres in (cluster_points(points, in_heaps_of(5)), plain)
        ]
        ratios.append(sums[0] / sums[1])
    assert np.mean(ratios) < 0.97


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.integers(1, 7), st.sampled_from([3, 500]))
def test_clusters_are_repeatable_counted_and_within_their_points(seed, n, per_cluster, extent):
    points_xy = np.random.default_rng(seed).integers(0, extent, (n, 2))
    found = cluster_points(points_xy, in_heaps_of(per_cluster))
    np.testing.assert_array_equal(found, cluster_points(points_xy, in_heaps_of(per_cluster)))
    assert len(found) == min(max(1, n // per_cluster), len(np.unique(points_xy, axis=0)))
    assert (found >= points_xy.min(axis=0)).all()
    assert (found <= points_xy.max(axis=0)).all()


CHAIN = [[0, 0], [4, 0], [8, 0], [12, 0]]  # each within 5 of the next, the ends 12 apart


@pytest.mark.parametrize("method", ["mean-shift", "dbscan", "none"])
@pytest.mark.parametrize("points_xy", [[], [[3, 4]], [[0, 0], [50, 60]]], ids=["none", "one", "far-apart"])
def test_what_is_far_from_all_else_is_a_cluster_of_its_own(method, points_xy):
    found = cluster_points(as_points(points_xy), ClustersConfig(method=method, radius=5))
    assert sorted(found.tolist()) == points_xy


@pytest.mark.parametrize(
    ("method", "points_xy", "expected"),
    [
        pytest.param("dbscan", [[5, 5]] * 3, [[5, 5]], id="dbscan-duplicates"),
        pytest.param("dbscan", CHAIN, [[6, 0]], id="dbscan-follows-a-chain"),
        pytest.param("dbscan", [[0, 0], [5, 0], [11, 0]], [[2, 0], [11, 0]], id="dbscan-as-far-as-the-radius"),
        pytest.param("mean-shift", [[5, 5]] * 3, [[5, 5]], id="mean-shift-duplicates"),
        # From (0, 0) to the mean of the first two, (2, 0), then of the first two again; from (4, 0) to the mean of three.
        pytest.param(
            "mean-shift", [[0, 0], [4, 0], [4, 0], [8, 0]], [[4, 0]], id="mean-shift-climbs-to-the-most-points"
        ),
        # (0, 0) -> 2 -> 2; 4 -> 4; 8 -> 8; 12 -> 10: of modes 2, 4, 8, 10 those of 4 and 8 have three points around.
        pytest.param("mean-shift", CHAIN, [[4, 0], [10, 0]], id="mean-shift-cuts-a-chain"),
        pytest.param("none", [[5, 5]] * 2, [[5, 5]] * 2, id="none-keeps-duplicates"),
    ],
)
def test_clusters_by_distance(method, points_xy, expected):
    found = cluster_points(as_points(points_xy), ClustersConfig(method=method, radius=5))
    assert sorted(found.tolist()) == expected


@pytest.mark.parametrize("seed", range(5))
def test_dbscan_as_a_plain_flood(seed):
    points = np.random.default_rng(seed).integers(0, 60, (40, 2))
    left, expected = set(range(len(points))), []
    while left:
        reached = [left.pop()]
        for n in reached:
            near = {m for m in left if np.hypot(*(points[m] - points[n])) <= 6}
            left -= near
            reached += near
        expected.append(points[reached].mean(axis=0).astype(int).tolist())
    found = cluster_points(points, ClustersConfig(method="dbscan", radius=6))
    assert sorted(found.tolist()) == sorted(expected)


def test_a_radius_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="radius: expected a positive number of pixels, got 0"):
        ClustersConfig(radius=0)
