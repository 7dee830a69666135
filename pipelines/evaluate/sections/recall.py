"""The recall of proposals, source by source as it is added to those before it, as tables and as curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluate.proposals import full_row, row_label
from pipelines.evaluate.sections.measured import evaluations
from pipelines.page.axes import legend
from pipelines.page.charts import Curve, recall_chart
from pipelines.page.section import Section, Tile, View, beside
from pipelines.page.shown_run import ShownRun, heading
from pipelines.store.numbers import percent
from weaksam.drawing import SOURCE_COLOURS
from weaksam.structures import WHOLE_IMAGE


def view(run: ShownRun) -> View | None:
    """Return every split of every evaluation of proposals."""
    shown = [
        _evaluation(heading(name, split), measured, content["iou_thresholds"])
        for name, content in evaluations(run, "splits").items()
        for split, measured in content["splits"].items()
    ]
    whole_image = any(row["name"] == WHOLE_IMAGE for one in shown for row in one["rows"])
    return {"evaluations": shown, "whole_image": whole_image} if shown else None


def _evaluation(title: str, measured: Mapping[str, Any], iou_thresholds: list[float]) -> dict[str, Any]:
    """Return one split's rows with their labels, and the curves of those whose recall is known."""
    rows = [{"label": row_label(row), **row} for row in measured["rows"]]
    curves = [
        Curve(
            label=row["label"],
            css_class=f"source-{row['name'] if row['name'] in SOURCE_COLOURS else 'other'}",
            recall={float(t): r for t, r in row["one_to_one"].items()},
        )
        for row in rows
        if None not in row["one_to_one"].values()
    ]
    chart = recall_chart(curves, label=f"Recall by IoU threshold, {title}; the table has the figures")
    return {
        "heading": title,
        "thresholds": [f"{t:g}" for t in iou_thresholds],
        **measured,
        "rows": rows,
        "chart": chart if curves else None,
        "legend": legend((curve.label, curve.css_class) for curve in curves),
    }


def tiles(view: View) -> list[Tile]:
    """Return the recall of all of the method's sources together, split by split."""
    found = []
    for one in view["evaluations"]:
        last = full_row(one)
        if last is not None and last["one_to_one"]["0.5"] is not None:
            others = " · ".join(f"{percent(last['one_to_one'][t])} at {t}" for t in ("0.75", "0.9"))
            name = f"recall at IoU .5, {one['heading']}"
            found.append(Tile(name, f"{percent(last['one_to_one']['0.5'])} %", others))
    return found


SECTION: Section[ShownRun] = Section(
    id="recall", title="Recall by source", link="Recall", view=view, template=beside(__name__), tiles=tiles
)
