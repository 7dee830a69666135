"""What a stage is: the options that its instances have, what they read, and how to do the work.

Everything else (keys, plans, locks, what is finished already) is the same for all stages: see ``runner``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pipelines.engine.product import Facts, Product
from pipelines.engine.voice import SILENT, Voice
from pipelines.recipe.keys import inputs_of, method_of, weights_of
from pipelines.recipe.model import Recipe
from pipelines.store.instances import Instance
from pipelines.store.lock import WAIT_S, Lock
from pipelines.store.planned import CONTENT, LABELS, LABELS_DIFFICULT
from weaksam.config.weights import Weights
from weaksam.errors import ConfigError, RunError

if TYPE_CHECKING:
    from pipelines.training.task import Progress, TrainingTask

P = TypeVar("P", bound=Product[Any])
O_co = TypeVar("O_co", covariant=True)  # the options of an instance
O = TypeVar("O")  # noqa: E741


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line adds to a recipe; none of it can change a result."""

    dry_run: bool = False
    retry_dropped: bool = False
    max_dropped: str = "1%"  # a share of the images or a count
    address: str = ""  # of a Ray cluster; empty = RAY_ADDRESS, else this machine
    wait_s: float = WAIT_S  # how long to wait for a lock that another process holds


# Called in the driver for each row of a training's scalars: a sweep may give up on a hopeless training.
OnScalars = Callable[["Job[Any]", "TrainingTask", "Progress"], None]


@dataclass(frozen=True, kw_only=True)
class Job(Generic[O_co]):
    """One instance at work: what a stage's ``run`` gets."""

    options: O_co
    instance: Instance
    inputs: Mapping[str, Product[Any]]  # by instance name
    asked: Options
    lock: Lock
    voice: Voice = SILENT
    on_scalars: OnScalars | None = None

    def with_options(self, options: O) -> Job[O]:
        """Return the same job for a part of the stage that takes other options."""
        return Job(**{**vars(self), "options": options})

    def input(self, name: str, kind: type[P]) -> P:
        """Return what the instance ``name``, which this one reads, left behind.

        Raises:
            ConfigError: it is no such thing.
            RunError: it is not finished.
        """
        product = self.inputs.get(name)
        if product is None:
            raise RunError(f"{self.instance.name}: {name} is not finished; bring it up to date first")
        if not isinstance(product, kind):
            raise ConfigError(
                f"{self.instance.name}: expected {name} to be a {kind.__name__}, it is a {type(product).__name__}; let it read "
                "another instance"
            )
        return product


@dataclass(frozen=True, kw_only=True)
class ImagesRead:
    """Which images of the index an instance is computed from, and from which of their columns.

    A stage of rows has its key from neither: they decide which rows it is asked for. All others are computed from the set.
    """

    columns: tuple[str, ...] = (CONTENT, LABELS, LABELS_DIFFICULT)
    splits: tuple[str, ...] = ()  # empty = all
    granted: bool = False  # those alone that labels are granted to
    or_all: bool = False  # and all where labels are granted to none
    # Whether a table that is read must be of all these splits; otherwise what is made is of those that both are of.
    whole: bool = False


@dataclass(frozen=True)
class Content:
    """Data or weights from outside the run: what they are, and how their fingerprint is taken of that, which may take long."""

    what: Hashable
    take: Callable[[Any], str]  # of ``Weights``, the SHA-256 of their file


class WhenStopped(Enum):
    """What becomes of an instance once an earlier one has dropped too many images."""

    SKIP = "it is not brought up to date"
    MEASURE = "it is, if all that it reads is there"
    SHOW = "it is, with what is there"


class Stage(ABC, Generic[O]):
    """A verb of the pipeline; one object of it is registered in ``STAGES``."""

    verb: ClassVar[str]
    help: ClassVar[str]  # of `weaksam VERB`: what it does, in a sentence; further paragraphs say what its labels mean
    product: ClassVar[type[Product[Any]]]
    # What recipes say under the verb's name, a dataclass; None for stages of ours, whose sections ``Recipe`` lists, and for one
    # without options.
    section: ClassVar[type[Any] | None] = None
    revision: ClassVar[int] = 1  # raise it when the same options give another result: keys contain it
    loads_models: ClassVar[bool] = False  # so that the first result takes a while
    when_stopped: ClassVar[WhenStopped] = WhenStopped.SKIP
    # Whether an earlier instance of the name stays the current one until a new one is finished: for what comes from outside,
    # and may turn out not to be usable.
    replaces_when_finished: ClassVar[bool] = False

    @abstractmethod
    def options(self, recipe: Recipe, name: str) -> O:
        """Return all that the instance ``name`` depends on, a dataclass; ``recipe`` is what it sees (``Recipe.of``).

        Raises:
            ConfigError: options that do not go together.
        """

    def images(self, options: O) -> ImagesRead | None:  # noqa: ARG002
        """Return which images an instance is computed from, besides those that it reads other instances' rows of."""
        return ImagesRead()

    def makes_rows(self, options: O) -> bool:  # noqa: ARG002
        """Whether each row of its table depends on the rows of the same image alone, so that only new ones are computed."""
        return False

    def knows_classes(self, options: O) -> bool:  # noqa: ARG002
        """Whether the order of the classes matters: rows have class indices, or networks an output for each."""
        return True

    def trains_when_asked(self, options: O) -> bool:  # noqa: ARG002
        """Whether what it has learnt is used as it is when the images are other ones now, until --train-again."""
        return False

    def is_idle(self, recipe: Recipe, name: str) -> bool:  # noqa: ARG002
        """Whether the instance ``name`` has nothing to do, such as training a detector whose weights are given."""
        return False

    def measures_by_true_boxes(self, recipe: Recipe) -> bool:  # noqa: ARG002
        """Whether an instance that sees ``recipe`` may read true boxes, which the index then checks."""
        return False

    def measures_by_true_masks(self, recipe: Recipe) -> bool:  # noqa: ARG002
        """Whether an instance that sees ``recipe`` reads true masks as well, which the index then checks."""
        return False

    def measures_by_true_label_maps(self, recipe: Recipe) -> bool:  # noqa: ARG002
        """Whether an instance that sees ``recipe`` reads true label maps, some of which the index then checks."""
        return False

    def reads(self, options: O) -> tuple[str, ...]:
        """Return the names of the instances that are read."""
        return inputs_of(options)

    def method(self, options: O) -> Mapping[str, Any]:
        """Return as plain values what can change the result, besides what is read and ``contents``."""
        return method_of(options)

    def contents(self, options: O) -> Mapping[str, Content]:
        """Return the data and weights from outside the run that the result depends on, by name."""
        return {name: Content(weights, sha256_of) for name, weights in weights_of(options)}

    def check(self, options: O) -> None:
        """Build what shows whether the options go together; called before the first instance of a run begins its work.

        Raises:
            ConfigError: options that do not.
            CheckpointError: initial weights that are missing or of another network.
        """

    def describe(self, options: O) -> str:  # noqa: ARG002
        """Return what would be done, a line for --dry-run."""
        return ""

    @abstractmethod
    def run(self, job: Job[O]) -> Facts:
        """Do the work, and return what the manifest should say of it."""


def sha256_of(weights: Weights) -> str:
    """Return the SHA-256 of a weights file, fetched unless the recipe says it or it is published."""
    from weaksam.io.weights import published_sha256

    return weights.sha256 or published_sha256(weights.uri) or weights.fetch().sha256
