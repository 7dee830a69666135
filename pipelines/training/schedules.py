"""Learning rates as functions of the position in a training: steps or a polynomial, after a linear warm-up."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.training.task import Position

MOMENTUM = 0.9  # of SGD, in all published schedules


def milestones_passed(at: Position, milestones: Sequence[float], length: int) -> int:
    """Return how many of the milestones lie behind a step.

    Args:
        at: the step.
        milestones: below 1 shares of the training, else in the unit of ``length``.
        length: of the whole training, in steps or epochs.
    """
    return sum(at.step >= (m * at.steps if m < 1 else m * at.steps / length) for m in milestones)


def warmed_up(step: int, warmup_steps: int, first: float) -> float:
    """Return the factor of a linear warm-up from ``first`` at step 0 to 1 at ``warmup_steps``."""
    return min(1.0, first + (1 - first) * step / warmup_steps) if warmup_steps else 1.0


def poly(at: Position, power: float) -> float:
    """Return the factor that falls from 1 at the first step towards 0: the share of the training that is left, to a power."""
    left: float = (1 - at.step / at.steps) ** power
    return left
