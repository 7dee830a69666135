"""Drawings of a sweep as inline SVG, in the colours of the page that they stand in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from pipelines.report.charts import round_numbers
from pipelines.store.numbers import percent

_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 30, 38
_HEIGHT = 260


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One vertical axis of parallel coordinates."""

    name: str
    ticks: Sequence[str]  # from the bottom up, evenly spaced


@dataclass(frozen=True, kw_only=True)
class Line:
    """One trial in parallel coordinates."""

    places: Sequence[float]  # on each axis, in [0, 1]
    goodness: float  # in [0, 1]: how strongly it is drawn
    best: bool
    told: str  # by a tooltip


def parallel_coordinates(axes: Sequence[Axis], lines: Sequence[Line], *, label: str) -> Markup:
    """Draw every trial as a line through its values.

    Args:
        axes: from left to right.
        lines: later ones lie on top.
        label: what a screen reader says instead of the drawing.
    """
    width = max(360, 110 * len(axes))
    left, right = 40, 46
    xs = [left + (width - left - right) * n / max(len(axes) - 1, 1) for n in range(len(axes))]
    parts = [
        Markup(
            '<svg class="chart wide" style="width: {0}px" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">'
        ).format(width, _HEIGHT, label)
    ]
    for line in lines:
        path = " ".join(f"{x:.1f},{_up(place):.1f}" for x, place in zip(xs, line.places, strict=True))
        parts.append(
            Markup('<g class="{}" style="opacity:{:.2f}"><polyline points="{}"/><title>{}</title></g>').format(
                "best" if line.best else "trial", 0.12 + 0.88 * line.goodness**2, path, line.told
            )
        )
    for n, (x, axis) in enumerate(zip(xs, axes, strict=True)):
        parts.append(Markup('<line class="axis" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, _TOP, _up(0)))
        anchor = "start" if n == 0 else "end" if n == len(axes) - 1 else "middle"
        start = x - left + 4 if n == 0 else x + right - 4 if n == len(axes) - 1 else x
        row = 12 if n % 2 == 0 or len(axes) < 4 else 24
        parts.append(Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(start, row, anchor, axis.name))
        for k, text in enumerate(axis.ticks):
            y = _up(k / max(len(axis.ticks) - 1, 1) if len(axis.ticks) > 1 else 0.5)
            parts.append(Markup('<text class="tick" x="{:.1f}" y="{:.1f}">{}</text>').format(x + 4, y + 4, text))
    return Markup("").join([*parts, Markup("</svg>")])


def best_so_far(values: Sequence[float | None], *, label: str, name: str) -> Markup:
    """Draw the objective of each trial in [0, 1] in the order in which they ended, and the best until then.

    Args:
        values: None for a trial that was stopped or failed.
        label: what a screen reader says instead of the drawing.
        name: of the objective.
    """
    width = 360
    known = [100 * value for value in values if value is not None]
    levels = _levels(known)
    span = levels[-1] - levels[0]

    def at(n: int, value: float) -> tuple[float, float]:
        x = _LEFT + (width - _LEFT - _RIGHT) * (n + 0.5) / max(len(values), 1)
        return x, _up((value - levels[0]) / span)

    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, _HEIGHT, label)]
    for level in levels:
        y = _up((level - levels[0]) / span)
        parts.append(
            Markup(
                '<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text x="{}" y="{:.1f}" text-anchor="end">{:g}</text>'
            ).format(_LEFT, width - _RIGHT, y, y, _LEFT - 6, y + 4, level)
        )
    highest = list(accumulate((-1.0 if value is None else 100 * value for value in values), max))
    steps = [at(n, best) for n, best in enumerate(highest) if best >= 0]
    path = " ".join(
        f"{x:.1f},{before:.1f} {x:.1f},{y:.1f}"
        for (x, y), before in zip(steps, [steps[0][1], *(y for _, y in steps)] if steps else [], strict=False)
    )
    parts.append(Markup('<g class="line-1"><polyline points="{}"/></g>').format(path))
    for n, value in enumerate(values):
        if value is not None:
            x, y = at(n, 100 * value)
            parts.append(
                Markup(
                    '<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.2"><title>trial {}: {}</title></circle>'
                ).format(x, y, n + 1, percent(value))
            )
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">trial</text><text x="4" y="12">{}, %</text>').format(
            (_LEFT + width - _RIGHT) / 2, _HEIGHT - 6, name
        )
    )
    for n in {0, len(values) // 2, len(values) - 1}:
        x, _ = at(n, levels[0])
        parts.append(Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(x, _HEIGHT - 22, n + 1))
    return Markup("").join([*parts, Markup("</svg>")])


def _levels(values: Sequence[float]) -> list[float]:
    """Return round levels that span values which may lie close together."""
    if not values or max(values) == min(values):
        middle = values[0] if values else 50.0
        return [middle - 1, middle, middle + 1]
    step = round_numbers(0, max(values) - min(values))[1]
    first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
    return [round(n * step, 6) for n in range(first, last + 1)]


def _up(share: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share
