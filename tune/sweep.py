"""Sweeps: YAML files that say which fields of a recipe to vary, what to optimise, how, and with how much of the machine.

Everything is checked before anything starts: names, types and ranges by loading the recipe with every extreme of every knob.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.engine.ray_session import usable_cpus
from pipelines.recipe.explain import explain
from pipelines.recipe.model import Recipe, read_recipe, shipped_folder
from pipelines.recipe.paths import covering, leaves, leaves_of_override, value_at
from pipelines.recipe.yaml_text import read_mapping
from pipelines.runner import Fingerprints, Run
from pipelines.store.instances import instance_key
from pipelines.variants.measure import Variant
from pipelines.variants.objectives import OBJECTIVES, check_objective
from pipelines.variants.objectives.agreement import RANK, RANKED
from tune.spaces import Knob, Settings, combinations, corners, every_combination, told
from weaksam.errors import ConfigError

_MOST_CHECKED = 1000  # combinations of values that are all tried on the recipe before a sweep starts
_SHARES = (0.25, 0.33, 0.5)  # of a GPU; other fractions can stay unschedulable for ever (ray#52133)
BEST = "best"  # name of the best trial among those that are compared
_STRICT = ConfigDict(extra="forbid", frozen=True)
_OWN = {  # fields of a recipe that a sweep sets itself, beside those that take its seeds: nobody else may
    "resources.cpus": "resources.cpus",
    "resources.here": "resources",
    "resources.train_workers": "resources.gpus",
    "resources.gpus_per_actor": "resources.gpus",
}


class Search(BaseModel):
    """How settings are chosen."""

    model_config = _STRICT

    algorithm: Literal["grid", "random", "optuna"] = "grid"
    trials: int = Field(default=0, ge=0)  # 0 = the whole grid
    seed: int = 0


class Scheduler(BaseModel):
    """Whether hopeless trainings are given up: ASHA compares trials after a share of the training, then after more."""

    model_config = _STRICT

    name: Literal["none", "asha"] = "none"
    first: float = Field(default=0.25, gt=0, lt=1)  # share of the training's steps before the first comparison
    # One in so many goes on; the next comparison comes after so many times the steps.
    reduction: int = Field(default=2, ge=2)


class TrialResources(BaseModel):
    """CPUs and GPUs of trials."""

    model_config = _STRICT

    concurrency: int = Field(default=1, ge=0)  # trials at the same time, at most; 0 = as many as fit
    cpus: int = Field(default=0, ge=0)  # of each; 0 = an equal part of the machine or cluster
    # Of each: 0.25, 0.33, 0.5 of one, or a whole number. Up to one GPU, a trial does everything in its own process; with more
    # there is a training worker on each.
    gpus: float = Field(default=0, ge=0)

    @property
    def at_a_time(self) -> str:
        """How many trials run at the same time, for people."""
        return f"{self.concurrency} at a time" if self.concurrency else "as many at a time as fit"


class Budget(BaseModel):
    """When to stop, beside the number of trials."""

    model_config = _STRICT

    # Of one call, 0 = no limit. What trials share is finished all the same; trials that have begun are given up.
    hours: float = Field(default=0.0, ge=0)


class Sweep(BaseModel):
    """A sweep file, validated."""

    model_config = _STRICT

    name: str
    description: str = ""
    recipe: str  # a file, or a shipped recipe's name
    overrides: tuple[str, ...] = Field(default=(), alias="set")  # a.b=c items for all trials
    space: dict[str, Knob]
    objective: str  # what the best trial is best in
    also: tuple[str, ...] = ()  # other objectives to note
    select_on: str = "val"  # split that trials are compared on
    report_on: str = "test"  # split that figures are reported on
    seeds: tuple[int, ...] = (0,)  # of the training; a trial runs all of them and is judged by the mean
    seeded: tuple[str, ...] = ("retrain.seed",)  # fields of the recipe that take the seed
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    resources: TrialResources = TrialResources()
    budget: Budget = Budget()
    compare: dict[str, Settings] = {}  # settings that are run beside the best trial's, never chosen
    compare_seeds: tuple[int, ...] = ()  # of the best trial and of those; empty = ``seeds``

    @property
    def objectives(self) -> tuple[str, ...]:
        """Every objective that is measured, the first is optimised."""
        names = [self.objective, *self.also, *(RANKED if RANK in (self.objective, *self.also) else ())]
        return tuple(dict.fromkeys(names))

    @property
    def targets(self) -> tuple[str, ...]:
        """The stage instances that hold them."""
        return tuple(dict.fromkeys(OBJECTIVES[name].instance for name in self.objectives))


class Trials:
    """The recipes of a sweep's trials.

    The driver makes it and every trial's process gets a copy: recipe files are read once, and so is all data and weights that
    enter keys. Trials may run where those files are not, and they cannot disagree about what they compare.

    Args:
        sweep: validated.
        run_uri: absolute run folder of all instances.
        data_uri: where the images are, if not where the recipe says.

    Raises:
        ConfigError: there is no such recipe, or its file is malformed.
    """

    def __init__(self, sweep: Sweep, run_uri: str, data_uri: str) -> None:
        self.sweep = sweep
        self.run_uri = run_uri
        self.data_uri = data_uri
        self.source = read_recipe(sweep.recipe)
        self.fingerprints: Fingerprints = {}
        # Of each trial; its part of this machine until ``with_cpus`` knows of a cluster.
        self.cpus = sweep.resources.cpus or max(1, usable_cpus() // (sweep.resources.concurrency or usable_cpus()))

    def with_cpus(self, cpus: int) -> Trials:
        """Return them with so many CPUs each."""
        other = copy.copy(self)
        other.cpus = cpus
        return other

    def with_seeds(self, seeds: tuple[int, ...]) -> Trials:
        """Return them with other seeds of the training."""
        other = copy.copy(self)
        other.sweep = self.sweep.model_copy(update={"seeds": seeds})
        return other

    def recipe(self, settings: Mapping[str, Any], seed: int) -> Recipe:
        """Return the recipe of a trial with its share of the machine; raise ConfigError if it cannot be."""
        return self.variant(settings).recipe(seed)

    def variant(self, settings: Mapping[str, Any]) -> Variant:
        """Return the settings of a trial, with its share of the machine."""
        return self._of(settings, self._resources())

    def chosen(self, settings: Mapping[str, Any], seed: int) -> Recipe:
        """Return the recipe of a trial with the whole machine, for people to run."""
        return self._of(settings, []).recipe(seed)

    def run(self, recipe: Recipe) -> Run:
        """Return a trial's recipe in the sweep's run folder."""
        return Run(recipe, self.run_uri, self.fingerprints)

    def key(self, settings: Mapping[str, Any]) -> str:
        """Return a key that settings share if they must give the same figures; invalid ones each have their own."""
        sweep = self.sweep
        keys: dict[str, Any] = {"measured": [*sweep.objectives, sweep.select_on, sweep.report_on]}
        for seed in sweep.seeds:
            try:
                run = self.run(self.recipe(settings, seed))
                keys[str(seed)] = {name: run.instance(name).key for name in sweep.targets}
            except ConfigError:
                return instance_key(settings)
        return instance_key(keys)

    def has(self, record_key: str, settings: Mapping[str, Any]) -> bool:
        """Whether a trial that was run once belongs to the sweep as it is now: its file may have changed since."""
        space = self.sweep.space
        return (
            settings.keys() == space.keys()
            and all(knob.contains(settings[name]) for name, knob in space.items())
            and self.key(settings) == record_key
        )

    @property
    def base(self) -> Recipe:
        """The recipe of some settings, on Ray with all its CPUs: what all trials share is what it shares with them.

        How much of the machine the recipe itself would take does not matter: the sweep says how trials divide it.
        """
        recipe = self.chosen(corners(self.sweep.space)[0], self.sweep.seeds[0])
        return recipe.model_copy(update={"resources": replace(recipe.resources, here=False, cpus=0)})

    def examples(self) -> Iterator[Recipe]:
        """Yield recipes that together show what trials do: of every extreme of every knob, and of what is compared."""
        for settings in (*corners(self.sweep.space), *self.sweep.compare.values()):
            yield self.chosen(settings, self.sweep.seeds[0])

    def shared(self) -> list[str]:
        """Return the instances that are the same for all trials, in the order in which they must run."""
        found: list[dict[str, str]] = []
        for settings in corners(self.sweep.space):
            for seed in self.sweep.seeds:
                try:
                    run = self.run(self.recipe(settings, seed))
                    found.append({n: run.instance(n).key for n in run.needed_for(*self.sweep.targets)})
                except ConfigError as error:
                    raise ConfigError(f"with {told(settings)}: {error}") from error
        return [name for name, key in found[0].items() if all(other.get(name) == key for other in found[1:])]

    def _of(self, settings: Mapping[str, Any], resources: Sequence[str]) -> Variant:
        items = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        return Variant(
            name="the sweep",
            source=self.source,
            overrides=(*self.sweep.overrides, *items, *resources),
            seeds=self.sweep.seeds,
            seeded=self.sweep.seeded,
            data_uri=self.data_uri,
        )

    def _resources(self) -> list[str]:
        gpus = self.sweep.resources.gpus
        # The recipe's own device is that of what trials share.
        items = [f"resources.cpus={self.cpus}", f"resources.device={'gpu' if gpus else 'cpu'}"]
        if gpus > 1:
            return [*items, f"resources.train_workers={gpus:.0f}"]
        # Actors and workers take longer to start than a small detector to learn. To a process with a share of a GPU it looks
        # like one.
        return [*items, "resources.here=true", f"resources.gpus_per_actor={math.ceil(gpus)}"]


def load_sweep(path_or_name: str, overrides: Sequence[str] = ()) -> Sweep:
    """Load a sweep and check it.

    Args:
        path_or_name: a YAML file, or the name of a shipped sweep.
        overrides: ``a.b=c`` items for all trials, after the file's own.

    Raises:
        ConfigError: no such sweep, malformed YAML, an unknown name, a value of the wrong type or range, parts that do not go
            together.
    """
    path = _find(path_or_name)
    given = {"name": path.stem, **read_mapping(path, "a sweep's fields")}
    beside = [folder / str(given.get("recipe")) for folder in (path.parent, Path.cwd())]
    # Trials run in processes that may have another working folder.
    given["recipe"] = next((str(file.resolve()) for file in beside if os.path.isfile(file)), given.get("recipe"))
    try:
        sweep = Sweep.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, f"sweep {path}", _fields_at)) from error
    sweep = sweep.model_copy(update={"overrides": (*sweep.overrides, *overrides)})
    _check_parts(sweep, str(path))
    return sweep


def check_recipes(trials: Trials, where: str) -> None:
    """Make the recipes of all listed settings, or else of every extreme of every knob, and of all settings to compare.

    Raises:
        ConfigError: a knob's name, type or range is wrong, values do not go together, or an objective knows nothing of a split.
    """
    sweep = trials.sweep
    base = trials.recipe({}, sweep.seeds[0])
    listed = combinations(sweep.space) <= _MOST_CHECKED
    for settings in every_combination(sweep.space) if listed else corners(sweep.space):
        _try(trials, settings, f"{where}: space")
    for label, settings in sweep.compare.items():
        _try(trials, settings, f"{where}: compare.{label}")
    for name in sweep.objectives:
        for field, split in (("select_on", sweep.select_on), ("report_on", sweep.report_on)):
            among = OBJECTIVES[name].splits(base, "select" if field == "select_on" else "report")
            for at, splits in among.items():
                if splits and split not in splits:
                    raise ConfigError(
                        f"{where}: {field}: expected one of the splits {', '.join(splits)} for {name} ({at} of recipe "
                        f"{sweep.recipe}), got {split}"
                    )


def whole_numbers(trials: Trials) -> dict[str, bool]:
    """Return for every knob whether its field holds whole numbers."""
    base = trials.recipe({}, trials.sweep.seeds[0])
    values = {name: value_at(base, name, f"space of {trials.sweep.name}") for name in trials.sweep.space}
    return {name: isinstance(value, int) and not isinstance(value, bool) for name, value in values.items()}


def shipped_sweeps() -> list[str]:
    """Return the names of the sweeps that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _try(trials: Trials, settings: Settings, where: str) -> None:
    """Raise ConfigError if no recipe accepts the settings, naming the one to blame if one alone is."""
    error = _refusal(trials, settings)
    if error is None:
        return
    for name, value in settings.items():
        if alone := _refusal(trials, {name: value}):
            raise ConfigError(f"{where}.{name}: {alone}") from alone
    raise ConfigError(f"{where}: {told(settings)}: {error}") from error


