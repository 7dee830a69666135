"""What a training's losses have been, so that thresholds of a loss drop can be left to them.

Losses are remembered until the drop begins; then, once, each threshold is set where the tail of its losses begins, and stays.
Everything is in buffers: a training that goes on from a checkpoint knows what it knew, and of several workers the first
decides for all, from the next step on, when its buffers are spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

REMEMBERED = 8192  # latest losses
FEWEST = 512  # before a threshold is set

# From losses to a threshold, as in ``pseudo_labels.thresholds``, and the one to take where all losses are the same.
Rule = tuple[Callable[[NDArray[np.floating]], float], float]


class LossHistory(nn.Module):
    """Remembers K losses of each instance and turns them into K thresholds.

    Args:
        rules: K of them.
    """

    losses: Tensor  # float32 [REMEMBERED, K]
    seen: Tensor  # int64 scalar, instances since the training began
    thresholds: Tensor  # float32 [K], NaN until they are set

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__()
        self._rules = tuple(rules)
        self.register_buffer("losses", torch.zeros(REMEMBERED, len(rules)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("thresholds", torch.full((len(rules),), torch.nan))

    @property
    def is_settled(self) -> bool:
        """Whether the thresholds are set."""
        return not bool(self.thresholds.isnan().any())

    @torch.no_grad()
    def look(self, losses: Tensor, *, begin: bool) -> None:
        """Remember the losses of a step, unless the thresholds are set; set them if it is time.

        Args:
            losses: ``[N, K]`` of the step's foreground; what is not finite is forgotten. N may be 0.
            begin: whether the drop is to begin.
        """
        if self.is_settled:
            return
        losses = losses[losses.isfinite().all(dim=1)].float()[-REMEMBERED:]
        places = (self.seen + torch.arange(len(losses), device=losses.device)) % REMEMBERED
        self.losses[places] = losses
        self.seen += len(losses)
        if begin:
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Set the thresholds by what is remembered, if that is ``FEWEST`` instances or more."""
        if int(self.seen) < FEWEST:
            return
        known = self.losses[: int(self.seen)].cpu().numpy()
        for n, (rule, otherwise) in enumerate(self._rules):
            try:
                self.thresholds[n] = rule(known[:, n])
            except ValueError:
                self.thresholds[n] = otherwise
