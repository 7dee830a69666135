"""The report's drawings as inline SVG: curves of recall and of losses, a histogram, rates over bins, bars for tables.

Colours and fonts are the page's own (CSS classes and ``currentColor``), so they follow its light and dark schemes. The
drawing area is as wide as a phone; wider screens scale it up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 10, 28, 38
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
    parts = [_open(label)]
    parts += [_horizontal(_y(recall, 1), f"{100 * recall:.0f}") for recall in (0, 0.25, 0.5, 0.75, 1)]
    parts += [_tick(_x(t - first, last - first), f"{t:.2f}".lstrip("0")) for t in thresholds[::2]]
    parts.append(_axis_names("IoU at least", "recall, %"))
    for n, curve in enumerate(curves):
        points = [(t, _x(t - first, last - first), _y(r, 1), r) for t, r in sorted(curve.recall.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for _, x, y, _ in points)
        parts.append(Markup('<g class="{}"><polyline points="{}"/>').format(curve.css_class, path))
        for threshold, x, y, recall in points:
            parts.append(
                Markup("<g><title>{}: recall {:.1f} % at IoU {:g}</title>{}</g>").format(
                    curve.label, 100 * recall, threshold, marker(n, x, y)
                )
            )
        parts.append(Markup("</g>"))
    return Markup("").join([*parts, Markup("</svg>")])


def histogram(values: Sequence[int], *, label: str, x_name: str) -> Markup:
    """Draw how many images have each value, in at most 30 bars of equal width, each with a tooltip."""
    parts = [_open(label)]
    low, width, counts = bins(values)
    most = max(counts, default=0) or 1
    parts += [_horizontal(_y(count, most), f"{count:,}") for count in sorted({0, most // 2, most})]
    parts.append(_axis_names(x_name, "images"))
    slot = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    for n, count in enumerate(counts):
        start = low + n * width
        what = f"{start}" if width == 1 else f"{start} to {start + width - 1}"
        top = _y(count, most)
        parts.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{}: {} images</title></rect>"
            ).format(_LEFT + n * slot + 0.5, top, max(slot - 1, 1), _HEIGHT - _BOTTOM - top, what, count)
        )
        if n % max(1, math.ceil(len(counts) / 7)) == 0:
            parts.append(_tick(_LEFT + (n + 0.5) * slot, f"{start:,}"))
    return Markup("").join([*parts, Markup("</svg>")])


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
    parts = [_open(label)]
    parts += [_horizontal(_y(level, 1), f"{100 * level:.0f}") for level in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(_axis_names(x_name, rate_name))
    slot = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    parts += [_tick(_LEFT + n * slot, f"{n / len(counts):.1f}") for n in range(0, len(counts) + 1, 2)]
    most = math.log10(1 + max(counts, default=0)) or 1
    points: list[tuple[float, float]] = []
    for n, (count, rate) in enumerate(zip(counts, rates, strict=True)):
        top = _y(math.log10(1 + count), most)
        what = f"{n / len(counts):.1f} to {(n + 1) / len(counts):.1f}: {count:,}"
        what += "" if rate is None else f", {rate_name} {100 * rate:.1f}"
        parts.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
            ).format(_LEFT + n * slot + 0.5, top, max(slot - 1, 1), _HEIGHT - _BOTTOM - top, what)
        )
        if rate is not None:
            points.append((_LEFT + (n + 0.5) * slot, _y(rate, 1)))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    signs = Markup("").join(marker(0, x, y) for x, y in points)
    parts.append(Markup('<g class="line-0"><polyline points="{}"/>{}</g>').format(path, signs))
    return Markup("").join([*parts, Markup("</svg>")])


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
    last = max(steps, default=1)
    xs = [_x(step, last) for step in steps]
    parts = [_open(label)]
    parts += [_horizontal(_y(level - levels[0], levels[-1] - levels[0]), f"{level:g}") for level in levels]
    parts += [
        _tick(_x(step, last), f"{step:,.0f}") for step in round_numbers(0, last) if step <= last and step % 1 == 0
    ]
    parts.append(_axis_names("step", "loss"))
    for n, line in enumerate(lines):
        points = [(x, _y(loss - levels[0], levels[-1] - levels[0])) for x, loss in zip(xs, line.losses, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        signs = points[:: -max(1, math.ceil(len(points) / _SIGNS))]
        parts.append(
            Markup('<g class="{}"><polyline points="{}"/>{}</g>').format(
                line.css_class, path, Markup("").join(marker(n, x, y) for x, y in signs)
            )
        )
    middles = [(left + right) / 2 for left, right in pairwise(xs)]
    spans = pairwise([_LEFT, *middles, _WIDTH - _RIGHT])
    for n, (step, (left, right)) in enumerate(zip(steps, spans, strict=False)):
        what = ", ".join(f"{line.label} {line.losses[n]:.3g}" for line in lines)
        parts.append(
            Markup(
                '<rect class="hit" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>step {:,}: {}</title></rect>'
            ).format(left, _TOP, right - left, _HEIGHT - _TOP - _BOTTOM, step, what)
        )
    return Markup("").join([*parts, Markup("</svg>")])


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


def round_numbers(low: float, high: float) -> list[float]:
    """Return two to six evenly spaced round numbers (1, 2 or 5 times a power of ten apart) that span ``low`` to ``high``.

    0 is always spanned.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    high = high if high > low else low + 1
    exponent = math.floor(math.log10(high - low)) - 1
    step = next(
        step
        for power in range(exponent, exponent + 3)
        for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
        if math.ceil(high / step) - math.floor(low / step) <= 5
    )
    return [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]


