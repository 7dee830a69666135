"""How precise the masks of detections are, beside masks that their boxes alone give, and class by class."""

from __future__ import annotations

from pipelines.evaluate.sections.measured import evaluations
from pipelines.page.section import Section, Tile, View, beside
from pipelines.page.shown_run import ShownRun, heading
from pipelines.store.numbers import percent
from weaksam.structures import IMAGE_LABELS


def view(run: ShownRun) -> View | None:
    """Return every split of every evaluation of detections with masks."""
    shown = [
        {
            "heading": heading(name, split),
            "supervision": content.get("supervision", IMAGE_LABELS),
            **measured["masks"],
        }
        for name, content in evaluations(run, "detections").items()
        for split, measured in content["detections"].items()
        if "masks" in measured
    ]
    columns = {"ap": "AP", "ap25": "AP25", "ap50": "AP50", "ap70": "AP70", "ap75": "AP75"}
    return {"evaluations": shown, "columns": columns} if shown else None


def tiles(view: View) -> list[Tile]:
    """Return the AP50 of masks of each split, with that of the filled boxes."""
    found = []
    for one in view["evaluations"]:
        own, filled = one["rows"][:2]
        remark = f"filled boxes {percent(filled['ap50'])} %"
        found.append(Tile(f"Masks' AP50, {one['heading']}", f"{percent(own['ap50'])} %", remark))
    return found


SECTION: Section[ShownRun] = Section(
    id="detected-masks",
    title="Masks of detections",
    link="Detected masks",
    view=view,
    template=beside(__name__),
    tiles=tiles,
)
