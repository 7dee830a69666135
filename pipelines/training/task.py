"""What a training is: its plan, the contract between the one training loop and the stages that use it, and its result.

A stage that trains (``train-classifier`` and later ones) supplies a ``TrainingTask``; ``loop.run_training`` does the
rest. Everything that a step does follows from (plan, step number), so that a checkpoint needs no generator state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weaksam.config.precision import TrainingPrecision
from weaksam.errors import ConfigError, RunError
from weaksam.random import derive_seed

Item = TypeVar("Item")


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite; training again from the last checkpoint would do so again."""


class PassTooLargeError(RunError):
    """A pass of so many images found no room in a worker's memory."""

    def __init__(self, images: int, why: str) -> None:
        super().__init__(f"a pass of {images} image(s) finds no room in memory ({why})")
        self.images = images
        self.why = why

    def __reduce__(self) -> tuple[type[PassTooLargeError], tuple[int, str]]:
        return PassTooLargeError, (self.images, self.why)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How much is trained and in which order: the part of a training that its result depends on."""

    images: int  # in the data set
    steps: int  # of every optimiser; ``steps_of`` counts those of whole epochs
    batch_size: int  # images per step over all workers and passes
    seed: int
    precision: TrainingPrecision = "fp32"
    max_grad_norm: float = 0.0  # clip the gradient's L2 norm to it; lower is stricter, 0 = never
    keep: tuple[int, ...] = ()  # steps done whose checkpoints are written and stay, beside the newest

    def __post_init__(self) -> None:
        for name in ("images", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training plan: expected {name} of 1 or more, got {getattr(self, name)}")

    def position(self, step: int) -> Position:
        """Where step number ``step`` (from 0) stands."""
        return Position(step, self.steps, step * self.batch_size / self.images)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The (epoch, image index) pairs of one step, over all workers.

        A step is a window of ``batch_size`` over the concatenated permutations of all epochs. It may span two epochs, and
        holds an image several times when the data set is smaller than the batch.
        """
        first = step * self.batch_size
        places = [divmod(n, self.images) for n in range(first, first + self.batch_size)]
        return [(epoch, int(_permutation(self.seed, epoch, self.images)[n])) for epoch, n in places]


class Schedule(Protocol):
    """Options of a training of which its plan is made."""

    @property
    def steps(self) -> int:
        """Of the optimiser; 0 = ``epochs`` decide."""

    @property
    def epochs(self) -> int:
        """Passes over the images."""

    @property
    def batch_size(self) -> int:
        """See ``TrainingPlan``, as of what follows."""

    @property
    def seed(self) -> int:
        """See there."""

    @property
    def precision(self) -> TrainingPrecision:
        """See there."""

    @property
    def max_grad_norm(self) -> float:
        """See there."""


def plan_of(config: Schedule, images: int) -> TrainingPlan:
    """Return the plan that options mean for so many images."""
    return TrainingPlan(
        images=images,
        steps=config.steps or steps_of(images, config.epochs, config.batch_size),
        batch_size=config.batch_size,
        seed=config.seed,
        precision=config.precision,
        max_grad_norm=config.max_grad_norm,
    )


def steps_of(images: int, epochs: int, batch_size: int) -> int:
    """Return the steps in which every image is seen ``epochs`` times, some once more to fill the last batch."""
    return math.ceil(images * epochs / batch_size)


def number_of_workers(batch_size: int, least: int, most: int) -> int:
    """Return the largest number of workers in [least, most] among whom a batch divides evenly; 0 if there is none."""
    return max((n for n in range(max(least, 1), most + 1) if batch_size % n == 0), default=0)


class Position(NamedTuple):
    """A point of the schedule: ``step`` of ``steps``, both in optimiser steps, and the epoch with its fraction."""

    step: int
    steps: int
    epoch: float


class Losses(NamedTuple):
    """What one pass says: scalars, always of the same names in one order.

    Each is a *mean* over the images of the pass (passes and workers are weighted by images).
    """

    losses: Mapping[str, Tensor]  # parts of the loss
    counts: Mapping[str, Tensor] = {}  # what is counted beside it: logged and not learnt from


class TrainingImage(Protocol):
    """One image to learn from."""

    @property
    def image_id(self) -> str:
        """Its name in every table."""

    @property
    def uri(self) -> str:
        """Where it is."""

    @property
    def content(self) -> str:
        """What it holds, see ``weaksam.io.contents``."""


class TrainingDataset(Protocol):
    """Training images by index. Loading must depend on its arguments alone."""

    @property
    def image_ids(self) -> Sequence[str]:
        """One id per image; their number is the plan's."""

    def load(self, index: int, epoch: int) -> Any:
        """Return one sample; raise ImageError for an image that cannot be used."""

    def collate(self, samples: list[Any]) -> Any:
        """Return the batch of one pass: tensors in any nesting of dicts, lists and tuples."""


