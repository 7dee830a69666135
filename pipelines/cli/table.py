"""``weaksam table``: the tables of the paper, measured and set beside what was published."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli import terminal
from pipelines.cli.console import console, set_up_logging
from pipelines.cli.options import RecipeRequest, is_run_folder, spread
from pipelines.variants.run import Recipes, make_table, parse_seeds
from weaksam.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(spread(table))


def table(
    number: Annotated[int, typer.Argument(metavar="N", help="Of the paper: 1, 4, 6 or 10.")],
    request: RecipeRequest,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="0,1,2", help="Train with each of these; default: the recipe's one.")
    ] = "",
) -> None:
    """Measure a table of the paper: detectors on Selective Search and on WeakSAM's proposals, beside what was published.

    1: average precision. 4: source by source. 6: boxes and time. 10: correct localisation.

    Its cells are variants of RECIPE, whose detector is MIST, in one run folder, made one after the other; whatever is finished
    already, by `weaksam run` too, is recognised. The table is printed and written to OUT/tables. A cell that fails is shown as
    failed, the others go on, and the exit code is 1. Rows that nothing here trains say so.

    The OICR rows come from the recipe RECIPE-oicr, beside RECIPE's file or shipped (voc07-oicr, shapes-oicr). Where there is
    none, they are RECIPE with mil.detector=oicr and how OICR's learning rates differ (refine_lr_factor, warm-up), all else as
    for MIST.

    Examples:

        weaksam table 1 voc07 --data /data/VOCdevkit/VOC2007 --out runs/voc07 --seeds 0,1,2

        weaksam table 4 shapes --dry-run

        weaksam table 10 mine.yaml --data cards/ --set mil.epochs=4     # OICR from mine-oicr.yaml if it is there
    """
    set_up_logging(request.verbose)
    if is_run_folder(request.recipe):
        raise ConfigError(
            f"table: expected a recipe, got the run folder {request.recipe}; name its recipe and add --out {request.recipe}"
        )
    recipes = Recipes(name=request.recipe, overrides=tuple(request.values), data_uri=request.data)
    run_uri = request.run_uri(recipes.base())
    if not request.dry_run:
        terminal.go_on_unread()
    if make_table(number, recipes, run_uri, parse_seeds(seeds), request.options, console).get("errors"):
        raise typer.Exit(1)
