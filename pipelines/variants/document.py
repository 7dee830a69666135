"""A table of ``weaksam table`` as a JSON document, as Markdown and as a text for people."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipelines.engine.voice import Kind, TextTable
from pipelines.recipe.model import Recipe
from pipelines.store.numbers import percent
from pipelines.variants.measure import Measured, Results
from pipelines.variants.objectives import OBJECTIVES
from pipelines.variants.objectives.base import ALL_IMAGES
from pipelines.variants.table import HELD_OUT, TRAINING, PaperTable
from weaksam.metrics.seeds import mean_and_spread


def to_document(
    table: PaperTable,
    recipe: Recipe,
    run_uri: str,
    seeds: Sequence[int],
    left_out: Mapping[str, str],
    results: Results,
) -> dict[str, Any]:
    """Return a table as JSON holds it.

    Measured shares are in [0, 1], published ones in per cent as printed, by data set. ``state`` of a row is "measured",
    "failed" (for every seed), "not yet", or "not measured" with the reason; ``values`` hold mean and spread (largest minus
    smallest) over the seeds that were measured, null where one of them has no such figure.

    Args:
        table: of which rows are shown.
        recipe: that they change.
        run_uri: its run folder.
        seeds: that were asked for.
        left_out: row -> why it is not measured.
        results: of the others.
    """
    failed = results.failed()
    entries = []
    for name, row in table.rows.items():
        measured = results.measured(name)
        state = "measured" if measured else "failed" if any(name == of for of, _ in failed) else "not yet"
        for split in lines_of(table, measured.values()) if measured else [""]:
            values = {heading: _by_seed(table, heading, measured, split) for heading in table.columns if measured}
            entries.append(
                {
                    "row": name,
                    "split": split,
                    "state": "not measured" if name in left_out else state,
                    "why": left_out.get(name, ""),
                    "published": {data: dict(numbers) for data, numbers in row.published.items()},
                    "values": values,
                    "instances": {str(seed): dict(cell.instances) for seed, cell in measured.items()},
                }
            )
    measured_cells = {cell: found for cell, found in results.cells.items() if isinstance(found, Measured)}
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "recipe": recipe.name,
        "data": recipe.data.uri,
        "run": run_uri,
        "seeds": list(seeds),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "columns": {heading: OBJECTIVES[column.objective].unit for heading, column in table.columns.items()},
        "rows": entries,
        "differences": _differences(table, results),
        "notes": [
            *table.notes,
            *(f"{of}, seed {seed}: {n}" for (of, seed), c in measured_cells.items() for n in c.notes),
        ],
        "errors": [{"cell": name, "seed": seed, "error": error} for (name, seed), error in failed.items()],
    }


def lines_of(table: PaperTable, cells: Collection[Measured]) -> list[str]:
    """Return the splits that a row has a line for: all held-out ones that a column is measured on, or else the table's own."""
    tested = [heading for heading in table.columns if table.split_of(heading) == HELD_OUT]
    found = [split for cell in cells for heading in tested for split in _held_out(table, heading, cell)]
    own = [cell.training if table.split == TRAINING else table.split for cell in cells]
    return list(dict.fromkeys(found or own))


def images_of(table: PaperTable, heading: str, cell: Measured, line: str = "") -> str:
    """Return which images a column shows the figure of; ``line`` is the split of the line, "" the column's first."""
    column = table.columns[heading]
    objective, values, split = OBJECTIVES[column.objective], cell.values[column.objective], table.split_of(heading)
    if objective.parts and not column.split:
        return next((images for images in reversed(objective.parts) if images in values), ALL_IMAGES)
    if split == HELD_OUT:
        held_out = _held_out(table, heading, cell)
        split = next((split for split in held_out if line in ("", split)), ALL_IMAGES)
    images = cell.training if split == TRAINING else split
    return images if images in values else ALL_IMAGES


def value_of(table: PaperTable, heading: str, cell: Measured, line: str = "") -> float | None:
    """Return what a cell gives a column; see ``images_of``."""
    return cell.values[table.columns[heading].objective].get(images_of(table, heading, cell, line))


def _held_out(table: PaperTable, heading: str, cell: Measured) -> list[str]:
    """Return the splits that a column is measured on beside that whose labels are granted."""
    objective = table.columns[heading].objective
    images = () if OBJECTIVES[objective].parts else cell.values[objective]
    return [split for split in images if split not in (cell.training, ALL_IMAGES)]


def _by_seed(table: PaperTable, heading: str, measured: Mapping[int, Measured], split: str) -> dict[str, Any]:
    by_seed = {str(seed): value_of(table, heading, cell, split) for seed, cell in measured.items()}
    return {**mean_and_spread(by_seed.values())._asdict(), "by_seed": by_seed}


