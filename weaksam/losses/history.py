"""What a training's losses have been, so that thresholds of a loss drop can be left to them.

Losses are remembered until the drop begins; then, once, each threshold is set where the tail of its losses begins, and stays.
Everything is in buffers: a training that goes on from a checkpoint knows what it knew, and of several workers the first
decides for all, from the next step on, when its buffers are spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weaksam.config import QueryDropConfig, RoiDropConfig

REMEMBERED = 8192  # latest losses
FEWEST = 512  # before a threshold is set

# From losses to a threshold, as in ``pseudo_labels.thresholds``, and the one to take where all losses are the same.
Rule = tuple[Callable[[NDArray[np.floating]], float], float]
Drop = TypeVar("Drop", bound=RoiDropConfig | QueryDropConfig)


def history_of(drop: Drop, rules: Mapping[str, Rule]) -> LossHistory[Drop] | None:
    """Return what chooses the thresholds that a drop leaves to its losses; None where it leaves none, or is off."""
    is_open = drop.enabled and any(getattr(drop, option) == "auto" for option in rules)
    return LossHistory(drop, rules) if is_open else None


class LossHistory(nn.Module, Generic[Drop]):
    """Remembers K losses of each instance and turns them into K thresholds of a drop.

    Args:
        drop: the drop's options, some of whose thresholds are "auto".
        rules: option -> how its threshold is chosen; K of them, in the order of the losses.
    """

    losses: Tensor  # float32 [REMEMBERED, K]
    seen: Tensor  # int64 scalar, instances since the training began
    thresholds: Tensor  # float32 [K], NaN until they are set

    def __init__(self, drop: Drop, rules: Mapping[str, Rule]) -> None:
        super().__init__()
        self._drop = drop
        self._rules = dict(rules)
        self.register_buffer("losses", torch.zeros(REMEMBERED, len(rules)))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("thresholds", torch.full((len(rules),), torch.nan))

    @property
    def is_settled(self) -> bool:
        """Whether the thresholds are set."""
        return not bool(self.thresholds.isnan().any())

    def chosen(self) -> dict[str, float]:
        """Return the thresholds that are set, by the options that are "auto"; empty until then."""
        values = dict(zip(self._rules, self.thresholds.tolist(), strict=True)) if self.is_settled else {}
        return {option: value for option, value in values.items() if getattr(self._drop, option) == "auto"}

    def in_numbers(self) -> Drop:
        """Return the drop's options in numbers; a threshold that is not set yet is one that nothing exceeds."""
        chosen = self.chosen()
        is_open = {option: way for option, way in self._rules.items() if getattr(self._drop, option) == "auto"}
        changes: dict[str, Any] = {option: chosen.get(option, otherwise) for option, (_, otherwise) in is_open.items()}
        return replace(self._drop, **changes)

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
        for n, (rule, otherwise) in enumerate(self._rules.values()):
            try:
                self.thresholds[n] = rule(known[:, n])
            except ValueError:
                self.thresholds[n] = otherwise
