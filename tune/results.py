"""What a sweep found, for machines and people: a row for each trial, how well objectives rank, the chosen recipe.

RUN/tune/NAME/results.parquet  report.html  best.yaml
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.voice import Kind, TextTable
from pipelines.recipe.yaml_text import render
from pipelines.store.files import write_bytes
from pipelines.store.numbers import known, percent
from pipelines.variants.objectives import OBJECTIVES
from pipelines.variants.objectives.agreement import RANK
from tune.search import Outcome, sweep_folder
from tune.spaces import Settings, headings, short
from tune.sweep import BEST, Trials
from tune.trial import Record
from weaksam.io.files import join
from weaksam.metrics.seeds import mean_and_spread

RESULTS_FILE, CHOSEN_FILE = "results.parquet", "best.yaml"
_SHOWN = 12  # trials in the table for people


def write_results(outcome: Outcome, trials: Trials) -> tuple[str, str]:
    """Write the table of all trials and the best one's recipe; return where."""
    folder = sweep_folder(trials)
    buffer = io.BytesIO()
    pq.write_table(to_table(outcome), buffer)
    table, chosen = join(folder, RESULTS_FILE), join(folder, CHOSEN_FILE)
    write_bytes(table, buffer.getvalue())
    recipe = trials.chosen(outcome.best.settings, outcome.sweep.seeds[0])
    write_bytes(chosen, render(recipe).encode())
    return table, chosen


def to_table(outcome: Outcome) -> pa.Table:
    """Return a row for each trial and for each setting compared.

    Columns: ``trial`` (key), ``state``, ``compared`` (name, null for a trial), one per knob (its value as JSON has it; text
    where trials mix kinds), ``select.OBJECTIVE`` and ``report.OBJECTIVE`` in [0, 1], ``seconds``, ``error``.
    """
    sweep = outcome.sweep
    rows: list[tuple[str | None, Settings, Record]] = [(None, *trial) for trial in outcome.trials]
    rows += [(name, record.settings, record) for name, record in outcome.compared.items()]
    columns: dict[str, list[Any]] = {
        "trial": [record.key for _, _, record in rows],
        "state": [record.state for _, _, record in rows],
        "compared": [name for name, _, _ in rows],
        **{knob: [settings.get(knob) for _, settings, _ in rows] for knob in given_knobs(outcome)},
        **{f"select.{name}": [record.select.get(name) for _, _, record in rows] for name in sweep.objectives},
        **{f"report.{name}": [record.report.get(name) for _, _, record in rows] for name in sweep.objectives},
        "seconds": [record.seconds for _, _, record in rows],
        "error": [record.error for _, _, record in rows],
    }
    return pa.table({name: _column(values) for name, values in columns.items()})


def ranking(outcome: Outcome) -> list[dict[str, Any]]:
    """Say how well each objective, on the part that trials are selected on, ranks them by the figure that is reported.

    That figure is AP50 where it is measured, else the first one that true boxes measure; without one there are no rows.

    Returns:
        for every objective: ``objective``, ``figure``, ``remarks`` on it, Spearman's ``rho`` of the means over seeds (null for
        fewer than three trials or no variety), ``by_seed`` where there are several, and ``chosen``: the reported figure of what
        the objective alone would have chosen.
    """
    finished = finished_trials(outcome)
    by_boxes = [name for name in outcome.sweep.objectives if not OBJECTIVES[name].label_free]
    if not by_boxes:
        return []
    figure = "ap50" if "ap50" in by_boxes else by_boxes[0]
    rows = []
    for name in outcome.sweep.objectives:
        usable = [r for r in finished if r.select.get(name) is not None and r.report.get(figure) is not None]
        by_seed = {
            seed: spearman(
                [r.by_seed[seed]["select"].get(name) for r in usable],
                [r.by_seed[seed]["report"].get(figure) for r in usable],
            )
            for seed in (usable[0].by_seed if usable and name != RANK and len(usable[0].by_seed) > 1 else {})
        }
        best_of = max if OBJECTIVES[name].more_is_better else min
        chosen = best_of(usable, key=lambda r: r.select[name] or 0.0).report[figure] if usable else None
        rows.append(
            {
                "objective": name,
                "figure": figure,
                "remarks": _remarks(name),
                "rho": spearman([r.select[name] for r in usable], [r.report[figure] for r in usable]),
                "by_seed": by_seed,
                "chosen": chosen,
            }
        )
    return rows


def _remarks(objective: str) -> list[str]:
    known_by, better = OBJECTIVES[objective].label_free, OBJECTIVES[objective].more_is_better
    return ["label-free"] * known_by + ["less is better"] * (not better)


