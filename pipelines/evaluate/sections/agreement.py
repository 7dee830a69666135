"""How far detections in other views of the images agree: what is known of a detector without a true box."""

from __future__ import annotations

from pipelines.evaluate.agreement import AGREEMENT, LABEL_AGREEMENT
from pipelines.evaluate.sections.measured import evaluations
from pipelines.page.section import Section, View, beside
from pipelines.page.shown_run import ShownRun, heading

_MEASURES = {
    "classification_map": "image scores, mAP",
    AGREEMENT: "agreement",
    "agreement_with_teacher": "with the teacher",
    "agreement_of_views": "of the views",
    LABEL_AGREEMENT: "of pseudo labels",
}


def view(run: ShownRun) -> View | None:
    """Return every split of every comparison of views; of the measures, those that some comparison has."""
    rows = [
        {"heading": heading(name, split), **measured}
        for name, content in evaluations(run, AGREEMENT).items()
        for split, measured in content[AGREEMENT].items()
    ]
    measures = {key: name for key, name in _MEASURES.items() if any(key in row for row in rows)}
    return {"rows": rows, "measures": measures} if rows else None


SECTION: Section[ShownRun] = Section(
    id="agreement", title="Do other views agree?", link="Agreement", view=view, template=beside(__name__)
)
