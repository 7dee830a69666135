"""The best trial: its settings, and its reported figures beside other settings'."""

from __future__ import annotations

from pipelines.page.section import Section, Tile, View, beside
from pipelines.store.numbers import percent
from pipelines.variants.objectives import OBJECTIVES
from tune.results import finished_trials, given_knobs, how_many, records_of, reported, seeds_compared, spread, where
from tune.search import Outcome
from tune.spaces import headings, short
from tune.sweep import BEST


def view(outcome: Outcome) -> View:
    """Return the best trial's settings and what it was compared with."""
    sweep, knobs = outcome.sweep, given_knobs(outcome)
    selected_on, reported_on = where(outcome, sweep.objective)
    return {
        "what": OBJECTIVES[sweep.objective].what,
        "selected_on": selected_on,
        "reported_on": reported_on,
        "settings": [(knob, short(value)) for knob, value in outcome.best.settings.items()],
        "figures": reported(outcome),
        "knobs": list(headings(knobs).values()),
        "seeds": seeds_compared(outcome),
        "compared": [
            {
                "name": "the best trial" if name == BEST else name,
                "values": [short(record.settings.get(knob)) for knob in knobs],
                "figures": [spread(record, figure) for figure in reported(outcome)],
                "error": record.error,
            }
            for name, record in outcome.compared.items()
        ],
        "tiles": _tiles(outcome),
    }


def _tiles(outcome: Outcome) -> list[Tile]:
    """Return what the best trial reaches, and what the sweep took."""
    sweep, best = outcome.sweep, outcome.best
    seconds = sum(record.seconds for record in records_of(outcome))
    return [
        Tile(
            f"best {sweep.objective}", percent(best.select[sweep.objective]), f"on {where(outcome, sweep.objective)[0]}"
        ),
        *(
            Tile(f"its {name}", percent(value), f"on {where(outcome, name)[1]}")
            for name, value in best.report.items()
            if value is not None and not OBJECTIVES[name].label_free
        ),
        Tile("trials finished", f"{len(finished_trials(outcome))}", "of " + how_many(outcome)),
        Tile("time in trials", f"{seconds / 60:.1f} min", sweep.resources.at_a_time),
    ]


SECTION: Section[Outcome] = Section(
    id="best", title="Best", view=view, template=beside(__name__), tiles=lambda view: view["tiles"]
)
