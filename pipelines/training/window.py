"""What a training says of itself between two rows of its scalars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.training.task import Progress, TrainingPlan


class Means(NamedTuple):
    """Of one step, over the images of all workers."""

    losses: dict[str, float]
    counts: dict[str, float]


class Window:
    """Means between two rows of the scalars."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._began = time.monotonic()
        self._reset()

    def add(self, means: Means, images: int) -> None:
        """Add a step of so many images."""
        self._means.append(means)
        self._images += images

    def close(self, done: int, plan: TrainingPlan, lr: float) -> Progress:
        """Return the row of the steps since the last one, up to step ``done``, and begin the next."""
        now = time.monotonic()
        losses, counts = (_mean(rows) for rows in zip(*self._means, strict=True))
        row = Progress(
            step=done,
            steps=plan.steps,
            epoch=done * plan.batch_size / plan.images,
            loss=sum(losses.values()),
            losses=losses,
            counts=counts,
            lr=lr,
            images_per_s=self._images / max(now - self._since, 1e-9),
            eta_s=(now - self._began) / (done - self._start) * (plan.steps - done),
        )
        self._reset()
        return row

    def _reset(self) -> None:
        self._means: list[Means] = []
        self._images = 0
        self._since = time.monotonic()


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
