"""All trials as a table, the best first."""

from __future__ import annotations

from pipelines.page.section import Section, View, beside
from pipelines.store.numbers import percent
from tune.results import finished_trials, records_of, reported
from tune.search import Outcome
from tune.spaces import headings, short


def view(outcome: Outcome) -> View:
    """Return a row per trial: settings, objectives where it is selected and, if they are known, where it is reported."""
    sweep, finished, shown = outcome.sweep, finished_trials(outcome), reported(outcome)
    ranked = sorted(outcome.trials, key=lambda row: (row[1] not in finished, -outcome.value(row[1])))
    return {
        "knobs": list(headings(sweep.space).values()),
        "objectives": [(name, name in shown) for name in sweep.objectives],
        "stops": any(record.early for record in records_of(outcome)),
        "trials": [
            {
                "key": record.key,
                "state": record.state,
                "values": [short(settings.get(knob)) for knob in sweep.space],
                "figures": [
                    (percent(record.select.get(name)), percent(record.report.get(name)) if name in shown else None)
                    for name in sweep.objectives
                ],
                "early": ", ".join(f"{share} %: {percent(value)}" for share, value in record.early.items()),
                "seconds": f"{record.seconds:.0f}",
                "best": record.key == outcome.best.key,
            }
            for settings, record in ranked
        ],
    }


SECTION: Section[Outcome] = Section(id="trials", title="Table", view=view, template=beside(__name__))
