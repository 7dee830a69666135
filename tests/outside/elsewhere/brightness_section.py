"""A section of the report: what ``brightness`` found."""

from __future__ import annotations

from elsewhere.brightness import BrightnessTable
from pipelines.page.section import Section, View
from pipelines.page.shown_run import ShownRun


def view(run: ShownRun) -> View | None:
    """The mean brightness of each instance."""
    means = {name: table.mean() for name, table in run.of_kind(BrightnessTable).items()}
    return {"means": means} if means else None


SECTION: Section[ShownRun] = Section(
    id="brightness",
    title="Brightness",
    view=view,
    template="{% for name, mean in means.items() %}<p>{{ name }}: {{ '%.1f' | format(mean) }}</p>{% endfor %}",
    before="stages",
)