def bins(values: Sequence[int]) -> tuple[int, int, list[int]]:
    """Sort whole numbers into at most 30 bins of a round width: (start of the first, width, counts)."""
    if not values:
        return 0, 1, []
    low, high = min(values), max(values)
    width = next(
        step
        for exponent in range(12)
        for step in (10**exponent, 2 * 10**exponent, 5 * 10**exponent)
        if high // step - low // step < _MOST_BARS
    )
    start = low // width
    counts = [0] * (high // width - start + 1)
    for value in values:
        counts[value // width - start] += 1
    return start * width, width, counts


def marker(n: int, x: float, y: float) -> Markup:
    """Draw the sign of the n-th curve, for readers who cannot tell by colour."""
    shapes = (
        '<circle class="mark" cx="{0:.1f}" cy="{1:.1f}" r="3"/>',
        '<path class="mark" d="M{0:.1f} {1:.1f}m-3 -3h6v6h-6z"/>',
        '<path class="mark" d="M{0:.1f} {1:.1f}m0 -4l4 7h-8z"/>',
        '<path class="mark" d="M{0:.1f} {1:.1f}m0 -4l4 4l-4 4l-4 -4z"/>',
    )
    return Markup(shapes[n % len(shapes)]).format(x, y)


def legend_sign(n: int) -> Markup:
    """Draw the n-th curve's line and sign for the legend; hidden from screen readers, the label stands beside it."""
    return Markup('<svg class="sign" viewBox="0 0 24 10" aria-hidden="true"><path d="M0 5h24"/>{}</svg>').format(
        marker(n, 12, 5)
    )


def _open(label: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label)


def _x(value: float, of: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value / of if of else 0.5)


def _y(value: float, of: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / of


def _horizontal(y: float, text: str) -> Markup:
    return Markup(
        '<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(_LEFT, _WIDTH - _RIGHT, y, y, _LEFT - 6, y + 4, text)


def _tick(x: float, text: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(x, _HEIGHT - _BOTTOM + 16, text)


def _axis_names(x_name: str, y_name: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="middle">{}</text><text x="4" y="12">{}</text>').format(
        (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_name, y_name
    )
