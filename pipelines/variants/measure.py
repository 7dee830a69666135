"""Named settings x seeds -> values of objectives: what the tables of ``weaksam table`` and the trials of ``weaksam tune`` run.

A *cell* is one setting with one seed: a recipe, whose instances are brought up to date in a run folder and whose objectives are
then read. All cells of a run folder share everything upstream of their difference, and a cell that was interrupted goes on. A
cell that fails costs no other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.engine.stage import OnScalars, Options
from pipelines.engine.voice import SILENT, Tone, Toned, Voice
from pipelines.products.index import Index
from pipelines.recipe.model import Recipe, RecipeSource
from pipelines.runner import Fingerprints, Run
from pipelines.store.explain import explain, storage_failure
from pipelines.variants.objectives import OBJECTIVES
from pipelines.variants.objectives.base import Reading, Values
from weaksam.metrics.seeds import Interval, paired_difference

logger = logging.getLogger(__name__)

FEWEST_SEEDS = 3  # an interval of fewer says nothing


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named setting of a recipe, and the seeds that it is run with."""

    name: str
    source: RecipeSource  # of the recipe
    overrides: tuple[str, ...] = ()  # ``a.b=c`` items that make the setting
    seeds: tuple[int, ...] = (0,)
    seeded: tuple[str, ...] = ("retrain.seed",)  # fields of the recipe that take the seed
    data_uri: str = ""  # where the images are, if not where the recipe says
    # Whose product an objective is read from in the place of its own instance's: ``{"evaluate.final": "evaluate.mil"}``.
    read_from: Mapping[str, str] = field(default_factory=dict)

    def recipe(self, seed: int) -> Recipe:
        """Return the recipe of a cell; raise ConfigError if it cannot be."""
        items = [*self.overrides, *(f"{name}={seed}" for name in self.seeded)]
        return self.source.recipe(items, self.data_uri, origin=self.name or "--set")[0]

    def instances(self, objectives: Iterable[str]) -> dict[str, str]:
        """Return objective -> name of the instance that it is read from."""
        return {name: self.read_from.get(o.instance, o.instance) for name in objectives for o in (OBJECTIVES[name],)}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a cell gave."""

    values: Mapping[str, Values]  # objective -> images -> value
    training: str = ""  # the split that labels are granted to
    instances: Mapping[str, str] = field(default_factory=dict)  # name -> key, of all that the values come from
    notes: tuple[str, ...] = ()  # what people must know of the values


@dataclass(frozen=True)
class Failed:
    """Why a cell gave nothing."""

    error: str


Read = Callable[[Measured], float | None]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which variants are compared seed by seed, and by what."""

    names: tuple[tuple[str, str], ...]  # of variants, the one that is expected to be worse first
    read: Read
    half_width: float = (
        0.0  # further seeds are for pairs whose 95 % interval is wider on either side; 0 = for all variants
    )


@dataclass(frozen=True)
class Results:
    """The cells that there are so far, by variant and seed."""

    cells: dict[tuple[str, int], Measured | Failed] = field(default_factory=dict)

    def measured(self, name: str) -> dict[int, Measured]:
        """Return seed -> what was measured of a variant."""
        return {seed: cell for (of, seed), cell in self.cells.items() if of == name and isinstance(cell, Measured)}

    def failed(self) -> dict[tuple[str, int], str]:
        """Return (variant, seed) -> why the cell gave nothing."""
        return {cell: found.error for cell, found in self.cells.items() if isinstance(found, Failed)}

    def difference(self, pair: tuple[str, str], read: Read) -> Interval | None:
        """Return how much larger the second of a pair is, paired by seed; None where they share no seed."""
        one, other = ({seed: read(cell) for seed, cell in self.measured(name).items()} for name in pair)
        return paired_difference(one, other)

    def too_wide(self, pairs: Pairs) -> set[str]:
        """Return the names of the variants of pairs whose interval is not narrower than ``half_width`` on either side."""
        found = ((pair, self.difference(pair, pairs.read)) for pair in pairs.names)
        wide = (pair for pair, interval in found if interval is not None and interval.half_width >= pairs.half_width)
        return {name for pair in wide for name in pair}