def _differences(table: PaperTable, results: Results) -> list[dict[str, Any]]:
    """Return the paired differences that the table asks for, of pairs that were measured, on the first split of the column."""
    if table.differences is None:
        return []
    heading, found = table.differences.column, []
    for worse, better in table.differences.pairs:
        interval = results.difference((worse, better), partial(value_of, table, heading))
        if interval is not None:
            half_width = interval.half_width if math.isfinite(interval.half_width) else None
            images = images_of(table, heading, next(iter(results.measured(worse).values())))
            known = {"mean": interval.mean, "half_width": half_width, "holds_zero": interval.holds_zero}
            found.append({"pair": [worse, better], "column": heading, "images": images, **known})
    return found


def to_lines(document: Mapping[str, Any], *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of a table as people read it; ``brief``: published is what there is of one data set."""
    columns: Mapping[str, str] = document["columns"]
    lines = []
    for row in document["rows"]:
        figures = [_figure(row["values"][name], unit) for name, unit in columns.items() if name in row["values"]]
        if row["state"] != "measured":
            figures = [row["state"], *[""] * (len(columns) - 1)]
        published = _published(row["published"], document["recipe"], brief=brief)
        lines.append([row["row"], row["split"], *figures, published])
    return ["", "split", *columns, "published"], lines


def _published(numbers: Mapping[str, Mapping[str, float]], recipe: str, *, brief: bool) -> str:
    """Return what was published: of the data set that the recipe is about, or else of all, or of the first."""
    own = data_set(recipe, numbers)
    shown = [own] if own in numbers else list(numbers)[: 1 if brief else None]
    texts = [f"{data}: {', '.join(f'{name} {value:,g}' for name, value in numbers[data].items())}" for data in shown]
    return "; ".join(texts) or "–"


def data_set(recipe: str, known: Collection[str]) -> str:
    """Return which data set a recipe is about, by its name: ``voc07-mine`` is voc07; its own name where it is no known one."""
    name = recipe.partition("-")[0]
    return name if recipe not in known and name in known else recipe


def _figure(value: Mapping[str, Any], unit: str) -> str:
    """Return a figure, with ± its spread where there are several seeds."""
    if value["mean"] is None:
        return "not measured" if unit == "MiB" else "–"
    spread = f" ±{_number(value['spread'], unit)}" if len(value["by_seed"]) > 1 else ""
    return _number(value["mean"], unit) + spread


def _number(value: float, unit: str) -> str:
    return percent(value) if unit == "%" else f"{value:,.1f}".removesuffix(".0")


def difference_lines(document: Mapping[str, Any]) -> list[str]:
    """Return one line for each paired difference, with its 95 % interval."""
    lines = []
    for found in document["differences"]:
        scale = 100 if document["columns"][found["column"]] == "%" else 1
        (worse, better), mean = found["pair"], scale * found["mean"]
        if found["half_width"] is None:
            interval = "one seed, no interval"
        else:
            half = scale * found["half_width"]
            interval = f"95 % interval {mean - half:+.2f} to {mean + half:+.2f}"
        verdict = " (holds zero)" if found["holds_zero"] and found["half_width"] is not None else ""
        column = " of ".join(part for part in (found["column"], found["images"]) if part)
        lines.append(f"{better} − {worse}, {column}: {mean:+.2f}, {interval}{verdict}")
    return lines


def remarks(document: Mapping[str, Any]) -> list[str]:
    """Return what stands below a table: differences, seeds, notes, and the rows that are left out or failed."""
    seeds = ", ".join(map(str, document["seeds"]))
    several = f"Seeds {seeds}: mean ± largest minus smallest." if len(document["seeds"]) > 1 else f"Seed {seeds}."
    differences = [f"Paired by seed: {line}." for line in difference_lines(document)]
    left_out = [f"not measured: {row['row']}: {row['why']}" for row in document["rows"] if row["why"]]
    failed = [f"failed: {e['cell']}, seed {e['seed']}: {e['error']}" for e in document["errors"]]
    return [several, f"Published: {document['source']}.", *differences, *document["notes"], *left_out, *failed]


def to_text(document: Mapping[str, Any]) -> TextTable:
    """Lay out for people what a run can measure of a table; the file has the other rows, and columns that are empty."""
    header, every = to_lines(document, brief=True)
    states = [row["state"] for row in document["rows"]]
    lines = [line for line, state in zip(every, states, strict=True) if state != "not measured"] or every
    figures = range(2, len(header) - 1)
    shown = [n for n in range(len(header)) if n < 2 or {line[n] for line in lines} - {"", "–"}]
    if len({line[1] for line in lines} - {""}) < 2:
        shown.remove(1)  # the one split is said in the title
    splits = ", ".join(dict.fromkeys(line[1] for line in lines if line[1]))
    text = TextTable(f"{document['title']} ({document['recipe']}{f', {splits}' if splits else ''})")
    for n in shown:
        text.add_columns(Kind.FIGURE if n in figures else Kind.NAME, header[n])
    for line in lines:
        text.add_row(*(line[n] for n in shown))
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
