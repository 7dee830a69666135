"""``weaksam table N``: tables of the paper, measured here beside what was published.

A *cell* is a variant of one recipe with one seed: a detector on some proposals. All cells live in one run folder and share
everything upstream of their difference, so that a table that was stopped goes on where it was, and tables share cells. A cell
that fails is shown as failed and the others go on. Rows that nothing here trains stand there as not measured.

    RUN/tables/table-N.json   every figure by seed, and the keys of the instances that it comes from
    RUN/tables/table-N.md     the same for people
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.engine.stage import Options
from pipelines.engine.status import TABLES
from pipelines.engine.text_table import Kind, TextTable
from pipelines.recipe.model import Recipe, load_recipe, render, shipped_recipes, verb_of
from pipelines.runner import Run
from pipelines.store.explain import explain, storage_failure
from pipelines.store.tables import write_bytes, write_json
from pipelines.variants.document import Outcome, Outcomes, remarks, to_document, to_markdown, to_text
from pipelines.variants.plans import PLANS, Finished, Plan, Row, Variant
from weaksam.errors import ConfigError, WeaksamError
from weaksam.io.files import join

logger = logging.getLogger(__name__)

OICR_SUFFIX = "-oicr"  # of the recipe beside NAME that trains OICR
OICR_PRESET = "voc07-oicr"  # whose optimisation OICR takes over where there is no such recipe
_SET_BY_TABLE = ("mil.detector", "mil.seed", "propose.method")


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """Loads the variants of one recipe."""

    name: str  # a file, or a shipped recipe's name
    overrides: tuple[str, ...] = ()
    data_uri: str = ""

    def base(self) -> Recipe:
        """Return the recipe itself.

        Raises:
            ConfigError: it is none whose detector can be exchanged, or an override sets what the table sets.
        """
        for item in self.overrides:
            name = item.partition("=")[0].strip()
            if name in _SET_BY_TABLE:
                raise ConfigError(f"--set {item}: the table sets {name} itself; seeds are chosen with --seeds")
        recipe, _ = load_recipe(self.name, self.overrides, self.data_uri)
        wanted = {
            "mil.detector": (recipe.mil.detector, "mist"),
            "propose.method": (recipe.propose.method, "sam"),
            "mil.weights": (recipe.mil.weights.uri, ""),
        }
        for option, (got, expected) in wanted.items():
            if got != expected:
                raise ConfigError(f"recipe {self.name}: a table starts from {option}={expected!r}, got {got!r}")
        if "train-mil" not in recipe.stages:
            raise ConfigError(f"recipe {self.name}: a table trains detectors, but its stages have no train-mil")
        return recipe

    def variant(self, variant: Variant, seed: int) -> Recipe:
        """Return the recipe of a cell."""
        name, before = self.name, list[str]()
        if variant.detector == "oicr":
            sibling = oicr_recipe(self.name)
            name, before = (sibling, []) if sibling else (self.name, _oicr_overrides())
        overrides = [*before, *self.overrides, *variant.overrides, f"mil.seed={seed}"]
        recipe, _ = load_recipe(name, overrides, self.data_uri)
        if recipe.mil.detector != variant.detector:
            raise ConfigError(f"recipe {name}: expected mil.detector={variant.detector}, got {recipe.mil.detector}")
        return recipe


def oicr_recipe(name: str) -> str:
    """Return the recipe that trains OICR where ``name`` trains MIST: NAME-oicr, beside a file or shipped; "" without one."""
    path = Path(name)
    if path.is_file():
        sibling = path.with_name(f"{path.stem}{OICR_SUFFIX}{path.suffix}")
        return str(sibling) if sibling.is_file() else ""
    shipped = name.removesuffix(".yaml") + OICR_SUFFIX
    return shipped if shipped in shipped_recipes() else ""


def _oicr_overrides() -> list[str]:
    """Return what makes OICR of a MIST recipe: the detector and how it is optimised, not scales nor length."""
    published = load_recipe(OICR_PRESET)[0].mil
    names = ("refine_lr_factor", "warmup_steps", "warmup_factor")
    return ["mil.detector=oicr", *(f"mil.{name}={getattr(published, name)!r}" for name in names)]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read ``"0,1,2"``; empty = no seeds.

    Raises:
        ConfigError: it is no list of different integers of 0 or more.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ConfigError(f"--seeds: expected different integers like 0,1,2, got {text!r}")
    return tuple(map(int, parts))


def make_table(
    number: int,
    recipes: Recipes,
    run_uri: str,
    seeds: Sequence[int],
    options: Options,
    console: Console,
) -> dict[str, Any]:
    """Bring every cell of a table up to date, print the table and write it into the run folder.

    Args:
        number: of the paper, a key of ``PLANS``.
        recipes: which recipe's variants.
        run_uri: the one run folder of all cells.
        seeds: of the training; () = the recipe's own.
        options: with ``dry_run`` the cells are listed and nothing is run or written.
        console: to print on.

    Returns:
        The document that ``table-N.json`` holds; its ``errors`` are empty if no cell failed. Empty for a dry run.

    Raises:
        ConfigError: there is no such table, or the recipe cannot be measured so; before anything runs.
    """
    if number not in PLANS:
        raise ConfigError(f"table: expected one of {', '.join(map(str, PLANS))}, got {number}")
    plan, base = PLANS[number], recipes.base()
    _check_splits(plan, base)
    seeds = tuple(seeds) or (base.mil.seed,)
    rows = plan.rows(base)
    cells = [(n, seed) for seed in seeds for n, row in enumerate(rows) if row.variant is not None]
    if options.dry_run:
        console.print(_cells_table(plan, rows, cells, recipes, run_uri))
        return {}

    write_bytes(join(run_uri, "recipe.yaml"), render(base).encode())
    outcomes: Outcomes = {}
    document: dict[str, Any] = {}
    for count, (n, seed) in enumerate(cells, 1):
        console.print(f"[bold cyan]cell {count} of {len(cells)}[/]: {rows[n].name}, seed {seed}")
        outcomes[n, seed] = _measure(plan, rows[n], recipes, seed, run_uri, options, console)
        document = to_document(number, base, run_uri, rows, seeds, outcomes)
        write_json(join(run_uri, TABLES, f"table-{number}.json"), document)
        write_bytes(join(run_uri, TABLES, f"table-{number}.md"), to_markdown(document).encode())
    _make_current(plan, recipes, seeds[0], run_uri)
    console.print(to_text(document))
    for line in remarks(document):
        console.print(line, markup=False)
    console.print(f"written: {join(run_uri, TABLES, f'table-{number}.md')}", markup=False)
    return document


def _check_splits(plan: Plan, recipe: Recipe) -> None:
    """Refuse what would train for days and then have nothing to measure."""
    from weaksam.datasets import open_dataset, train_split

    dataset = open_dataset(recipe.data)
    training = train_split(dataset, recipe.data)
    proposed = [s for s in dataset.splits if not recipe.propose.splits or s in recipe.propose.splits]
    detected = [s for s in proposed if not recipe.detect.splits or s in recipe.detect.splits]
    where = f"{recipe.data.uri} (data.splits, propose.splits, detect.splits)"
    if training not in proposed:
        raise ConfigError(f"{where}: expected proposals of a training split, got {', '.join(proposed)}")
    if "test" in plan.needs and not [split for split in detected if split != training]:
        raise ConfigError(f"{where}: expected a split to test on beside {training}, got {', '.join(detected)}")
    if "training" in plan.needs and "detect" in _verbs(plan, recipe) and training not in detected:
        raise ConfigError(f"{where}: expected detections of {training}, got {', '.join(detected)}")


def _verbs(plan: Plan, recipe: Recipe) -> set[str]:
    return {verb_of(name) for name in _instances(plan, Run(recipe, ""))}


def _instances(plan: Plan, run: Run) -> list[str]:
    """Return all instances of a cell in the order in which they run."""
    return run.needed_for(*plan.instances)


def _measure(
    plan: Plan, row: Row, recipes: Recipes, seed: int, run_uri: str, options: Options, console: Console
) -> Outcome:
    """Bring a cell up to date and read its figures; whatever goes wrong is the cell's outcome."""
    assert row.variant is not None
    try:
        recipe = recipes.variant(row.variant, seed)
        run = Run(recipe, run_uri)
        run.bring(plan.instances, options, console)
        finished = Finished(run)
        figures = plan.figures(finished, row.variant)
        keys = {name: finished.instance(name).key for name in _instances(plan, run)}
        return Outcome(figures=figures, instances=keys, notes=tuple(finished.notes))
    except Exception as error:  # one cell must not cost the table; the exit code tells
        if storage_failure(error):
            raise  # the other cells and the table's own file would fail the same way
        told = explain(error)
        if told is None:
            logger.exception("%s, seed %d", row.name, seed)
        said = told or error
        console.print(f"failed: {said}", style="red", markup=False)
        return Outcome(error=f"{type(said).__name__}: {' '.join(str(said).split())}")