def _refusal(trials: Trials, settings: Settings) -> ConfigError | None:
    try:
        trials.recipe(settings, trials.sweep.seeds[0])
    except ConfigError as error:
        return error
    return None


def _check_parts(sweep: Sweep, where: str) -> None:
    def require(ok: bool, field: str, expected: str, got: Any) -> None:
        if not ok:
            raise ConfigError(f"{where}: {field}: expected {expected}, got {got}")

    for name in (sweep.objective, *sweep.also):
        check_objective(name, f"{where}: objective")
        unit = OBJECTIVES[name].unit
        require(
            unit == "%", "objective" if name == sweep.objective else "also", "a share", f"{name}, which is in {unit}"
        )
    require(OBJECTIVES[sweep.objective].more_is_better, "objective", "one of which more is better", sweep.objective)
    require(OBJECTIVES[sweep.objective].chooses, "objective", "one that is not reported alone", sweep.objective)
    require(bool(sweep.space), "space", "a field of the recipe with its values", "nothing")
    require(bool(sweep.seeds), "seeds", "a number or more", "nothing")
    require(sweep.select_on != sweep.report_on, "report_on", "another split than select_on", sweep.report_on)
    given = [path for item in sweep.overrides for path in leaves_of_override(item)]
    given += [
        path for name, knob in sweep.space.items() for value in knob.listed or [None] for path in leaves(name, value)
    ]
    given += [path for settings in sweep.compare.values() for of in settings.items() for path in leaves(*of)]
    owned = {**_OWN, **dict.fromkeys(sweep.seeded, "seeds")}
    for path in given:
        own = covering(path, owned)
        require(own is None, path, f"{owned.get(own or '')} of the sweep", "a value of the recipe")
    require(BEST not in sweep.compare, "compare", f"names other than {BEST}, which is the best trial's", BEST)
    gpus = sweep.resources.gpus
    require(
        gpus in _SHARES or gpus == int(gpus),
        "resources.gpus",
        f"a whole number or one of {', '.join(map(str, _SHARES))}",
        gpus,
    )
    # Their processes reserve nothing themselves: all would begin, and wait for each other's GPUs.
    require(gpus <= 1 or sweep.resources.concurrency > 0, "resources.concurrency", "a number with several GPUs each", 0)
    algorithm = sweep.search.algorithm
    if algorithm == "grid":
        for name, knob in sweep.space.items():
            require(bool(knob.listed), f"space.{name}", "listed values with search.algorithm=grid", "a range")
        require(sweep.search.trials == 0, "search.trials", "0 with search.algorithm=grid", sweep.search.trials)
    else:
        require(sweep.search.trials > 0, "search.trials", f"a number with search.algorithm={algorithm}", 0)
    if OBJECTIVES[sweep.objective].among_trials:
        one_by_one = algorithm == "optuna" or sweep.scheduler.name == "asha"
        require(not one_by_one, "objective", "one that a trial has alone, with optuna or asha", sweep.objective)
    if sweep.scheduler.name == "asha":
        known = [name for name, objective in OBJECTIVES.items() if objective.early is not None]
        require(sweep.objective in known, "objective", f"one of {', '.join(known)} with asha", sweep.objective)
        require(len(sweep.seeds) == 1, "seeds", "one seed with asha", sweep.seeds)
        # Workers elsewhere would go on when their trial is stopped.
        require(gpus <= 1, "resources.gpus", "one or less for each trial with asha", gpus)


def _fields_at(names: Sequence[str]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "search": Search, "scheduler": Scheduler, "resources": TrialResources, "budget": Budget,
    }  # fmt: skip
    model = parts.get(names[0], Knob) if names else Sweep
    return [field.alias or name for name, field in model.model_fields.items()]


def _find(name: str) -> Path:
    for candidate in (Path(name), _folder() / name, _folder() / f"{name}.yaml"):
        if os.path.isfile(candidate):  # of a name that no file can have, too
            return candidate.resolve()
    close = difflib.get_close_matches(name, shipped_sweeps(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"shipped sweeps: {', '.join(shipped_sweeps())}"
    raise ConfigError(f"no sweep {name!r:.200} as a file or by name; {hint}")


def _folder() -> Path:
    return shipped_folder() / "sweeps"
