"""Every finished trial as a line through its values, and the best so far."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from pipelines.page.section import Section, View, beside
from pipelines.store.numbers import percent
from tune.charts import KnobAxis, TrialLine, best_so_far, parallel_coordinates
from tune.results import records_of
from tune.search import Outcome
from tune.spaces import Knob, headings, short, told

_TICKS = 5  # of a knob with a range


def view(outcome: Outcome) -> View:
    """Draw both."""
    objective = outcome.sweep.objective
    progress = best_so_far(
        [
            outcome.value(record) if record.state == "finished" else None
            for record in sorted(records_of(outcome), key=lambda record: record.ended)
        ],
        label=f"{objective} of the trials in the order in which they ended, and the best until then",
        name=objective,
    )
    return {"lines": _parallel(outcome), "progress": progress}


def _parallel(outcome: Outcome) -> Markup:
    """Draw the finished trials over all knobs and the objective, the better the stronger."""
    sweep = outcome.sweep
    rows = [(settings, record) for settings, record in outcome.trials if record.state == "finished"]
    rows.sort(key=lambda row: outcome.value(row[1]))
    values = [outcome.value(record) for _, record in rows]
    low, high = min(values), max(values)
    heads = headings(sweep.space)
    axes = [KnobAxis(name=heads[name], ticks=_ticks(knob)) for name, knob in sweep.space.items()]
    axes.append(KnobAxis(name=sweep.objective, ticks=[percent(low + (high - low) * n / 4) for n in range(5)]))
    lines = []
    for (settings, record), value in zip(rows, values, strict=True):
        goodness = (value - low) / (high - low) if high > low else 1.0
        places = [_place(knob, settings[name]) for name, knob in sweep.space.items()]
        lines.append(
            TrialLine(
                places=[*places, goodness],
                goodness=goodness,
                best=record.key == outcome.best.key,
                told=f"{percent(value)}: {told(settings)}",
            )
        )
    lines.sort(key=lambda line: line.best)  # on top
    label = f"{len(rows)} trials over {', '.join(sweep.space)}; the best has {told(outcome.best.settings)}"
    return parallel_coordinates(axes, lines, label=label)


def _ticks(knob: Knob) -> list[str]:
    if knob.listed:
        return [short(value) for value in knob.listed]
    low, high = knob.uniform or knob.log_uniform or (0.0, 1.0)
    shares = [n / (_TICKS - 1) for n in range(_TICKS)]
    if knob.log_uniform:
        return [f"{low * (high / low) ** share:.3g}" for share in shares]
    return [f"{low + (high - low) * share:.3g}" for share in shares]


def _place(knob: Knob, value: Any) -> float:
    """Return where a value lies on its axis, in [0, 1]."""
    if knob.listed:
        count = len(knob.listed)
        return knob.listed.index(value) / (count - 1) if count > 1 else 0.5
    low, high = knob.uniform or knob.log_uniform or (0.0, 1.0)
    if knob.log_uniform:
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


SECTION: Section[Outcome] = Section(id="lines", title="All trials", view=view, template=beside(__name__))
