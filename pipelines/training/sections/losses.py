"""The loss curves of trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.page.axes import legend
from pipelines.page.charts import Line, loss_chart
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun
from pipelines.store.numbers import percent
from pipelines.training.loss_drop import dropped_shares
from pipelines.training.trained import Trained

if TYPE_CHECKING:
    from pipelines.training.task import Progress

_MOST_POINTS = 120  # of a loss curve, a third of the drawing's width
_LINE_COLOURS = 8  # CSS classes line-0, line-1, …


def view(run: ShownRun) -> View | None:
    """Return the loss curves of every training that has written scalars."""
    scalars = {name: trained.scalars() for name, trained in run.of_kind(Trained).items()}
    curves = [_curves(name, rows) for name, rows in scalars.items() if rows]
    return {"trainings": curves} if curves else None


def _curves(name: str, rows: Sequence[Progress]) -> dict[str, Any]:
    points, averaged = averages(rows)
    parts = list(points[0][1])
    labels = {part: part for part in parts}
    if len(parts) == 2:  # the total and its only part
        del labels[parts[1]]
        labels["total"] = f"total = {parts[1]}"
    lines = [
        Line(label=label, css_class=f"line-{n % _LINE_COLOURS}", losses=[losses[part] for _, losses in points])
        for n, (part, label) in enumerate(labels.items())
    ]
    smoothed = f", each point a mean over {averaged:,} steps" if averaged > 1 else ""
    last = ", ".join(f"{label} {points[-1][1][part]:.3g}" for part, label in labels.items())
    what = f"{name}: loss by step{smoothed}. Last: {last}{_dropped(rows)}"
    return {
        "what": what,
        "chart": loss_chart([step for step, _ in points], lines, label=what),
        "legend": legend((line.label, line.css_class) for line in lines),
    }


def _dropped(rows: Sequence[Progress]) -> str:
    """Say what a loss drop dropped over the whole training; nothing where none is counted."""
    shares = dropped_shares(rows)
    return "".join(f". Dropped: {percent(share)} % of the {what}" for what, share in shares.items())


def averages(rows: Sequence[Progress], most: int = _MOST_POINTS) -> tuple[list[tuple[int, dict[str, float]]], int]:
    """Average neighbouring rows of the scalars, which are means over steps themselves, into at most ``most`` points.

    Args:
        rows: in step order, one or more.
        most: 1 or more.

    Returns:
        (last step, "total" and the parts of the loss, means over the steps since the point before) of each point, and the
        largest number of steps that a point stands for; the last point may stand for fewer.
    """
    steps = np.diff([0, *(row.step for row in rows)])
    group = math.ceil(len(rows) / most)
    points, widest = [], 0
    for first in range(0, len(rows), group):
        some, weights = rows[first : first + group], steps[first : first + group]
        table = [{"total": row.loss, **row.losses} for row in some]
        means = {name: float(np.average([row[name] for row in table], weights=weights)) for name in table[0]}
        points.append((some[-1].step, means))
        widest = max(widest, int(weights.sum()))
    return points, widest


SECTION: Section[ShownRun] = Section(id="training", title="Training", view=view, template=beside(__name__))
