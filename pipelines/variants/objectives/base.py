"""What an objective is: a figure that is read from what one instance of a finished run left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.evaluate.detections import MeasuredImage
from pipelines.products.measured import Evaluation
from pipelines.recipe.model import Recipe, verb_of
from pipelines.runner import Run
from pipelines.store.instances import Instance

Part = Literal[
    "select", "report"
]  # of a sweep: the images that trials are compared on, and those that figures are told of
Unit = Literal["%", "points", "boxes", "images", "s", "MiB"]  # of "%", values are shares in [0, 1]
Values = Mapping[str, float | None]  # images -> value, None where there was nothing to measure
ALL_IMAGES = ""  # in the place of a split, for what is no figure of some images
TRAINING_IMAGES, NO_IMAGES = "the training images", "no images"  # in ``Objective.parts``


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an objective is read from."""

    run: Run  # whose instance is finished
    name: str  # of that instance
    notes: list[str] = field(default_factory=list)  # what people must know of the value; readers add to it

    @property
    def instance(self) -> Instance:
        """The instance itself."""
        return self.run.instance(self.name)

    @property
    def seconds(self) -> float:
        """How long its last run took."""
        return float((self.instance.manifest() or {})["seconds"])

    def metrics(self) -> dict[str, Any]:
        """Return what an instance of ``evaluate`` measured."""
        return Evaluation(self.instance).read()


@dataclass(frozen=True, kw_only=True)
class EarlyDetections:
    """What a detector that is still learning finds in one split."""

    recipe: Recipe
    split: str
    class_names: Sequence[str]
    images: Sequence[MeasuredImage]


Splits = Mapping[str, tuple[str, ...]]  # field of a recipe -> the splits that it names, () = all


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One figure of a setting: a column of a table, or what a sweep compares its trials by."""

    what: str  # for people
    instance: str  # name of the stage instance that holds it
    read: Callable[[Reading], Values]
    unit: Unit = "%"
    more_is_better: bool = True
    label_free: bool = False  # knows no true box
    seeded: bool = False  # another with each seed of what a sweep trains
    among_trials: bool = False  # known of the trials of a sweep together, of none alone: see ``tune.ranks``
    early: Callable[[EarlyDetections], float | None] | None = None  # None: known at the end only
    # What a sweep selects and reports on, where that is no split.
    parts: tuple[str, str] | None = None
    # The fields of a recipe among whose splits that of a part must be, for the figure to be known there; ConfigError where the
    # recipe does not measure it at all.
    limits: Callable[[Recipe, str, Part], Splits] = field(default=lambda _recipe, _instance, _part: {})

    @property
    def chooses(self) -> bool:
        """Whether it is known of the images that trials are compared on."""
        return self.parts is None or self.parts[0] != NO_IMAGES

    def images(self, part: Part, split: str) -> str:
        """Return which images the figure of a part is of, where the split of that part is ``split``."""
        return split if self.parts is None else self.parts[("select", "report").index(part)]

    def of_part(self, values: Values, part: Part, split: str) -> float | None:
        """Return the figure of a part: that of its images, or else that of all, where there is one of all alone."""
        return values.get(self.images(part, split), values.get(ALL_IMAGES))

    def splits(self, recipe: Recipe, part: Part, instance: str = "") -> Splits:
        """Return the fields of a recipe among whose splits (() = all) that of a part must be for this to be known there.

        ``instance`` is what the figure is read from, if not the objective's own. Raises ConfigError if the recipe does not
        measure it.
        """
        found = self.limits(recipe, instance or self.instance, part)
        return {"data.splits": recipe.data.splits, **found} if found else {}


def figure_of(measured: Mapping[str, Any], row: str, figure: str) -> float | None:
    """Return a figure of one of the rows that were measured; None where it was not."""
    return next((found[figure] for found in measured["rows"] if found["name"] == row), None)


def splits_of_detections(recipe: Recipe, detected: str) -> Splits:
    """Return the fields that say which splits an instance of ``detect`` is of."""
    options = recipe.of(detected).detect
    if verb_of(options.model) == "retrain":
        return {"retrain.test.splits": options.splits}
    return {"detect.splits": options.splits, "propose.splits": recipe.propose.splits}
