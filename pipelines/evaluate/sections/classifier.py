"""The average precision of the classifier's scores of images, class by class."""

from __future__ import annotations

from pipelines.evaluate.sections.measured import evaluations
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, short_name


def view(run: ShownRun) -> View | None:
    """Return every split of every evaluation of a classifier."""
    shown = [
        {"name": short_name(name), "class_names": content["class_names"], "splits": content["classifier"]}
        for name, content in evaluations(run, "classifier").items()
        if content["classifier"]
    ]
    return {"evaluations": shown} if shown else None


SECTION: Section[ShownRun] = Section(
    id="classifier", title="Classifier", link="Classifier", view=view, template=beside(__name__)
)
