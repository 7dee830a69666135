"""The drawing area of every chart, as inline SVG: a frame to place things in by shares of its width and height.

Colours and fonts are the page's own (CSS classes and ``currentColor``), so they follow its light and dark schemes. The
drawing is as wide as a phone; wider screens scale it up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from markupsafe import Markup

Point = tuple[float, float]  # across and up, shares of the drawing area in [0, 1]


class Axes:
    """A chart while it is drawn: x runs from 0 at the left to 1 at the right, y from 0 at the bottom to 1 at the top.

    Args:
        label: what a screen reader says instead of the drawing.
        width: of the drawing with its margins, pixels before scaling.
        height: likewise.
        left: margin, where the names of levels stand.
        right: margin.
        css_class: of the drawing.
    """

    TOP, BOTTOM = 28, 38  # margins

    def __init__(
        self,
        label: str,
        *,
        width: int = 360,
        height: int = 240,
        left: int = 34,
        right: int = 10,
        css_class: str = "chart",
    ) -> None:
        self.width, self.height, self.left, self.right = width, height, left, right
        opening = '<svg class="{}" style="--width: {}px" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        self._parts = [Markup(opening).format(css_class, width, width, height, label)]

    def x(self, share: float) -> float:
        """Return where a share of the width lies."""
        return self.left + (self.width - self.left - self.right) * share

    def y(self, share: float) -> float:
        """Return where a share of the height lies."""
        return self.height - self.BOTTOM - (self.height - self.TOP - self.BOTTOM) * share

    def add(self, markup: str, *values: object) -> None:
        """Draw SVG; the values that it names by ``{}`` are escaped."""
        self._parts.append(Markup(markup).format(*values))

    def level(self, share: float, text: str) -> None:
        """Draw a horizontal rule with its name at the left."""
        y = self.y(share)
        self.add(
            '<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
            '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>',
            *(self.left, self.width - self.right, y, y, self.left - 6, y + 4, text),
        )

    def percents(self) -> None:
        """Draw five levels from 0 to 100 per cent."""
        for share in (0, 0.25, 0.5, 0.75, 1):
            self.level(share, f"{100 * share:.0f}")

    def tick(self, share: float, text: str) -> None:
        """Write a name below the horizontal axis."""
        y = self.height - self.BOTTOM + 16
        self.add('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>', self.x(share), y, text)

    def names(self, x_name: str, y_name: str) -> None:
        """Write what the two axes are."""
        middle = (self.left + self.width - self.right) / 2
        self.add('<text x="{}" y="{}" text-anchor="middle">{}</text>', middle, self.height - 6, x_name)
        self.add('<text x="4" y="12">{}</text>', y_name)

    def line(self, css_class: str, points: Iterable[Point], signs: str = "") -> None:
        """Draw a line through points in the colour of a CSS class, and the signs that stand on it."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.add('<g class="{}"><polyline points="{}"/>{}</g>', css_class, path, signs)

    def bar(self, n: int, count: int, height: float, tooltip: str) -> None:
        """Draw the n-th of ``count`` bars of equal width."""
        slot, top = (self.width - self.left - self.right) / count, self.y(height)
        self.add(
            '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>',
            *(self.left + n * slot + 0.5, top, max(slot - 1, 1), self.y(0) - top, tooltip),
        )

    def column(self, start: float, end: float, tooltip: str) -> None:
        """Give a tooltip to everything between two places of the horizontal axis."""
        height = self.height - self.TOP - self.BOTTOM
        self.add(
            '<rect class="hit" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>',
            *(self.x(start), self.TOP, self.x(end) - self.x(start), height, tooltip),
        )

    def marks(self, n: int, points: Iterable[Point]) -> Markup:
        """Return the n-th line's sign at each of some points."""
        return Markup("").join(marker(n, self.x(x), self.y(y)) for x, y in points)

    def drawn(self) -> Markup:
        """Return the whole drawing."""
        return Markup("").join([*self._parts, Markup("</svg>")])


def marker(n: int, x: float, y: float) -> Markup:
    """Draw the sign of the n-th line, for readers who cannot tell by colour."""
    shapes = (
        '<circle class="mark" cx="{0:.1f}" cy="{1:.1f}" r="3"/>',
        '<path class="mark" d="M{0:.1f} {1:.1f}m-3 -3h6v6h-6z"/>',
        '<path class="mark" d="M{0:.1f} {1:.1f}m0 -4l4 7h-8z"/>',
        '<path class="mark" d="M{0:.1f} {1:.1f}m0 -4l4 4l-4 4l-4 -4z"/>',
    )
    return Markup(shapes[n % len(shapes)]).format(x, y)


def legend(lines: Iterable[tuple[str, str]]) -> list[tuple[str, str, Markup]]:
    """Return (label, CSS class, its line and sign) of each line (label, CSS class); the sign is hidden from screen readers."""
    sign = Markup('<svg class="sign" viewBox="0 0 24 10" aria-hidden="true"><path d="M0 5h24"/>{}</svg>')
    return [(label, css_class, sign.format(marker(n, 12, 5))) for n, (label, css_class) in enumerate(lines)]


def round_numbers(low: float, high: float) -> list[float]:
    """Return two to six evenly spaced round numbers (1, 2 or 5 times a power of ten apart) that span ``low`` to ``high``.

    0 is always spanned.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    high = high if high > low else low + 1
    exponent = math.floor(math.log10(high - low)) - 1
    step = next(step for step in round_steps(exponent) if math.ceil(high / step) - math.floor(low / step) <= 5)
    return [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]


def round_steps(exponent: int) -> Iterator[float]:
    """Yield the round numbers from ten to the power of ``exponent`` on: 1, 2 and 5 times each power of ten."""
    while True:
        yield from (10.0**exponent, 2 * 10.0**exponent, 5 * 10.0**exponent)
        exponent += 1


def levels_around(values: Sequence[float]) -> list[float]:
    """Return round levels that span values which may lie close together, far from 0."""
    if not values or max(values) == min(values):
        middle = values[0] if values else 50.0
        return [middle - 1, middle, middle + 1]
    step = round_numbers(0, max(values) - min(values))[1]
    first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
    return [round(n * step, 6) for n in range(first, last + 1)]