def measure(
    variants: Sequence[Variant],
    objectives: Collection[str],
    run_uri: str,
    options: Options,
    voice: Voice = SILENT,
    *,
    fingerprints: Fingerprints | None = None,
    pairs: Pairs | None = None,
    done: Callable[[Results], object] = lambda _results: None,
) -> Results:
    """Run every variant with its seeds, one seed after the other, and read the objectives.

    Args:
        variants: with different names.
        objectives: names in ``OBJECTIVES``.
        run_uri: absolute run folder, shared by all cells.
        options: for the stages.
        voice: for what is said meanwhile.
        fingerprints: see ``Run``; cells share those that are taken.
        pairs: with their ``half_width`` the first ``FEWEST_SEEDS`` seeds are run, and more only for pairs that need them.
        done: called after each cell.

    Raises:
        OSError: the storage failed; the other cells would fail the same way.
    """
    results = Results()
    taken: Fingerprints = {} if fingerprints is None else fingerprints
    seeds = list(dict.fromkeys(seed for variant in variants for seed in variant.seeds))
    total = sum(len(variant.seeds) for variant in variants)
    at_most = "at most " if pairs is not None and pairs.half_width else ""
    for count, seed in enumerate(seeds):
        asked = [variant for variant in variants if seed in variant.seeds]
        if pairs is not None and pairs.half_width and count >= FEWEST_SEEDS:
            wide = results.too_wide(pairs)
            asked = [variant for variant in asked if variant.name in wide]
        for variant in asked:
            number = len(results.cells) + 1
            cell = Toned(f"cell {number} of {at_most}{total}", Tone.HEADING)
            voice.say(cell, f": {variant.name}, seed {seed}")
            results.cells[variant.name, seed] = _measure_cell(variant, seed, objectives, run_uri, taken, options, voice)
            done(results)
    return results


def measure_run(
    run: Run,
    instances: Mapping[str, str],
    options: Options,
    voice: Voice = SILENT,
    on_scalars: OnScalars | None = None,
) -> Measured:
    """Bring the instances that objectives are read from up to date, and read them.

    Args:
        run: a cell's recipe in its run folder.
        instances: objective -> name of the instance that it is read from, see ``Variant.instances``.
        options: for the stages.
        voice: for what they say.
        on_scalars: called for each row of a training's scalars, see ``Run.bring``.
    """
    names = list(dict.fromkeys(instances.values()))
    run.bring(names, options, voice, on_scalars)
    readings = {name: Reading(run=run, name=name) for name in names}
    return Measured(
        values={objective: OBJECTIVES[objective].read(readings[name]) for objective, name in instances.items()},
        training=Index(run.instance("index")).granted_split,
        instances={name: run.instance(name).key for name in run.needed_for(*names)},
        notes=tuple(dict.fromkeys(note for reading in readings.values() for note in reading.notes)),
    )


def _measure_cell(
    variant: Variant,
    seed: int,
    objectives: Collection[str],
    run_uri: str,
    fingerprints: Fingerprints,
    options: Options,
    voice: Voice,
) -> Measured | Failed:
    """Measure one cell; whatever goes wrong is what becomes of it."""
    try:
        run = Run(variant.recipe(seed), run_uri, fingerprints)
        return measure_run(run, variant.instances(objectives), options, voice)
    except Exception as error:  # one cell must not cost the others; the exit code tells
        if storage_failure(error):
            raise
        told = explain(error)
        if told is None:
            logger.exception("%s, seed %d", variant.name, seed)
        said = told or error
        voice.say(Toned(f"failed: {said}", Tone.ERROR))
        return Failed(f"{type(said).__name__}: {' '.join(str(said).split())}")
