"""``weaksam table``: a paper's table, measured here beside what was published.

All cells live in one run folder and share everything upstream of their difference, so that a table that was stopped goes on
where it was, and tables share cells. A cell that fails is shown as failed and the others go on.

    RUN/tables/NAME.json   every figure by seed, and the keys of the instances that it comes from
    RUN/tables/NAME.md     the same for people
"""

from __future__ import annotations

from typing import Any

from pipelines.engine.stage import Options
from pipelines.engine.status import TABLES
from pipelines.engine.voice import SILENT, Kind, TextTable, Voice
from pipelines.recipe.yaml_text import render
from pipelines.runner import Run
from pipelines.store.files import write_bytes, write_json
from pipelines.variants.cells import Cells
from pipelines.variants.document import remarks, to_document, to_markdown, to_text
from pipelines.variants.measure import Results, Variant, measure
from weaksam.errors import ConfigError, WeaksamError
from weaksam.io.files import join


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read ``"0,1,2"``; empty = no seeds.

    Raises:
        ConfigError: it is no list of different integers of 0 or more.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ConfigError(f"--seeds: expected different integers like 0,1,2, got {text!r}")
    return tuple(map(int, parts))


def make_table(cells: Cells, run_uri: str, options: Options, voice: Voice = SILENT) -> dict[str, Any]:
    """Bring every cell of a table up to date, show the table and write it into the run folder.

    Args:
        cells: of the table.
        run_uri: the one run folder of all cells, absolute.
        options: with ``dry_run`` the cells are listed and nothing is run or written.
        voice: for what is said meanwhile.

    Returns:
        The document that ``NAME.json`` holds; its ``errors`` are empty if no cell failed. Empty for a dry run.
    """
    table = cells.table
    if options.dry_run:
        voice.table(_cells_table(cells, run_uri))
        return {}
    write_bytes(join(run_uri, "recipe.yaml"), render(cells.base).encode())
    variants = [
        variant
        for name, variant in cells.variants.items()
        if cells.is_asked_for(name) or _is_done(cells, variant, run_uri)
    ]
    left_out = cells.left_out | dict.fromkeys(
        cells.variants.keys() - {v.name for v in variants}, "it was not asked for"
    )

    def write(results: Results) -> dict[str, Any]:
        document = to_document(table, cells.base, run_uri, cells.seeds, left_out, results)
        write_json(join(run_uri, TABLES, f"{table.name}.json"), document)
        write_bytes(join(run_uri, TABLES, f"{table.name}.md"), to_markdown(document).encode())
        return document

    results = measure(
        variants,
        table.objectives,
        run_uri,
        options,
        voice,
        fingerprints=cells.fingerprints,
        pairs=cells.pairs(),
        done=write,
    )
    _make_current(cells, run_uri)
    document = write(results)
    voice.table(to_text(document))
    for line in remarks(document):
        voice.say(line)
    voice.say(f"written: {join(run_uri, TABLES, f'{table.name}.md')}")
    return document


def _make_current(cells: Cells, run_uri: str) -> None:
    """Let the run show the recipe's own cell, whichever was worked on last."""
    run = Run(cells.own.recipe(cells.seeds[0]), run_uri, cells.fingerprints)
    for variant in cells.variants.values():
        for name in cells.needed(run, variant):
            try:
                instance = run.instance(name)
            except WeaksamError:  # its cell failed for the same reason, and says so
                return
            if instance.plan() is not None:
                instance.make_current()


def _is_done(cells: Cells, variant: Variant, run_uri: str) -> bool:
    """Whether a row that was not asked for is finished, and costs nothing to show."""
    try:
        return not any(cells.left(variant, seed, run_uri) for seed in cells.seeds)
    except WeaksamError:  # what it reads is not there
        return False


def _cells_table(cells: Cells, run_uri: str) -> TextTable:
    """Lay out what is done and what would run."""
    text = TextTable(cells.table.title)
    text.add_columns(Kind.NAME, "row", "seed")
    text.add_columns(Kind.TEXT, "state")
    for seed in cells.seeds:
        for name, variant in cells.variants.items():
            try:
                left = cells.left(variant, seed, run_uri)
                to_do = f"to do: {', '.join(left)}" if cells.is_asked_for(name) else "not asked for"
            except WeaksamError as error:
                left, to_do = [""], f"cannot run: {error}"
            text.add_row(name, str(seed), to_do if left else "done")
    for name, why in cells.left_out.items():
        text.add_row(name, "", f"not measured: {why}")
    return text
