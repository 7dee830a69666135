"""A sweep as one page: the best, heat maps over pairs of knobs, every trial as a line, best so far, how objectives rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from pipelines.report.stage import page_templates
from pipelines.store.numbers import percent
from pipelines.store.tables import write_bytes
from tune import charts
from tune.objectives import OBJECTIVES, Part
from tune.results import (
    correlation,
    finished_trials,
    given_knobs,
    how_many,
    ranking,
    reported,
    seeds_compared,
    spread,
    where,
)
from tune.search import Outcome, sweep_folder
from tune.spaces import Knob, headings, short, told
from tune.sweep import BEST, Trials
from tune.trial import Record
from weaksam.io.files import join

PAGE_FILE = "report.html"
_TICKS = 5  # of a knob with a range
_PARTS: tuple[Part, Part] = ("select", "report")


def write_report(outcome: Outcome, trials: Trials) -> str:
    """Write the page; return where."""
    uri = join(sweep_folder(trials), PAGE_FILE)
    write_bytes(uri, render_page(outcome).encode())
    return uri


def render_page(outcome: Outcome) -> str:
    """Return the page; every string that is not markup already is escaped."""
    return page_templates("tune").get_template("sweep.html.j2").render(_view(outcome))


def _view(outcome: Outcome) -> dict[str, Any]:
    sweep = outcome.sweep
    finished = finished_trials(outcome)
    records = list({record.key: record for _, record in outcome.trials}.values())
    seconds = sum(record.seconds for record in records)
    shown = reported(outcome)
    return {
        "title": f"Sweep {sweep.name}",
        "description": sweep.description,
        "objective": sweep.objective,
        "objectives": {name: OBJECTIVES[name] for name in sweep.objectives},
        "reported": shown,
        "stops": any(record.early for record in records),
        "selected_on": where(outcome, sweep.objective)[0],
        "reported_on": where(outcome, sweep.objective)[1],
        "tiles": [
            (
                f"best {sweep.objective}",
                percent(outcome.best.select[sweep.objective]),
                f"on {where(outcome, sweep.objective)[0]}",
            ),
            *(
                (f"its {name}", percent(value), f"on {where(outcome, name)[1]}")
                for name, value in outcome.best.report.items()
                if value is not None and not OBJECTIVES[name].label_free
            ),
            ("trials finished", f"{len(finished)}", "of " + how_many(outcome)),
            ("time in trials", f"{seconds / 60:.1f} min", f"{sweep.resources.concurrency} at a time"),
        ],
        "best": [(knob, short(value)) for knob, value in outcome.best.settings.items()],
        "heat_maps": _heat_maps(outcome),
        "lines": _parallel(outcome),
        "progress": charts.best_so_far(
            [outcome.value(r) if r.state == "finished" else None for r in sorted(records, key=lambda r: r.ended)],
            label=f"{sweep.objective} of the trials in the order in which they ended, and the best until then",
            name=sweep.objective,
        ),
        "compared": {
            "knobs": list(headings(given_knobs(outcome)).values()),
            "rows": [
                {
                    "name": "the best trial" if name == BEST else name,
                    "values": [short(record.settings.get(knob)) for knob in given_knobs(outcome)],
                    "figures": [spread(record, figure) for figure in shown],
                    "error": record.error,
                }
                for name, record in outcome.compared.items()
            ],
            "seeds": seeds_compared(outcome),
        },
        "ranking": [
            {
                **row,
                "rho": correlation(row["rho"]),
                "by_seed": ", ".join(correlation(rho) for rho in row["by_seed"].values()),
            }
            for row in (ranking(outcome) if len(finished) > 2 else [])
        ],
        "knobs": list(headings(sweep.space).values()),
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
            for settings, record in sorted(
                outcome.trials, key=lambda row: (row[1] not in finished, -outcome.value(row[1]))
            )
        ],
        "failed": [
            {"key": record.key, "settings": record.settings, "error": record.error}
            for record in records
            if record.state == "failed"
        ],
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _heat_maps(outcome: Outcome) -> list[dict[str, Any]]:
    """Lay out every objective over every pair of knobs with listed values."""
    space = outcome.sweep.space
    listed = [name for name, knob in space.items() if knob.listed]
    maps = []
    for down, across in combinations(listed, 2):
        cells = [[_selected(outcome, down, a, across, b) for b in space[across].listed] for a in space[down].listed]
        for objective in outcome.sweep.objectives:
            for part, images in zip(_PARTS, where(outcome, objective), strict=True):
                figures = [[_figure(record, part, objective) for record in row] for row in cells]
                if any(value is not None for row in figures for value in row):
                    caption = f"{objective}, {part}ed on {images}, %"
                    maps.append({"caption": caption, **_heat_map(outcome, down, across, cells, figures)})
    return maps


def _heat_map(
    outcome: Outcome,
    down: str,
    across: str,
    cells: Sequence[Sequence[Record | None]],
    figures: Sequence[Sequence[float | None]],
) -> dict[str, Any]:
    space, heads = outcome.sweep.space, headings(outcome.sweep.space)
    known = [value for row in figures for value in row if value is not None]
    low, high = min(known), max(known)
    return {
        "down": heads[down],
        "across": heads[across],
        "columns": [short(value) for value in space[across].listed],
        "rows": [
            {
                "name": short(name),
                "cells": [
                    {
                        "text": percent(value),
                        "heat": 0 if value is None or high == low else round(100 * (value - low) / (high - low)),
                        "best": record is not None and record.key == outcome.best.key,
                    }
                    for value, record in zip(of_figures, of_records, strict=True)
                ],
            }
            for name, of_figures, of_records in zip(space[down].listed, figures, cells, strict=True)
        ],
    }


def _selected(outcome: Outcome, down: str, a: Any, across: str, b: Any) -> Record | None:
    """Return, of the finished trials with these two values, the best on the part that trials are selected on."""
    inside = [r for s, r in outcome.trials if r.state == "finished" and s.get(down) == a and s.get(across) == b]
    return max(inside, key=outcome.value, default=None)


def _figure(record: Record | None, part: Part, objective: str) -> float | None:
    return None if record is None else {"select": record.select, "report": record.report}[part].get(objective)


def _parallel(outcome: Outcome) -> Any:
    """Draw the finished trials over all knobs and the objective, the better the stronger."""
    sweep = outcome.sweep
    rows = [(settings, record) for settings, record in outcome.trials if record.state == "finished"]
    rows.sort(key=lambda row: outcome.value(row[1]))
    values = [outcome.value(record) for _, record in rows]
    low, high = min(values), max(values)
    heads = headings(sweep.space)
    axes = [charts.Axis(name=heads[name], ticks=_ticks(knob)) for name, knob in sweep.space.items()]
    axes.append(charts.Axis(name=sweep.objective, ticks=[percent(low + (high - low) * n / 4) for n in range(5)]))
    lines = []
    for (settings, record), value in zip(rows, values, strict=True):
        goodness = (value - low) / (high - low) if high > low else 1.0
        places = [_place(knob, settings[name]) for name, knob in sweep.space.items()]
        lines.append(
            charts.Line(
                places=[*places, goodness],
                goodness=goodness,
                best=record.key == outcome.best.key,
                told=f"{percent(value)}: {told(settings)}",
            )
        )
    lines.sort(key=lambda line: line.best)  # on top
    label = f"{len(rows)} trials over {', '.join(sweep.space)}; the best has {told(outcome.best.settings)}"
    return charts.parallel_coordinates(axes, lines, label=label)


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
