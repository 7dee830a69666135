"""What a sweep varies: the values that one field of the recipe may take.

pseudo_labels.tau_s: [0.1, 0.3, 0.5]                  the same as {grid: [0.1, 0.3, 0.5]}
pseudo_labels.tau_o: {uniform: [0.7, 1.0]}
retrain.lr: {log_uniform: [1e-4, 1e-2]}
retrain.detector: {choice: [faster_rcnn, dino]}       as a grid; where settings are drawn, all equally likely
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Settings = dict[str, Any]  # of one trial: dotted name of a recipe's field -> value


class Knob(BaseModel):
    """The values of one field: exactly one way of giving them is used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grid: tuple[Any, ...] = ()  # each of them
    choice: tuple[Any, ...] = ()  # one of them, all equally likely
    uniform: tuple[int | float, int | float] | None = None  # from the first to the second, both included
    log_uniform: tuple[int | float, int | float] | None = None  # its logarithm is uniform; both above 0

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, given: Any) -> Any:
        given = {"grid": given} if isinstance(given, list) else given
        if not isinstance(given, dict):
            return given
        return {name: tuple(values) if isinstance(values, list) else values for name, values in given.items()}

    @model_validator(mode="after")
    def _one_way(self) -> Knob:
        ways = [name for name in type(self).model_fields if getattr(self, name)]
        if len(ways) != 1:
            raise ValueError(f"expected one of grid, choice, uniform, log_uniform with values, got {ways or 'none'}")
        for low, high in (pair for pair in (self.uniform, self.log_uniform) if pair):
            if not all(-sys.float_info.max <= end <= sys.float_info.max for end in (low, high)):
                raise ValueError(f"{ways[0]}: expected two finite numbers within the range of floats")
            if not low < high or (self.log_uniform and low <= 0):
                above = "0 < " if self.log_uniform else ""
                raise ValueError(f"{ways[0]}: expected {above}low < high, got {low:g} and {high:g}")
        return self

    @property
    def listed(self) -> tuple[Any, ...]:
        """The values, where they are listed."""
        return self.grid or self.choice

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values such that, if a recipe accepts them, it accepts all."""
        return self.listed or self.uniform or self.log_uniform or ()

    def contains(self, value: Any) -> bool:
        """Whether it is one of the values."""
        bounds = self.uniform or self.log_uniform
        if bounds is None:
            return value in self.listed
        return isinstance(value, (int, float)) and not isinstance(value, bool) and bounds[0] <= value <= bounds[1]

    def draw(self, generator: random.Random, *, whole: bool) -> Any:
        """Return one value; a whole number between the bounds if ``whole``."""
        if self.listed:
            return generator.choice(self.listed)
        if self.uniform:
            low, high = self.uniform
            return generator.randint(math.ceil(low), math.floor(high)) if whole else generator.uniform(low, high)
        assert self.log_uniform is not None
        low, high = self.log_uniform
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
        return round(min(max(value, low), high)) if whole else min(max(value, low), high)

    def distribution(self, *, whole: bool) -> BaseDistribution:
        """Return it as Optuna draws from it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.listed:
            return CategoricalDistribution(self.listed)
        low, high = self.uniform or self.log_uniform or (0.0, 0.0)
        if whole:
            return IntDistribution(math.ceil(low), math.floor(high), log=self.uniform is None)
        return FloatDistribution(low, high, log=self.uniform is None)


def short(value: Any) -> str:
    """Return a knob's value as people read it."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headings(names: Iterable[str]) -> dict[str, str]:
    """Return for each dotted name its shortest end that no other of them has: ``tau_s`` of ``pseudo_labels.tau_s``."""
    ends = {name: [name.split(".")[-n:] for n in range(1, name.count(".") + 2)] for name in names}
    taken = Counter(tuple(end) for of_name in ends.values() for end in of_name)
    return {
        name: ".".join(next((end for end in of_name if taken[tuple(end)] == 1), of_name[-1]))
        for name, of_name in ends.items()
    }


def told(settings: Settings) -> str:
    """Return settings on one line."""
    heads = headings(settings)
    return " ".join(f"{heads[name]}={short(value)}" for name, value in settings.items())


def combinations(space: Mapping[str, Knob]) -> float:
    """Return how many settings there are, infinite if one is drawn from a range."""
    return math.prod(len(knob.listed) or math.inf for knob in space.values())


def every_combination(space: Mapping[str, Knob]) -> list[Settings]:
    """Return the full grid, the last knob varying fastest; all values must be listed."""
    return [
        dict(zip(space, values, strict=True)) for values in itertools.product(*(knob.listed for knob in space.values()))
    ]


def drawn(space: Mapping[str, Knob], whole: Mapping[str, bool], seed: int) -> Iterator[Settings]:
    """Yield settings without end, the same for the same seed."""
    generator = random.Random(seed)  # nothing here is secret
    while True:
        yield {name: knob.draw(generator, whole=whole[name]) for name, knob in space.items()}


def corners(space: Mapping[str, Knob]) -> list[Settings]:
    """Return settings that together hold every extreme of every knob: what they share, all trials share."""
    base = {name: knob.extremes[0] for name, knob in space.items()}
    others = [base | {name: value} for name, knob in space.items() for value in knob.extremes[1:]]
    return [base, *others]
