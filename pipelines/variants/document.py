"""A table of ``weaksam table`` as a JSON document, as Markdown and on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipelines.engine.text_table import Kind, TextTable
from pipelines.recipe.model import Recipe
from pipelines.store.numbers import percent
from pipelines.variants.plans import PLANS, Row, Splits


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a cell."""

    figures: Splits = field(default_factory=dict)  # by split
    instances: Mapping[str, str] = field(default_factory=dict)  # name -> key
    notes: Sequence[str] = ()
    error: str = ""  # empty: it is measured


Outcomes = dict[tuple[int, int], Outcome]  # (number of the row, seed)


def to_document(
    number: int, recipe: Recipe, run_uri: str, rows: Sequence[Row], seeds: Sequence[int], outcomes: Outcomes
) -> dict[str, Any]:
    """Return a table as JSON holds it.

    Measured shares are in [0, 1], published ones in per cent as printed. ``state`` of a row is "measured", "failed" (for
    every seed), "not yet", or "not measured"; ``values`` hold mean and spread (largest minus smallest) over the seeds that were
    measured, null where one of them has no such figure.
    """
    plan = PLANS[number]
    entries: list[dict[str, Any]] = []
    for n, row in enumerate(rows):
        done = {seed: outcomes[n, seed] for seed in seeds if (n, seed) in outcomes}
        measured = {seed: outcome for seed, outcome in done.items() if not outcome.error}
        state = "measured" if measured else "failed" if done else "not yet" if row.variant else "not measured"
        splits = dict.fromkeys(split for outcome in measured.values() for split in outcome.figures)
        for split in splits or ("",):
            of_split = {seed: outcome.figures.get(split, {}) for seed, outcome in measured.items()}
            entries.append(
                {
                    "data": row.data,
                    "detector": row.detector,
                    "proposals": row.proposals,
                    "split": split,
                    "state": state,
                    "published": dict(row.published),
                    "values": {name: mean_and_spread(name, of_split) for name in plan.columns if of_split},
                    "instances": {str(seed): dict(outcome.instances) for seed, outcome in measured.items()},
                }
            )
    cells = [(rows[n].name, seed, outcome) for (n, seed), outcome in outcomes.items()]
    return {
        "table": number,
        "title": plan.title,
        "recipe": recipe.name,
        "data": recipe.data.uri,
        "run": run_uri,
        "seeds": list(seeds),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "columns": dict(plan.columns),
        "rows": entries,
        "notes": [*plan.notes, *(f"{name}, seed {seed}: {note}" for name, seed, o in cells for note in o.notes)],
        "errors": [{"cell": name, "seed": seed, "error": o.error} for name, seed, o in cells if o.error],
    }


def mean_and_spread(name: str, of_seeds: Mapping[int, Mapping[str, float | None]]) -> dict[str, Any]:
    """Return ``mean`` and ``spread`` of one figure over seeds, and the figure ``by_seed``."""
    by_seed = {str(seed): figures.get(name) for seed, figures in of_seeds.items()}
    values = [value for value in by_seed.values() if value is not None]
    if not values or len(values) < len(by_seed):
        return {"mean": None, "spread": None, "by_seed": by_seed}
    return {"mean": sum(values) / len(values), "spread": max(values) - min(values), "by_seed": by_seed}


def to_lines(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of a table as people read it."""
    columns: Mapping[str, str] = document["columns"]
    lines = []
    for row in document["rows"]:
        figures = [_figure(row["values"][name], kind) for name, kind in columns.items() if name in row["values"]]
        if row["state"] != "measured":
            figures = [row["state"], *[""] * (len(columns) - 1)]
        published = ", ".join(f"{name} {value:,g}" for name, value in row["published"].items())
        lines.append([row["data"], row["detector"], row["proposals"], row["split"], *figures, published or "–"])
    return ["data", "detector", "proposals", "split", *columns, "published"], lines


def _figure(value: Mapping[str, Any], kind: str) -> str:
    """Return a figure, with ± its spread where there are several seeds."""
    show = percent if kind == "percent" else _count
    if value["mean"] is None:
        return "not measured" if kind == "memory" else "–"
    return show(value["mean"]) + (f" ±{show(value['spread'])}" if len(value["by_seed"]) > 1 else "")


def _count(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def remarks(document: Mapping[str, Any]) -> list[str]:
    """Return what stands below a table: seeds, notes, and the cells that failed."""
    seeds = ", ".join(map(str, document["seeds"]))
    several = f"Seeds {seeds}: mean ± largest minus smallest." if len(document["seeds"]) > 1 else f"Seed {seeds}."
    failed = [f"failed: {e['cell']}, seed {e['seed']}: {e['error']}" for e in document["errors"]]
    return [several, *document["notes"], *failed]


def to_text(document: Mapping[str, Any]) -> TextTable:
    """Lay out for the console what this run can measure of a table; the file has the other rows and columns, too.

    Left to the file are rows of other data, and columns that are empty or, of a row's name, the same throughout.
    """
    header, every = to_lines(document)
    states = [row["state"] for row in document["rows"]]
    lines = [line for line, state in zip(every, states, strict=True) if state != "not measured"] or every
    named = header.index("split") + 1  # columns before it name a row
    columns = []
    for n, name in enumerate(header):
        cells = {line[n] for line in lines}
        if name in ("detector", "proposals") or (len(cells) > 1 if n < named else cells - {"", "–"}):
            columns.append(n)
    text = TextTable(f"{document['title']} ({document['recipe']})")
    for n in columns:
        text.add_columns(Kind.FIGURE if named <= n < len(header) - 1 else Kind.NAME, header[n])
    for line in lines:
        text.add_row(*(line[n] for n in columns))
    return text


def to_markdown(document: Mapping[str, Any]) -> str:
    """Return a table as Markdown with its remarks below."""
    header, lines = to_lines(document)
    table = [header, ["---"] * len(header), *lines]
    return "\n".join(
        [
            f"# {document['title']}",
            "",
            f"Recipe {document['recipe']} on {document['data']}, {document['made']}.",
            "",
            *("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table),
            "",
            *(f"* {line}" for line in remarks(document)),
            "",
        ]
    )
