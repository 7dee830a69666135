"""Trials that failed, with their errors."""

from __future__ import annotations

from pipelines.page.section import Section, View, beside
from tune.results import records_of
from tune.search import Outcome


def view(outcome: Outcome) -> View | None:
    """Return the failed trials; None where none failed."""
    failed = [record for record in records_of(outcome) if record.state == "failed"]
    return {"failed": failed} if failed else None


SECTION: Section[Outcome] = Section(id="failed", title="Failed", view=view, template=beside(__name__))
