"""How objectives without true boxes rank trials, beside figures with them."""

from __future__ import annotations

from pipelines.page.section import Section, View, beside
from tune.results import correlation, finished_trials, ranking
from tune.search import Outcome


def view(outcome: Outcome) -> View | None:
    """Return the correlations; None where there are fewer than three finished trials, or nothing to correlate."""
    rows = [
        {**row, "rho": correlation(row["rho"]), "by_seed": ", ".join(map(correlation, row["by_seed"].values()))}
        for row in (ranking(outcome) if len(finished_trials(outcome)) > 2 else [])
    ]
    return {"rows": rows} if rows else None


SECTION: Section[Outcome] = Section(
    id="ranking", title="How objectives rank trials", link="Objectives", view=view, template=beside(__name__)
)
