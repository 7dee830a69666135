"""Learning rates as functions of the position in a training: step schedules with a linear warm-up."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.training import Position

MOMENTUM = 0.9  # of SGD, in all published schedules


def milestones_passed(at: Position, milestones: Sequence[float]) -> int:
    """Return how many of the milestones, shares of the training, lie behind a step."""
    return sum(at.step >= milestone * at.steps for milestone in milestones)


def warmed_up(step: int, warmup_steps: int, first: float) -> float:
    """Return the factor of a linear warm-up from ``first`` at step 0 to 1 at ``warmup_steps``."""
    return min(1.0, first + (1 - first) * step / warmup_steps) if warmup_steps else 1.0
