"""What several seeds say of a figure: its mean and spread, and how two settings differ when they are paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class MeanAndSpread(NamedTuple):
    """Of the values of one figure; both None where one of them is not known."""

    mean: float | None
    spread: float | None  # the largest minus the smallest


class Interval(NamedTuple):
    """The 95 % interval of Student's t for the mean of paired differences."""

    mean: float
    half_width: float  # infinite for one pair

    @property
    def holds_zero(self) -> bool:
        """Whether the two settings may be equally good."""
        return abs(self.mean) <= self.half_width


def mean_and_spread(values: Iterable[float | None]) -> MeanAndSpread:
    """Return the mean of values and their largest minus their smallest; both None without a value, or if one is None."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    if not numbers or len(numbers) < len(known):
        return MeanAndSpread(None, None)
    return MeanAndSpread(sum(numbers) / len(numbers), max(numbers) - min(numbers))


def paired_difference(one: Mapping[int, float | None], other: Mapping[int, float | None]) -> Interval | None:
    """Return how much larger ``other`` is than ``one`` over the seeds that both have; None where they share no seed.

    Args:
        one: seed -> value; None is not known, and the seed is left out.
        other: the same of the other setting.
    """
    pairs = [(value, other.get(seed)) for seed, value in one.items()]
    differences = [b - a for a, b in pairs if a is not None and b is not None]
    return interval(differences) if differences else None


def interval(differences: Sequence[float]) -> Interval:
    """Return the mean of N >= 1 differences with its 95 % interval."""
    n = len(differences)
    if n < 2:
        return Interval(differences[0], math.inf)
    from scipy.stats import t as student

    half_width = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    return Interval(statistics.mean(differences), half_width)
