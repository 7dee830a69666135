"""Thresholds that the data choose: where a distribution falls apart, bends or ends. No true box is needed, nor torch.

The paper gives numbers for ImageNet detectors on VOC and COCO and leaves open what fits others; a field of the recipe set to
"auto" is filled in by one of these.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TAIL = 0.999  # share of the values that the knee looks at: a single huge one would move it
_ROUNDING = 1e-9  # two cuts whose variances differ by less part the values equally well: rounding must not choose
_FENCE = 1.5  # interquartile ranges above the third quartile (Tukey)


def two_groups(values: NDArray[np.floating]) -> float:
    """Return the threshold that parts N values best into a lower and a higher group (Otsu's criterion, exactly).

    It lies in the middle between the groups, and maximises the variance between their means. Of several that do, the lowest.

    Raises:
        ValueError: fewer than two different values, or one that is not finite.
    """
    ordered = _ordered(values)
    n = len(ordered)
    lower = np.arange(1, n)
    sums = ordered.cumsum()
    means = sums[:-1] / lower, (sums[-1] - sums[:-1]) / (n - lower)
    between = lower * (n - lower) * (means[0] - means[1]) ** 2
    between[ordered[1:] == ordered[:-1]] = -1  # no threshold parts equal values
    cut = int((between >= between.max() * (1 - _ROUNDING)).argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)


def knee(values: NDArray[np.floating]) -> float:
    """Return where the sorted values begin to rise steeply: the point farthest below the line from the first to the last.

    The highest 0.1 % of the N values do not count.

    Raises:
        ValueError: fewer than two different values, or one that is not finite.
    """
    ordered = _ordered(values)
    high = max(float(np.quantile(ordered, _TAIL)), float(ordered[ordered > ordered[0]][0]))
    heights = ((ordered - ordered[0]) / (high - ordered[0])).clip(max=1)
    return float(ordered[int((np.linspace(0, 1, len(ordered)) - heights).argmax())])


def percentile_of_knee(values: NDArray[np.floating]) -> float:
    """Return how many per cent of the values lie up to their knee.

    Raises:
        ValueError: fewer than two different values, or one that is not finite.
    """
    return float(100 * np.mean(np.asarray(values) <= knee(values)))


def outlier_fence(values: NDArray[np.floating]) -> float:
    """Return Tukey's upper fence: 1.5 interquartile ranges above the third quartile of N values.

    Raises:
        ValueError: fewer than two different values, or one that is not finite.
    """
    first, third = np.quantile(_ordered(values), (0.25, 0.75))
    return float(third + _FENCE * (third - first))


def _ordered(values: NDArray[np.floating]) -> NDArray[np.float64]:
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    if not np.isfinite(ordered).all():
        raise ValueError("expected finite values, got NaN or infinity")
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        raise ValueError(f"expected two different values or more, got {len(ordered)}, all the same")
    return ordered