def _make_current(plan: Plan, recipes: Recipes, seed: int, run_uri: str) -> None:
    """Let the run show the recipe's own cell, whichever was worked on last."""
    run = Run(recipes.variant(Variant(detector="mist"), seed), run_uri)
    for name in _instances(plan, run):
        try:
            instance = run.instance(name)
        except WeaksamError:  # its cell failed for the same reason, and says so
            return
        if instance.plan() is not None:
            instance.make_current()


def _cells_table(
    plan: Plan, rows: Sequence[Row], cells: Sequence[tuple[int, int]], recipes: Recipes, run_uri: str
) -> TextTable:
    """Lay out what is done and what would run."""
    text = TextTable(plan.title)
    text.add_columns(Kind.NAME, "detector", "proposals", "seed")
    text.add_columns(Kind.TEXT, "state")
    for n, seed in cells:
        variant = rows[n].variant
        assert variant is not None
        try:
            run = Run(recipes.variant(variant, seed), run_uri)
            left = [name for name in _instances(plan, run) if run.instance(name).manifest() is None]
            state = f"to do: {', '.join(left)}" if left else "done"
        except WeaksamError as error:
            state = f"cannot run: {error}"
        text.add_row(rows[n].detector, rows[n].proposals, str(seed), state)
    return text
