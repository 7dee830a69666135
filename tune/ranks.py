"""How trials rank among each other: what the objective ``rank`` of a sweep is."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import rankdata


def mean_ranks(columns: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return for each of N trials the mean of its ranks, 1 for the best and 0 for the worst in every column.

    Args:
        columns: figures of N trials each. A trial without one of them has no rank.
    """
    complete = [all(value is not None for value in row) for row in zip(*columns, strict=True)]
    ranked = [
        (rankdata([value for value, whole in zip(column, complete, strict=True) if whole]) - 1)
        / max(sum(complete) - 1, 1)
        for column in columns
    ]
    means = iter([sum(ranks) / len(columns) for ranks in zip(*ranked, strict=True)])
    return [float(next(means)) if whole else None for whole in complete]
