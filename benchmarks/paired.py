"""Cells of an experiment that differ in one thing, run seed by seed until their difference is known well enough.

Cells of one seed share everything but what they differ in: data, detections, initial weights and the order of images. What
is reported is the mean over seeds of their paired differences, with a 95 % interval of Student's t. A cell is a chain of stage
instances in one run folder: an interrupted experiment continues, and what cells share is made once. Small detectors leave
a third of a second CPU idle: two experiments on one folder, each with ``--cpus 1`` and so without Ray, take less time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as TextTable
from scipy.stats import t as student

from pipelines.engine.stage import Options
from pipelines.products.measured import Evaluation
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run

FEWEST_SEEDS = 3  # an interval of fewer says nothing
MEASURES = ("ap50_area", "ap50_eleven_point", "coco_ap75")  # of the first the differences are reported


PATIENT = Options(wait_s=3600)  # for what another experiment on the same folder is making


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting."""

    name: str
    overrides: tuple[str, ...]  # of the recipe


Results = dict[str, dict[int, dict[str, float]]]  # cell -> seed -> measure in per cent


def resources(cpus: int) -> list[str]:
    """Return what a recipe is told of the machine."""
    return [f"resources.cpus={cpus}", f"resources.here={str(cpus == 1).lower()}"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every experiment is asked."""
    parser.add_argument(
        "--half-width", type=float, default=1.0, help="points; more seeds until the intervals are narrower"
    )
    parser.add_argument("--cpus", type=int, default=0, help="of this machine to use; 0 = all")


def run_cells(
    cells: Sequence[Cell],
    pairs: Sequence[tuple[str, str]],
    *,
    recipe: str,
    run_uri: str,
    most_seeds: int,
    half_width: float,
    split: str,
    cpus: int,
    console: Console,
) -> Results:
    """Run every cell with ``FEWEST_SEEDS`` seeds, then those of pairs whose interval is too wide with one more after another.

    Args:
        cells: settings.
        pairs: (worse, better) cells whose difference is asked for.
        recipe: that all cells change.
        run_uri: absolute run folder, shared by all.
        most_seeds: ``FEWEST_SEEDS`` or more.
        half_width: of the interval, in points.
        split: that is measured.
        cpus: of this machine to use, 0 = all.
        console: to print on.
    """
    results: Results = {cell.name: {} for cell in cells}
    wanted = {cell.name for cell in cells}
    for seed in range(most_seeds):
        for cell in cells:
            if cell.name in wanted:
                console.rule(f"{cell.name}, seed {seed}")
                results[cell.name][seed] = _measure(cell, seed, recipe, run_uri, split, cpus, console)
        if seed + 1 >= FEWEST_SEEDS:
            wanted = cells_to_repeat(results, pairs, half_width)
    return results


def cells_to_repeat(results: Results, pairs: Sequence[tuple[str, str]], half_width: float) -> set[str]:
    """Return the names of the cells of pairs whose interval is not narrower than ``half_width`` on either side."""
    return {name for pair in pairs if _difference(results, *pair)[1] >= half_width for name in pair}


def report(results: Results, pairs: Sequence[tuple[str, str]], title: str) -> list[TextTable]:
    """Lay out means with spreads, and the paired differences."""
    means = TextTable(title=title, title_justify="left")
    for name in ("", "seeds", *MEASURES):
        means.add_column(name, justify="left" if not name else "right")
    for cell, by_seed in results.items():
        values = [[measured[name] for measured in by_seed.values()] for name in MEASURES]
        means.add_row(cell, str(len(by_seed)), *(f"{statistics.mean(v):.1f} ±{max(v) - min(v):.1f}" for v in values))
    differences = TextTable(title=f"Paired differences in {MEASURES[0]}, points", title_justify="left")
    for name in ("", "mean", "95 % interval"):
        differences.add_column(name, justify="left" if not name else "right")
    for worse, better in pairs:
        mean, half = _difference(results, worse, better)
        verdict = "" if abs(mean) > half else "  (holds zero)"
        differences.add_row(f"{better} − {worse}", f"{mean:+.2f}", f"{mean - half:+.2f} to {mean + half:+.2f}{verdict}")
    return [means, differences]


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of n paired differences and half the width of its 95 % interval, infinite for n = 1."""
    n = len(differences)
    if n < 2:
        return differences[0], float("inf")
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    return statistics.mean(differences), half


def _difference(results: Results, worse: str, better: str) -> tuple[float, float]:
    a, b = results[worse], results[better]
    return interval([b[seed][MEASURES[0]] - a[seed][MEASURES[0]] for seed in a if seed in b])


def _measure(
    cell: Cell, seed: int, recipe_name: str, run_uri: str, split: str, cpus: int, console: Console
) -> dict[str, float]:
    recipe, _ = load_recipe(recipe_name, [*cell.overrides, f"retrain.seed={seed}", *resources(cpus)])
    Run(recipe, run_uri).bring(["evaluate.final"], PATIENT, console)
    instance = Run(recipe, run_uri).instance("evaluate.final")
    row: Mapping[str, Any] = Evaluation(instance).read()["detections"][split]["rows"][0]
    return {name: 100 * row[name] for name in MEASURES}
