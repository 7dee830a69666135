"""Which images a worker sees in which pass, and how they are loaded."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipelines.training.task import Skipped, TrainingDataset, TrainingPlan
from weaksam.errors import DataError, ImageError

_REPLACEMENTS = 20  # unreadable images in a row after which the data set is at fault


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """One worker's passes from step ``start`` to the end, as lists of (epoch, image index).

    Worker ``rank`` of ``world`` takes every ``world``-th image of a step, so the images of a step are the same for every number
    of workers. Its share is cut into passes of at most ``images_per_pass`` images whose sizes differ by one at most.
    """

    def __init__(self, plan: TrainingPlan, *, rank: int, world: int, images_per_pass: int, start: int) -> None:
        self.plan = plan
        self.rank = rank
        self.world = world
        self.start = start
        self.share = plan.batch_size // world
        self.passes = math.ceil(self.share / images_per_pass) if images_per_pass else 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        cuts = [self.share * n // self.passes for n in range(self.passes + 1)]
        for step in range(self.start, self.plan.steps):
            mine = self.plan.batch(step)[self.rank :: self.world]
            for first, last in itertools.pairwise(cuts):
                yield mine[first:last]

    def __len__(self) -> int:
        return (self.plan.steps - self.start) * self.passes


class Batch(NamedTuple):
    """What a loader gives for one pass."""

    inputs: Any
    image_ids: list[str]
    skipped: list[Skipped]


class _Samples(Dataset[tuple[Any, str, list[Skipped]]]):
    """A task's images by (epoch, index), with the next readable image in the place of one that cannot be used."""

    def __init__(self, dataset: TrainingDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, str, list[Skipped]]:
        epoch, index = key
        ids = self._dataset.image_ids
        skipped: list[Skipped] = []
        for n in range(_REPLACEMENTS):
            place = (index + n) % len(ids)
            try:
                return self._dataset.load(place, epoch), ids[place], skipped
            except ImageError as error:
                skipped.append(Skipped(ids[place], error.reason, error.detail))
        raise DataError(
            f"{_REPLACEMENTS} training images in a row cannot be used, {ids[index]!r} ({skipped[0].reason}: "
            f"{skipped[0].detail}) and those after it; check that the data are where the images table says"
        )

    def collate(self, samples: list[tuple[Any, str, list[Skipped]]]) -> Batch:
        inputs, ids, skipped = zip(*samples, strict=True)
        return Batch(self._dataset.collate(list(inputs)), list(ids), [row for rows in skipped for row in rows])


def loader_of(
    dataset: TrainingDataset, batches: GlobalBatches, processes: int, device: torch.device
) -> DataLoader[tuple[Any, str, list[Skipped]]]:
    """Return a loader of the batches' images in their order; with no ``processes`` its reader loads them itself."""
    samples = _Samples(dataset)
    return DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=samples.collate,
        num_workers=processes,
        worker_init_fn=_leave_interrupts_to_parent,
        pin_memory=device.type == "cuda",
    )


def _leave_interrupts_to_parent(_worker: int) -> None:
    """Ignore what a terminal sends to loading processes, too, on Ctrl-C and when it is closed: their parent ends them."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with which it does so, and for which it has a handler


def to_device(value: Any, device: torch.device) -> Any:
    """Return a nesting of tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: to_device(entry, device) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        moved = [to_device(entry, device) for entry in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)  # a named tuple, or not
    return value