class TrainingTask(Protocol):
    """What a stage trains. Small and picklable: it travels to the workers, which build the rest from it.

    A step has one *phase* per optimiser: the optimisers take turns on the same batch, each time from a forward pass of its
    own. In a phase only that optimiser's parameters require a gradient. One phase is the usual case; an adversary is a second.
    """

    @property
    def plan(self) -> TrainingPlan:
        """How much, in which order."""

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """The settings by which statistics of a pass enter its loss: a worker's share of a batch is then never cut up."""

    @property
    def images(self) -> Sequence[TrainingImage]:
        """What is learnt from, in the order that the plan counts through."""

    def build_model(self) -> nn.Module:
        """Return the network on the CPU with its initial weights; called under a fixed seed."""

    def build_optimizers(self, model: nn.Module) -> Sequence[torch.optim.Optimizer]:
        """Return one optimiser per phase, without a parameter in common; parameters of none are frozen.

        Each group's ``lr`` is what the factors below multiply.
        """

    def lr_factors(self, at: Position) -> Sequence[float]:
        """Return what the learning rates of each optimiser are multiplied with at one step."""

    def build_dataset(self) -> TrainingDataset:
        """Return the training images."""

    def losses(self, model: nn.Module, batch: Any, at: Position, phase: int) -> Losses:
        """Return what one pass of the step at ``at`` says; a phase's optimiser lowers the sum of its losses."""

    def evaluate(self, model: nn.Module, share: Share) -> float | None:
        """Return a score (higher is better) by which weights are selected, or None to keep the last ones.

        Every worker calls it and looks at its share of the images; together they give one score to all.
        """


def halved(too_large: PassTooLargeError, task: TrainingTask) -> int:
    """Return how many images a pass may have after one of ``too_large.images`` found no room.

    Raises:
        ConfigError: smaller passes would change what the task learns.
        RunError: it was one image.
    """
    if names := task.pass_statistics:
        raise ConfigError(
            f"{too_large}, and {', '.join(names)} takes statistics over all images that a worker sees in a step: expected room "
            "for them; train with more workers, a smaller batch, smaller images, or without it"
        ) from too_large
    if too_large.images == 1:
        raise RunError(f"{too_large}: train with smaller images, or with precision bf16") from too_large
    return too_large.images // 2


class Share(NamedTuple):
    """A worker's share of work that all do together: every ``world``-th of the items, from ``rank`` on."""

    rank: int = 0
    world: int = 1
    gather: Callable[[Any], list[Any]] = lambda mine: [mine]  # the value of every worker, in rank order

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this worker's items."""
        return items[self.rank :: self.world]

    def together(self, mine: Sequence[Any]) -> list[Any]:
        """Return what came of the items of all workers, in the order of all items, from what came of each of one's own."""
        parts = self.gather(list(mine))
        return [parts[n % self.world][n // self.world] for n in range(sum(map(len, parts)))]


ALONE = Share()


@dataclass(frozen=True, kw_only=True)
class TrainingResources:
    """Where and how a training runs. Changes speed and memory; weights only by the order of floating-point sums."""

    workers: int = 0  # processes under Ray Train, at most; 0 = this process, without Ray
    least_workers: int = 0  # that it begins and goes on with where there is no room for all; 0 = all of them
    use_gpu: bool = False  # one GPU per worker
    threads: int = 1  # of torch, per worker
    cpus: int = 1  # that Ray reserves per worker; threads and these are fewer where nodes have fewer
    # Images per forward and backward pass of a worker, at most; 0 = as many of its share of the batch as its GPU has room for.
    # On a CPU that is all of them, as where statistics of a pass enter the loss.
    images_per_pass: int = 0
    loader_processes: int | None = None  # per worker; 0 = it loads itself; None = on a GPU one for each other thread
    checkpoint_every: int = 0  # steps; 0 = a twentieth of the training
    # Restarts of the workers without a new checkpoint in between; those of lost nodes do not count.
    max_failures: int = 3
    wait_s: float = 0.0  # for room for the fewest workers; 0 = as long as it takes

    @property
    def least(self) -> int:
        """The fewest workers."""
        return self.least_workers or self.workers

    @property
    def loaders(self) -> int:
        """Image loading processes per worker."""
        if self.loader_processes is None:
            return self.threads - 1 if self.use_gpu else 0
        return self.loader_processes


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One row of the scalars: means since the row before. ``eta_s`` and ``images_per_s`` count this process's work alone."""

    step: int  # steps done
    steps: int
    epoch: float
    loss: float  # of the first phase: the sum of its parts
    losses: dict[str, float]  # these parts
    counts: dict[str, float] = field(default_factory=dict)  # of the first phase, per image
    lr: float  # of the first optimiser's first parameter group
    images_per_s: float
    eta_s: float


class Skipped(NamedTuple):
    """An image that could not be used; another one took its place in the batch."""

    image_id: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a finished training proves: the planned steps were done and the last checkpoint reads back."""

    steps_planned: int
    steps_done: int
    resumed_at: int  # steps that earlier runs had done
    seconds: float  # of this run
    model: dict[str, Tensor]  # weights after the last step
    best: dict[str, Any] | None  # {"score", "step", "model"} of the best evaluation, if the task evaluates
    skipped: list[Skipped]
    scalars: list[Progress]
    images_per_pass: int  # of a worker, at most: what was asked for, or its memory has room for; 0 = its share
    gpu_memory_mib: float | None  # the most that tensors of one worker took on its GPU; None on CPUs

    @property
    def text(self) -> str:
        """The line that a training stage ends with."""
        return f"steps planned {self.steps_planned:,} = done {self.steps_done:,} · checkpoint read back"


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(images)
