"""Whether losses tell which pseudo labels are wrong (Fig. 3, 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.analyse import noise
from pipelines.analyse.sections.analysed import analyses
from pipelines.page.charts import rates_chart
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, of_several

_IOU = str(noise.ERROR_IOU)


def view(run: ShownRun) -> View | None:
    """Return every analysis of noise."""
    found = analyses(run, "noise")
    shown = [{"name": of_several(found, name), **_analysis(content)} for name, content in found.items()]
    return {"analyses": shown, "iou": _IOU} if shown else None


def _analysis(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an analysis with a chart per loss."""
    plots = []
    for name, what in noise.LOSSES.items():
        found = content["losses"][name]
        counts, rates = [row["count"] for row in found["bins"]], [row["error_rate"][_IOU] for row in found["bins"]]
        label = f"Error rate by {what}; the table has the figures"
        chart = rates_chart(counts, rates, label=label, x_name=f"normalised {what}", rate_name="errors, %")
        plots.append({**found, "what": what, "chart": chart, "auroc": found["auroc"][_IOU]})
    return {**content, "plots": plots, "verdict": noise.verdict(content)}


SECTION: Section[ShownRun] = Section(
    id="noise",
    title="Do losses tell which pseudo labels are wrong?",
    link="Noise",
    view=view,
    template=beside(__name__),
)
