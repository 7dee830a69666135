"""Drawings of a sweep as inline SVG, in the colours of the page that they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from pipelines.page.axes import Axes, Point, levels_around
from pipelines.store.numbers import percent


@dataclass(frozen=True, kw_only=True)
class KnobAxis:
    """One vertical axis of parallel coordinates."""

    name: str
    ticks: Sequence[str]  # from the bottom up, evenly spaced


@dataclass(frozen=True, kw_only=True)
class TrialLine:
    """One trial in parallel coordinates."""

    places: Sequence[float]  # on each axis, in [0, 1]
    goodness: float  # in [0, 1]: how strongly it is drawn
    best: bool
    told: str  # by a tooltip


def parallel_coordinates(knobs: Sequence[KnobAxis], trials: Sequence[TrialLine], *, label: str) -> Markup:
    """Draw every trial as a line through its values.

    Args:
        knobs: from left to right.
        trials: later ones lie on top.
        label: what a screen reader says instead of the drawing.
    """
    count, width = len(knobs), max(360, 110 * len(knobs))
    axes = Axes(label, width=width, height=260, left=40, right=46, css_class="chart wide")
    across = [n / max(count - 1, 1) for n in range(count)]
    for trial in trials:
        path = " ".join(f"{axes.x(x):.1f},{axes.y(place):.1f}" for x, place in zip(across, trial.places, strict=True))
        axes.add(
            '<g class="{}" style="opacity:{:.2f}"><polyline points="{}"/><title>{}</title></g>',
            *("best" if trial.best else "trial", 0.12 + 0.88 * trial.goodness**2, path, trial.told),
        )
    for n, (share, knob) in enumerate(zip(across, knobs, strict=True)):
        x = axes.x(share)
        axes.add('<line class="axis" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>', x, axes.y(1), axes.y(0))
        # The outer names begin and end with the drawing.
        start, anchor = {0: (4.0, "start"), count - 1: (width - 4.0, "end")}.get(n, (x, "middle"))
        row = 10 if n % 2 == 0 or count < 4 else 22
        axes.add('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>', start, row, anchor, knob.name)
        for k, text in enumerate(knob.ticks):
            y = axes.y(k / (len(knob.ticks) - 1) if len(knob.ticks) > 1 else 0.5)
            axes.add('<text class="tick" x="{:.1f}" y="{:.1f}">{}</text>', x + 4, y + 4, text)
    return axes.drawn()


def best_so_far(values: Sequence[float | None], *, label: str, name: str) -> Markup:
    """Draw the objective of each trial in [0, 1] in the order in which they ended, and the best until then.

    Args:
        values: None for a trial that was stopped or failed.
        label: what a screen reader says instead of the drawing.
        name: of the objective.
    """
    levels = levels_around([100 * value for value in values if value is not None])
    count = max(len(values), 1)

    def at(n: int, value: float) -> Point:
        return (n + 0.5) / count, (100 * value - levels[0]) / (levels[-1] - levels[0])

    axes = Axes(label)
    for level in levels:
        axes.level((level - levels[0]) / (levels[-1] - levels[0]), f"{level:g}")
    highest = list(accumulate((-1.0 if value is None else value for value in values), max))
    best = [at(n, value) for n, value in enumerate(highest) if value >= 0]
    before = [height for _, height in [*best[:1], *best]]
    axes.line("line-1", [point for (x, y), old in zip(best, before, strict=False) for point in ((x, old), (x, y))])
    for n, value in enumerate(values):
        if value is not None:
            x, y = at(n, value)
            axes.add(
                '<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.2"><title>trial {}: {}</title></circle>',
                *(axes.x(x), axes.y(y), n + 1, percent(value)),
            )
    axes.names("trial", f"{name}, %")
    for n in sorted({0, len(values) // 2, len(values) - 1}):
        axes.tick((n + 0.5) / count, f"{n + 1}")
    return axes.drawn()
