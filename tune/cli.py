"""The verb ``weaksam tune``; registered by the entry point of the group ``weaksam.commands``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from pipelines.cli import terminal, without_effect
from pipelines.cli.console import set_up_logging, voice
from pipelines.cli.options import Request, spread
from pipelines.engine.voice import Kind, TextTable
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from weaksam.io.files import absolute, join

_HELP = """
Vary fields of a recipe and find the best values; every trial shares what its knobs leave alone.

SWEEP is a YAML file or the name of a shipped sweep; without one, these are listed. Trials are compared on one split
(`select_on`) and reported on another (`report_on`). An interrupted sweep goes on with the same command. Results, a page to
look at and the best recipe are in OUT/tune/NAME.

Examples:

    weaksam tune                        # which sweeps there are

    weaksam tune pseudo-labels --out runs/shapes

    weaksam tune my-sweep.yaml --data /data/VOC2007 --out runs/voc07

    weaksam tune my-sweep.yaml --data s3://bucket/coco --out s3://bucket/runs/coco14 --address auto

    weaksam tune roi-drop --dry-run
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the front door."""
    app.command(name="tune", help=_HELP)(spread(tune))


def tune(
    sweep: Annotated[
        str, typer.Argument(metavar="SWEEP", help="A sweep file, or a shipped sweep's name; none lists them.")
    ] = "",
    *,
    request: Request,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
) -> None:
    """Run a sweep."""
    from tune.report import write_report
    from tune.results import text_tables, write_results
    from tune.search import describe, run_sweep
    from tune.sweep import Trials, load_sweep

    set_up_logging(request.verbose)
    if not sweep:
        voice.table(_list())
        return
    loaded = load_sweep(sweep, request.overrides or ())
    run_uri = absolute(request.out or join("runs", load_recipe(loaded.recipe, loaded.overrides)[0].name))
    trials = Trials(loaded, run_uri, request.data)

    def asked(values: Sequence[str]) -> Iterator[tuple[Recipe, list[str]]]:
        for recipe in Trials(load_sweep(sweep, values), run_uri, request.data).examples():
            yield recipe, Run(recipe, run_uri).needed_for(*loaded.targets)

    without_effect.warn(voice, request.overrides or (), request.overrides or (), asked)
    if request.dry_run:
        describe(trials, request.options, voice, where=sweep)
        return
    terminal.go_on_unread()
    outcome = run_sweep(trials, request.options, voice, where=sweep, retry_failed=retry_failed)
    for table in text_tables(outcome):
        voice.table(table)
    table_uri, chosen = write_results(outcome, trials)
    page = write_report(outcome, trials)
    fetched = "FILE" if "://" in chosen else chosen
    fetch = f"{chosen}, fetched as {fetched}: " if fetched != chosen else ""
    voice.say(f"results: {table_uri}\npage:    {page}\nbest:    {fetch}weaksam run {fetched} --out {run_uri}")


def _list() -> TextTable:
    from tune.sweep import load_sweep, shipped_sweeps

    text = TextTable("sweeps; `weaksam tune NAME` runs one")
    text.add_columns(Kind.NAME, "name")
    text.add_columns(Kind.TEXT, "what it varies", "recipe")
    for name in shipped_sweeps():
        found = load_sweep(name)
        text.add_row(name, found.description, found.recipe)
    return text
