"""The phases of a step: one optimiser's turn each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipelines.training.task import Losses, Position, TrainingTask


class PhaseLosses(nn.Module):
    """The task's losses in one phase as a module, since DistributedDataParallel watches nothing but ``forward``."""

    def __init__(self, task: TrainingTask, model: nn.Module, phase: int) -> None:
        super().__init__()
        self.task = task
        self.model = model
        self.phase = phase

    def forward(self, batch: Any, at: Position) -> Losses:
        """Return what the task says of a batch."""
        return self.task.losses(self.model, batch, at, self.phase)


class Phase:
    """One optimiser's turn in every step."""

    def __init__(self, optimizer: torch.optim.Optimizer, losses: PhaseLosses, world: int) -> None:
        self.optimizer = optimizer
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.module: nn.Module = losses
        self._model = losses.model
        if world > 1:
            self.begin()  # the wrapper looks after the parameters that require a gradient when it is made
            # A network may hold parameters that a step does not reach: WeakTr's last norm, a head without positives.
            self.module = nn.parallel.DistributedDataParallel(losses, find_unused_parameters=True)

    def begin(self) -> None:
        """Let this optimiser's parameters learn and no others, so that another phase's backward pass skips them."""
        learning = set(self.parameters)
        for parameter in self._model.parameters():
            parameter.requires_grad_(parameter in learning)
