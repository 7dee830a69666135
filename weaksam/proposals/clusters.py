"""Clusters of instance-aware peaks: many heads and layers see an object, each a few pixels off, and SAM is asked once."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fclusterdata
from scipy.cluster.vq import kmeans2

from weaksam.config import ClustersConfig

_LLOYD_ITERATIONS = 50  # a hundred points settle within twenty
_SHIFTS = 300  # scikit-learn's limit; a hundred points settle within twenty
_SETTLED = 1e-3  # pixels


def cluster_points(points_xy: NDArray[np.int64], config: ClustersConfig) -> NDArray[np.int64]:
    """Centres of clusters, each truncated to whole pixels (published code, which takes k-means; the paper names no method).

    Args:
        points_xy: ``[n, 2]``, duplicates allowed; they weigh.
        config: how points are clustered.

    Returns:
        ``[n_clusters, 2]``; of no points, none. Without clustering, the points.
    """
    if len(points_xy) == 0 or config.method == "none":
        return points_xy
    points = points_xy.astype(np.float64)
    if config.method == "kmeans":
        centres = _kmeans(points, config.points_per_cluster)
    elif config.method == "mean-shift":
        centres = _mean_shift(points, config.radius)
    else:
        centres = _dbscan(points, config.radius)
    return centres.astype(np.int64)


def _kmeans(points: NDArray[np.float64], points_per_cluster: int) -> NDArray[np.float64]:
    """Make ``n // points_per_cluster`` clusters, at least 1 and never more than there are different points.

    Lloyd's algorithm from one greedy k-means++ start, as in scikit-learn, which the published code calls, but with another
    stream of random numbers: centres are as good as the published ones and not the same. The seed is fixed, so that the
    same points always give the same centres.
    """
    n_clusters = min(max(1, len(points) // points_per_cluster), len(np.unique(points, axis=0)))
    start = _spread_points(points, n_clusters, np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty", category=UserWarning)
        centres, _ = kmeans2(points, start, iter=_LLOYD_ITERATIONS, minit="matrix")
    return np.asarray(centres, dtype=np.float64)


def _mean_shift(points: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Move each point to the mean of the points within ``radius`` until it rests there, at a mode (Comaniciu and Meer, 2002).

    Of modes within ``radius`` of each other the one stays that has the most points around it; of equal ones the first.
    """
    modes = points
    for _ in range(_SHIFTS):
        near = _squared_distances(points, modes) <= radius**2  # [modes, n]
        moved = (near @ points) / near.sum(axis=1, keepdims=True)
        settled = np.abs(moved - modes).max() < _SETTLED
        modes = moved
        if settled:
            break
    around = (_squared_distances(points, modes) <= radius**2).sum(axis=1)
    kept: list[int] = []
    for mode in np.argsort(-around, kind="stable"):
        if not kept or _squared_distances(modes[kept], modes[[mode]]).min() > radius**2:
            kept.append(int(mode))
    return modes[kept]


def _dbscan(points: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Take the mean of each chain of points that are ``radius`` apart at the most.

    DBSCAN (Ester et al., 1996) with a least number of 1: no point is noise, since a peak alone may be an object.
    """
    if len(points) == 1:
        return points
    labels = fclusterdata(points, radius, criterion="distance", method="single")
    return np.stack([points[labels == label].mean(axis=0) for label in np.unique(labels)])


def _spread_points(points: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Choose ``count`` of the points ``[n, 2]`` to start k-means from, by greedy k-means++.

    Of a few points drawn in proportion to the squared distance to the nearest one chosen so far, the one is chosen that
    leaves the smallest sum of these distances (Arthur and Vassilvitskii, 2007, section 5).
    """
    candidates = 2 + int(np.log(count))
    chosen = [int(rng.integers(len(points)))]
    squares = _squared_distances(points, points[chosen])[0]
    for _ in range(count - 1):
        drawn = rng.choice(len(points), candidates, p=squares / squares.sum())
        left = np.minimum(squares, _squared_distances(points, points[drawn]))  # [candidates, n]
        best = int(left.sum(axis=1).argmin())
        chosen.append(int(drawn[best]))
        squares = left[best]
    return points[chosen]


def _squared_distances(points: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[k, n]`` for ``[n, 2]`` and ``[k, 2]``."""
    squares: NDArray[np.float64] = ((to[:, None] - points) ** 2).sum(axis=2)
    return squares
