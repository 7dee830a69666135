"""The cells of a table: its rows as variants of a recipe, checked before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial

from pipelines.recipe.model import Recipe, RecipeSource, read_recipe, verb_of
from pipelines.recipe.paths import covering, leaves_of_override, value_at
from pipelines.runner import Fingerprints, Run
from pipelines.variants.document import data_set, value_of
from pipelines.variants.measure import Pairs, Variant
from pipelines.variants.objectives import OBJECTIVES
from pipelines.variants.objectives.detections import FINAL
from pipelines.variants.objectives.label_maps import PREDICTED
from pipelines.variants.objectives.proposals import PROPOSALS
from pipelines.variants.table import ELSE, HELD_OUT, TRAINING, PaperTable, Row, Settings
from weaksam.errors import ConfigError

_TRAINED = ("train-mil", "retrain", "train-segmenter")  # verbs that a recipe must list for rows that need them


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which recipe a table is to be measured of, and with what."""

    recipe: str = ""  # a file, or a shipped recipe's name; "" = the table's
    overrides: tuple[str, ...] = ()
    data_uri: str = ""
    seeds: tuple[int, ...] = ()  # empty = the table's, or else the recipe's own
    rows: tuple[str, ...] = ()  # patterns of their names; empty = all


class Cells:
    """The variants of a recipe that a table consists of.

    Raises:
        ConfigError: the recipe cannot be measured so, before anything runs.
    """

    def __init__(self, table: PaperTable, asked: Asked) -> None:
        self.table = table
        self.fingerprints: Fingerprints = {}  # of data and weights, taken once for all cells
        self.recipe_name = asked.recipe or table.recipe
        self._asked = asked
        for item in asked.overrides:
            for path in leaves_of_override(item):
                if own := covering(path, table.fields_set()):
                    raise ConfigError(f"--set {item}: {table.name} sets {own} itself; seeds are chosen with --seeds")
        try:
            self._source = read_recipe(self.recipe_name)
        except ConfigError as error:
            raise error if asked.recipe else ConfigError(f"{table.file}: recipe: {error}") from error
        self.base = self._source.recipe(asked.overrides, asked.data_uri)[0]
        self._check_start()
        self.seeds = asked.seeds or table.seeds or (self._own_seed(),)
        self.left_out: dict[str, str] = {}  # row -> why it is not measured
        self.variants: dict[str, Variant] = {}  # of the other rows
        for name, row in table.rows.items():
            variant = self._variant(name, row)
            if why := self._why_not(row, variant):
                self.left_out[name] = why
            else:
                self.variants[name] = variant
        if not any(map(self.is_asked_for, self.variants)):
            none = next(iter(self.left_out.values()), f"there are {', '.join(table.rows)}")
            raise ConfigError(f"{table.name}: recipe {self.base.name} has none of the rows: {none}")
        self._check_splits()

    @property
    def own(self) -> Variant:
        """The recipe itself with what people set, without what rows change."""
        return self._of(self._source, "", Row(), self._asked.overrides)

    def needed(self, run: Run, variant: Variant) -> list[str]:
        """Return all instances of a cell in the order in which they run."""
        return run.needed_for(*dict.fromkeys(variant.instances(self.table.objectives).values()))

    def is_asked_for(self, name: str) -> bool:
        """Whether a row is one of those that people asked for."""
        return not self._asked.rows or any(fnmatchcase(name, pattern) for pattern in self._asked.rows)

    def left(self, variant: Variant, seed: int, run_uri: str) -> list[str]:
        """Return the instances of a cell that are not finished."""
        run = Run(variant.recipe(seed), run_uri, self.fingerprints)
        return [name for name in self.needed(run, variant) if run.instance(name).manifest() is None]

    def asked_with(self, overrides: Sequence[str]) -> Iterator[tuple[Recipe, list[str]]]:
        """Yield the recipe of each row that people asked for, with all its instances, as if they had set these values alone."""
        left = set(self._asked.overrides) - set(overrides)
        for name, variant in self.variants.items():
            if self.is_asked_for(name):
                kept = tuple(item for item in variant.overrides if item not in left)
                recipe = replace(variant, overrides=kept).recipe(self.seeds[0])
                yield recipe, self.needed(Run(recipe, ""), variant)

    def pairs(self) -> Pairs | None:
        """Return what is compared seed by seed."""
        asked = self.table.differences
        if asked is None:
            return None
        names = tuple(pair for pair in asked.pairs if set(pair) <= self.variants.keys())
        scale = 100 if OBJECTIVES[self.table.columns[asked.column].objective].unit == "%" else 1
        return Pairs(names=names, read=partial(value_of, self.table, asked.column), half_width=asked.half_width / scale)

    def _of(self, source: RecipeSource, name: str, row: Row, items: Iterable[str]) -> Variant:
        table = self.table
        return Variant(
            name=name,
            source=source,
            overrides=tuple(items),
            seeds=self.seeds,
            seeded=table.seeded,
            data_uri=self._asked.data_uri,
            read_from={
                FINAL: row.detections or table.detections,
                PREDICTED: row.label_maps or table.label_maps,
                PROPOSALS: table.proposals,
            },
        )

    def _variant(self, name: str, row: Row) -> Variant:
        """Return a row's variant: presets, then what people set, then what the row sets."""
        presets = [self._preset(preset) for preset in row.presets]
        files = [preset for preset in presets if isinstance(preset, str)]
        items = [item for preset in presets if not isinstance(preset, str) for item in _items(preset)]
        where = f"{self.table.file}: rows.{name}"
        try:
            source = read_recipe(self.recipe_name, files) if files else self._source
            variant = self._of(source, name, row, [*items, *self._asked.overrides, *_items(row.settings)])
            variant.recipe(self.seeds[0])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return variant

    def _preset(self, name: str) -> str | Settings:
        of = self.table.presets[name]
        found = of.get(data_set(self.base.name, of), of.get(ELSE))
        if found is None:
            known = ", ".join(of)
            raise ConfigError(
                f"{self.table.file}: presets.{name}: expected one for {self.base.name} or {ELSE}, got {known}"
            )
        return found

    def _own_seed(self) -> int:
        """Return the one seed that the recipe itself has in all fields that take the seed of a table."""
        values = [value_at(self.base, field, f"{self.table.file}: seeded") for field in self.table.seeded]
        if len(set(values)) > 1:
            fields = ", ".join(self.table.seeded)
            raise ConfigError(
                f"recipe {self.base.name}: {self.table.name} gives {fields} one seed, got {', '.join(map(str, values))}; "
                f"choose with --seeds"
            )
        return int(values[0])

    def _check_start(self) -> None:
        for option, expected in self.table.starts_from.items():
            got = value_at(self.base, option, f"{self.table.file}: starts_from")
            if got != expected:
                raise ConfigError(
                    f"recipe {self.base.name}: {self.table.name} starts from {option}={expected!r}, got {got!r}"
                )

    def _why_not(self, row: Row, variant: Variant) -> str:
        """Return why a row cannot be measured, "" if it can."""
        for option, needed in row.needs.items():
            got = value_at(self.base, option, f"{self.table.file}: needs")
            if got != needed and not (isinstance(got, tuple) and needed in got):
                return f"recipe {self.base.name} has no {needed} in {option}"
        listed = {verb_of(stage) for stage in self.base.stages}
        recipe = variant.recipe(self.seeds[0])
        needed_verbs = {verb_of(instance) for instance in self.needed(Run(recipe, ""), variant)}
        missing = [verb for verb in _TRAINED if verb in needed_verbs - listed]
        return f"the stages of recipe {self.base.name} have no {missing[0]}" if missing else ""

    def _check_splits(self) -> None:
        """Refuse what would train for days and then have nothing to measure."""
        from weaksam.datasets import open_dataset, train_split

        dataset = open_dataset(self.base.data)
        training = train_split(dataset, self.base.data)
        for name, variant in self.variants.items():
            if self.is_asked_for(name):
                self._check_splits_of(variant, dataset.splits, training)

    def _check_splits_of(self, variant: Variant, splits: Sequence[str], training: str) -> None:
        recipe = variant.recipe(self.seeds[0])
        where = f"{self.table.file}: rows.{variant.name}: {recipe.data.uri}"
        proposed = recipe.propose.splits or tuple(splits)
        if "train-mil" in self.needed(Run(recipe, ""), variant) and training not in proposed:
            raise ConfigError(f"{where} (propose.splits): expected proposals of {training}, got {', '.join(proposed)}")
        instances = variant.instances(self.table.objectives)
        for heading, column in self.table.columns.items():
            limits = OBJECTIVES[column.objective].splits(recipe, "select", instances[column.objective])
            known = [split for split in splits if all(not of or split in of for of in limits.values())]
            expected = _missing(self.table.split_of(heading), known, training)
            if limits and expected:
                fields = ", ".join(limits)
                raise ConfigError(f"{where} ({fields}): {heading}: expected {expected}, got {', '.join(known)}")


def _items(settings: Settings) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def _missing(split: str, known: Sequence[str], training: str) -> str:
    """Return what a column would need of the splits that are known; "" if it has it."""
    if split == HELD_OUT:
        return "" if [name for name in known if name != training] else f"a split to test on beside {training}"
    wanted = training if split == TRAINING else split
    return "" if wanted in known else f"detections, proposals or label maps of {wanted}"
