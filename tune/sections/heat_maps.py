"""Heat maps of every objective over every pair of knobs with listed values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from pipelines.page.section import Section, View, beside
from pipelines.store.numbers import percent
from pipelines.variants.objectives.base import Part
from tune.results import where
from tune.search import Outcome
from tune.spaces import headings, short
from tune.trial import Record

_PARTS: tuple[Part, Part] = ("select", "report")


def view(outcome: Outcome) -> View | None:
    """Return the maps; None where fewer than two knobs have listed values."""
    maps = heat_maps(outcome)
    sweep = outcome.sweep
    told = {"shared": len(sweep.space) > 2, "objective": sweep.objective, "images": where(outcome, sweep.objective)[0]}
    return {"maps": maps, **told} if maps else None


def heat_maps(outcome: Outcome) -> list[dict[str, Any]]:
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


SECTION: Section[Outcome] = Section(id="maps", title="Heat maps", view=view, template=beside(__name__))
