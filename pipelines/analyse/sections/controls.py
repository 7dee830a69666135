"""Whether clues say where: each kind of activation map beside random points and a denser grid (Table 4)."""

from __future__ import annotations

from pipelines.analyse import prompts
from pipelines.analyse.sections.analysed import analyses
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, heading


def view(run: ShownRun) -> View | None:
    """Return the table of every analysis of prompts."""
    shown = [
        {
            **content,
            "heading": heading(name, content["split"]),
            "thresholds": list(content["rows"][0]["recall"]) if content["rows"] else [],
            "table": prompts.table_rows(content),
            "verdict": prompts.verdict(content),
        }
        for name, content in analyses(run, "prompts").items()
    ]
    return {"analyses": shown} if shown else None


SECTION: Section[ShownRun] = Section(
    id="controls", title="Do the clues say where?", link="Controls", view=view, template=beside(__name__)
)