def spearman(one: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    """Return the rank correlation of two rows of figures; None for fewer than three, an unknown one, or all equal."""
    from scipy.stats import spearmanr

    if len(one) < 3 or None in one or None in other or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return known(float(spearmanr(one, other).statistic))


def records_of(outcome: Outcome) -> list[Record]:
    """Return every record once, though several trials share one."""
    return list({record.key: record for _, record in outcome.trials}.values())


def finished_trials(outcome: Outcome) -> list[Record]:
    """Return the finished trials, each once."""
    return [record for record in records_of(outcome) if record.state == "finished"]


def text_tables(outcome: Outcome) -> list[TextTable]:
    """Lay out the best trials, what was compared and how objectives rank, for people to read; figures in per cent."""
    sweep = outcome.sweep
    ordered = sorted(finished_trials(outcome), key=outcome.value, reverse=True)
    selected, reported = where(outcome, sweep.objective)
    title = (
        f"{sweep.name}: {how_many(outcome)}\n"
        f"%, {sweep.objective} selected on {selected} / reported on {reported}, the best first"
    )
    best = TextTable(title)
    best.add_columns(Kind.NAME, *headings(sweep.space).values())
    best.add_columns(Kind.FIGURE, *sweep.objectives)
    for record in ordered[:_SHOWN]:
        figures = (_both(record, name) for name in sweep.objectives)
        best.add_row(*(short(record.settings.get(knob)) for knob in sweep.space), *figures)
    tables = [best]
    if outcome.compared:
        tables.append(_text_of_compared(outcome))
    if len(ordered) >= 3 and ranking(outcome):
        tables.append(_text_of_ranking(outcome))
    return tables


def where(outcome: Outcome, objective: str) -> tuple[str, str]:
    """Return on which images an objective selects trials, and on which it is reported."""
    sweep, of = outcome.sweep, OBJECTIVES[objective]
    return of.images("select", sweep.select_on), of.images("report", sweep.report_on)


def how_many(outcome: Outcome) -> str:
    """Return how the trials ended, and how many are still to run."""
    states = [record.state for record in records_of(outcome)]
    counts = {state: states.count(state) for state in ("finished", "stopped", "failed")}
    counts["not run"] = outcome.planned - len(states)
    return f"{outcome.planned} trials: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count > 0)


def spread(record: Record, name: str) -> str:
    """Return a reported figure as "mean ± largest minus smallest" over seeds in per cent, or how a trial ended without one."""
    if record.state != "finished":
        return record.state
    values = [of_seed["report"].get(name) for of_seed in record.by_seed.values()]
    mean, apart = mean_and_spread(value for value in values if value is not None)
    several = len(values) > 1 and OBJECTIVES[name].seeded  # nothing else differs from seed to seed
    return f"{percent(mean)} ±{percent(apart)}" if several and mean is not None else percent(mean)


def reported(outcome: Outcome) -> list[str]:
    """Return the objectives that are reported: agreement, for one, is known only where trials are selected."""
    records = [*finished_trials(outcome), *outcome.compared.values()]
    return [name for name in outcome.sweep.objectives if any(r.report.get(name) is not None for r in records)]


def _both(record: Record, name: str) -> str:
    selected, reported = record.select.get(name), record.report.get(name)
    return percent(selected) if reported is None else f"{percent(selected)} / {percent(reported)}"


def seeds_compared(outcome: Outcome) -> str:
    """Return with which seeds the best and others were repeated, and what of that flatters the best."""
    sweep = outcome.sweep
    seeds = sweep.compare_seeds or sweep.seeds
    text = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    chosen_by = [str(seed) for seed in seeds if seed in sweep.seeds]
    return f"{text}; the best was chosen by seed {', '.join(chosen_by)}, which flatters it" if chosen_by else text


def _text_of_compared(outcome: Outcome) -> TextTable:
    text = TextTable(f"reported, mean ± largest minus smallest over {seeds_compared(outcome)}")
    text.add_columns(Kind.NAME, "")
    text.add_columns(Kind.FIGURE, *headings(given_knobs(outcome)).values(), *reported(outcome))
    for label, record in outcome.compared.items():
        values = (short(record.settings.get(knob)) for knob in given_knobs(outcome))
        figures = (spread(record, name) for name in reported(outcome))
        text.add_row("the best" if label == BEST else label, *values, *figures)
    return text


def _text_of_ranking(outcome: Outcome) -> TextTable:
    rows = ranking(outcome)
    figure = rows[0]["figure"] if rows else ""
    title = f"how objectives rank trials by {figure}" + (f" on {where(outcome, figure)[1]}" if figure else "")
    text = TextTable(title)
    text.add_columns(Kind.NAME, "objective")
    text.add_columns(Kind.FIGURE, "Spearman", "by seed", f"{figure} of its choice")
    for row in rows:
        mark = f" ({', '.join(row['remarks'])})" if row["remarks"] else ""
        seeds = " ".join(correlation(rho) for rho in row["by_seed"].values())
        text.add_row(row["objective"] + mark, correlation(row["rho"]), seeds, percent(row["chosen"]))
    return text


def correlation(rho: float | None) -> str:
    """Return a correlation as people read it."""
    return "–" if rho is None else f"{rho:+.2f}"


def given_knobs(outcome: Outcome) -> list[str]:
    """Return every field that a trial or a setting to compare gives."""
    names = [*outcome.sweep.space, *(name for record in outcome.compared.values() for name in record.settings)]
    return list(dict.fromkeys(names))


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
