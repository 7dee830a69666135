"""Objectives of proposals: recall, each box counting for one object at most, and boxes an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pipelines.evaluate.proposals import full_row
from pipelines.recipe.model import Recipe
from pipelines.variants.objectives.base import Objective, Part, Reading, Splits, Unit, Values

PROPOSALS = "evaluate.proposals"

_Row = Mapping[str, Any]  # of the sources that were measured together


def _of_all(figure: Callable[[_Row], float | None], reading: Reading) -> Values:
    rows = {split: full_row(measured) for split, measured in reading.metrics()["splits"].items()}
    return {split: None if row is None else figure(row) for split, row in rows.items()}


def _of_learnt(figure: Callable[[_Row], float | None], reading: Reading) -> Values:
    """Read the row of the sources that the detector learns from, of those that the recipe has; None without such a row."""
    recipe = reading.run.recipe
    wanted = [source for source in recipe.mil.proposal_sources if source in recipe.prompts.sources]
    if not recipe.mil.proposal_sources:
        return _of_all(figure, reading)
    values = {}
    for split, measured in reading.metrics()["splits"].items():
        row = next((row for row in measured["rows"] if row["sources"] == wanted), None)
        values[split] = None if row is None else figure(row)
    return values


def _recall(threshold: str, row: _Row) -> float | None:
    value: float | None = row["one_to_one"].get(threshold)
    return value


def _boxes(row: _Row) -> float:
    return float(row["boxes"])


def _points(row: _Row) -> float:
    return float(row["points"])


def _limits(recipe: Recipe, instance: str, _part: Part) -> Splits:
    return {"propose.splits": recipe.of(recipe.of(instance).evaluate.of).propose.splits}


def _proposed(
    what: str, read: Callable[[Reading], Values], *, unit: Unit = "%", more_is_better: bool = True
) -> Objective:
    return Objective(
        what=what,
        instance=PROPOSALS,
        read=read,
        unit=unit,
        more_is_better=more_is_better,
        limits=_limits,
    )


def _recalls(threshold: str) -> tuple[Objective, Objective]:
    """Return the recall of all proposals and that of those which the detector learns from."""
    what, figure = f"proposal recall at IoU {threshold}", partial(_recall, threshold)
    return (
        _proposed(what, partial(_of_all, figure)),
        _proposed(
            f"{what} of the sources that the weakly-supervised detector learns from", partial(_of_learnt, figure)
        ),
    )


RECALL_50, LEARNT_RECALL_50 = _recalls("0.5")
RECALL_75, LEARNT_RECALL_75 = _recalls("0.75")
RECALL_90, LEARNT_RECALL_90 = _recalls("0.9")
POINTS = _proposed("points of the prompts, an image", partial(_of_all, _points), unit="points", more_is_better=False)
BOXES = _proposed("proposals an image", partial(_of_all, _boxes), unit="boxes", more_is_better=False)
LEARNT_BOXES = _proposed(
    "boxes an image of the sources that the weakly-supervised detector learns from",
    partial(_of_learnt, _boxes),
    unit="boxes",
    more_is_better=False,
)
