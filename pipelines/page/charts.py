"""Charts of runs: curves of recall and of losses, a histogram, rates over bins, bars for tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from pipelines.page.axes import Axes, round_numbers, round_steps

_MOST_BARS = 30
_SIGNS = 6  # on a line of a loss chart, so that signs do not hide it


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart: recall in [0, 1] by IoU threshold."""

    label: str
    css_class: str  # gives the colour
    recall: Mapping[float, float]


def recall_chart(curves: Sequence[Curve], *, label: str) -> Markup:
    """Draw recall against the IoU threshold, one line per curve, each point with a tooltip.

    Args:
        curves: with the same thresholds each; none draw the empty axes.
        label: what a screen reader says instead of the drawing.
    """
    thresholds = sorted({threshold for curve in curves for threshold in curve.recall}) or [0.5, 0.95]
    first, last = thresholds[0], thresholds[-1]

    def across(threshold: float) -> float:
        return (threshold - first) / (last - first) if last > first else 0.5

    axes = Axes(label)
    axes.percents()
    for threshold in thresholds[::2]:
        axes.tick(across(threshold), f"{threshold:.2f}".lstrip("0"))
    axes.names("IoU at least", "recall, %")
    for n, curve in enumerate(curves):
        signs = Markup("").join(
            Markup("<g><title>{}: recall {:.1f} % at IoU {:g}</title>{}</g>").format(
                curve.label, 100 * recall, threshold, axes.marks(n, [(across(threshold), recall)])
            )
            for threshold, recall in sorted(curve.recall.items())
        )
        axes.line(curve.css_class, [(across(t), recall) for t, recall in sorted(curve.recall.items())], signs)
    return axes.drawn()


def histogram(values: Sequence[int], *, label: str, x_name: str) -> Markup:
    """Draw how many images have each value, in at most 30 bars of equal width, each with a tooltip."""
    axes = Axes(label)
    low, width, counts = bins(values)
    most = max(counts, default=0) or 1
    for count in sorted({0, most // 2, most}):
        axes.level(count / most, f"{count:,}")
    axes.names(x_name, "images")
    for n, count in enumerate(counts):
        start = low + n * width
        what = f"{start}" if width == 1 else f"{start} to {start + width - 1}"
        axes.bar(n, len(counts), count / most, f"{what}: {count} images")
        if n % max(1, math.ceil(len(counts) / 7)) == 0:
            axes.tick((n + 0.5) / len(counts), f"{start:,}")
    return axes.drawn()


def shares_chart(counts: Sequence[int], *, label: str, x_name: str, of: str) -> Markup:
    """Draw how many there are in each of equal parts of 0 to 1, as bars with a tooltip.

    Args:
        counts: of each part.
        label: what a screen reader says instead of the drawing.
        x_name: what runs from 0 to 1.
        of: what is counted, in the plural.
    """
    axes, parts = Axes(label), max(len(counts), 1)
    most = max(counts, default=0) or 1
    for count in sorted({0, most // 2, most}):
        axes.level(count / most, f"{count:,}")
    axes.names(x_name, of)
    for n in range(0, len(counts) + 1, max(1, parts // 5)):
        axes.tick(n / parts, f"{n / parts:.1f}")
    for n, count in enumerate(counts):
        axes.bar(n, parts, count / most, f"{n / parts:.2f} to {(n + 1) / parts:.2f}: {count:,} {of}")
    return axes.drawn()


def rates_chart(
    counts: Sequence[int], rates: Sequence[float | None], *, label: str, x_name: str, rate_name: str
) -> Markup:
    """Draw a rate in [0, 1] over equal parts of 0 to 1 as a line, and how many there are in each as bars on a log scale.

    Args:
        counts: of each part, each with a tooltip.
        rates: of each part; None where it is not known: the line passes it over.
        label: what a screen reader says instead of the drawing.
        x_name: what runs from 0 to 1.
        rate_name: of the vertical axis.
    """
    axes, parts = Axes(label), max(len(counts), 1)
    axes.percents()
    axes.names(x_name, rate_name)
    for n in range(0, len(counts) + 1, 2):
        axes.tick(n / parts, f"{n / parts:.1f}")
    most = math.log10(1 + max(counts, default=0)) or 1
    points = []
    for n, (count, rate) in enumerate(zip(counts, rates, strict=True)):
        what = f"{n / parts:.1f} to {(n + 1) / parts:.1f}: {count:,}"
        what += "" if rate is None else f", {rate_name} {100 * rate:.1f}"
        axes.bar(n, parts, math.log10(1 + count) / most, what)
        points += [] if rate is None else [((n + 0.5) / parts, rate)]
    axes.line("line-0", points, axes.marks(0, points))
    return axes.drawn()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a loss chart: a loss at each of the chart's steps."""

    label: str
    css_class: str  # gives the colour
    losses: Sequence[float]


def loss_chart(steps: Sequence[int], lines: Sequence[Line], *, label: str) -> Markup:
    """Draw losses by training step, one line each; a tooltip at every step lists all of them.

    Args:
        steps: rising, 1 or more; none draw the empty axes.
        lines: with one loss per step each.
        label: what a screen reader says instead of the drawing.
    """
    losses = [loss for line in lines for loss in line.losses]
    levels = round_numbers(min(losses, default=0.0), max(losses, default=0.0))
    low, span, last = levels[0], levels[-1] - levels[0], max(steps, default=1)
    axes = Axes(label)
    for level in levels:
        axes.level((level - low) / span, f"{level:g}")
    for step in round_numbers(0, last):
        if step <= last and step % 1 == 0:
            axes.tick(step / last, f"{step:,.0f}")
    axes.names("step", "loss")
    for n, line in enumerate(lines):
        points = [(step / last, (loss - low) / span) for step, loss in zip(steps, line.losses, strict=True)]
        axes.line(line.css_class, points, axes.marks(n, points[:: -max(1, math.ceil(len(points) / _SIGNS))]))
    middles = [(left + right) / 2 / last for left, right in pairwise(steps)]
    for n, (step, (start, end)) in enumerate(zip(steps, pairwise([0, *middles, 1]), strict=False)):
        axes.column(start, end, f"step {step:,}: " + ", ".join(f"{line.label} {line.losses[n]:.3g}" for line in lines))
    return axes.drawn()


def bar(shares: Mapping[str, float], *, tooltip: str) -> Markup:
    """Draw shares in [0, 1] side by side in one flat bar, each in the colour of its CSS class; the rest stays empty.

    It is hidden from screen readers: its figures stand beside it.
    """
    parts = [Markup('<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">')]
    parts.append(Markup("<title>{}</title>").format(tooltip))
    start = 0.0
    for css_class, share in shares.items():
        parts.append(
            Markup('<rect class="{}" x="{:.1f}" width="{:.1f}" height="8"/>').format(css_class, start, 100 * share)
        )
        start += 100 * share
    return Markup("").join([*parts, Markup("</svg>")])


def bins(values: Sequence[int]) -> tuple[int, int, list[int]]:
    """Sort whole numbers into at most 30 bins of a round width: (start of the first, width, counts)."""
    if not values:
        return 0, 1, []
    low, high = min(values), max(values)
    width = next(int(step) for step in round_steps(0) if high // step - low // step < _MOST_BARS)
    start = low // width
    counts = [0] * (high // width - start + 1)
    for value in values:
        counts[value // width - start] += 1
    return start * width, width, counts
