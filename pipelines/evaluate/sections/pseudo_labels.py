"""The quality of pseudo ground truth against the true objects."""

from __future__ import annotations

from pipelines.evaluate.sections.measured import evaluations
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, heading


def view(run: ShownRun) -> View | None:
    """Return every split of every evaluation of pseudo labels."""
    shown = [
        {"heading": heading(name, split), "supervision": content["supervision"], **measured}
        for name, content in evaluations(run, "pseudo_labels").items()
        for split, measured in content["pseudo_labels"].items()
    ]
    return {"evaluations": shown} if shown else None


SECTION: Section[ShownRun] = Section(
    id="pseudo-labels", title="Pseudo ground truth", link="Pseudo labels", view=view, template=beside(__name__)
)
