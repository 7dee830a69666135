"""``weaksam table``: the tables of papers, measured and set beside what was published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pipelines.cli import terminal, without_effect
from pipelines.cli.console import set_up_logging, voice
from pipelines.cli.options import RecipeRequest, is_run_folder, spread
from pipelines.engine.voice import Kind, TextTable
from pipelines.variants.cells import Asked, Cells
from pipelines.variants.run import make_table, parse_seeds
from pipelines.variants.table import known_tables, load_table
from weaksam.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(spread(table))


@dataclass(frozen=True, kw_only=True)
class TableRequest(RecipeRequest):
    """What the cells of a table are asked for."""

    recipe: Annotated[
        str, typer.Argument(help="A recipe file or a shipped recipe's name, which rows change; default: the table's.")
    ] = ""


def table(
    name: Annotated[
        str, typer.Argument(metavar="TABLE", help="N of the paper, a table's name, or a YAML file; none lists them.")
    ] = "",
    *,
    request: TableRequest,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="0,1,2", help="Train with each of these; default: the table's.")
    ] = "",
    row: Annotated[
        list[str] | None,
        typer.Option("--row", metavar="NAME", help="Only this row, or rows like 'MIST*'; may be repeated."),
    ] = None,
) -> None:
    """Measure a table of a paper and print it beside what was published.

    Its rows are settings of RECIPE, its columns objectives; both stand in its YAML file (`recipes/tables/`). Cells, a row
    with a seed each, are made one after the other in one run folder; whatever is finished already, by `weaksam run` too, is
    recognised. The table is printed and written to OUT/tables. A cell that fails is shown as failed, the others go on, and the
    exit code is 1.

    Examples:

        weaksam table                                                   # which tables there are

        weaksam table 4                                                 # on drawn images

        weaksam table 1 voc07 --data /data/VOCdevkit/VOC2007 --out runs/voc07 --seeds 0,1,2

        weaksam table 1 shapes --row 'MIST*' --dry-run

        weaksam table my_table.yaml mine.yaml --data cards/ --set mil.epochs=4
    """
    set_up_logging(request.verbose)
    if not name:
        voice.table(_list())
        return
    if request.recipe and is_run_folder(request.recipe):
        raise ConfigError(
            f"table: expected a recipe, got the run folder {request.recipe}; name its recipe and add --out {request.recipe}"
        )
    asked = Asked(
        recipe=request.recipe,
        overrides=tuple(request.values),
        data_uri=request.data,
        seeds=parse_seeds(seeds),
        rows=tuple(row or ()),
    )
    cells = Cells(load_table(name), asked)
    run_uri = request.run_uri(cells.base)
    if not request.dry_run:
        terminal.go_on_unread()
    without_effect.warn(voice, request.overrides or (), request.values, cells.asked_with)
    if make_table(cells, run_uri, request.options, voice).get("errors"):
        raise typer.Exit(1)


def _list() -> TextTable:
    text = TextTable("tables; `weaksam table NAME` measures one")
    text.add_columns(Kind.NAME, "name")
    text.add_columns(Kind.TEXT, "title", "recipe")
    for name, path in known_tables().items():
        found = load_table(str(path))
        text.add_row(name, found.title, found.recipe)
    return text
