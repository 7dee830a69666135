"""Concrete DropBlock: an adversary hides the cells of a proposal by which it is recognised (method 4.5).

It looks at the pooled features, says for each cell how likely it is to seed a hidden block, and draws; the detector must
then recognise the rest. The two are trained in turn on the same batch: the detector descends on its loss, the adversary
on ``-loss_weight`` times it. The draw is hard, its gradient that of the Gumbel-softmax (straight through).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.config import DropBlockConfig


class ConcreteDropBlock(nn.Module):
    """The adversary over pooled features of ``channels``; the identity in evaluation mode.

    Its convolutions start as published, Kaiming normal by fan-out, which for two outputs is wide: many cells are hidden with
    nearly the largest or the smallest probability from the first step on.
    """

    def __init__(self, channels: int, config: DropBlockConfig) -> None:
        super().__init__()
        self.config = config
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 2, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(2),
        )
        self.shortcut = nn.Conv2d(channels, 2, kernel_size=1, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pooled: Tensor) -> Tensor:
        """Hide blocks of cells and scale the others up, over all proposals together, to the same mean.

        Args:
            pooled: float32 ``[N, channels, k, k]``.

        Returns:
            The same shape; as it came in evaluation mode or with N = 0.
        """
        if not self.training or len(pooled) == 0:
            return pooled
        hidden = F.max_pool2d(self.draw(pooled), self.config.size, stride=1, padding=self.config.size // 2)
        shown = 1 - hidden
        return pooled * shown * (shown.numel() / shown.sum().clamp(min=1))

    def seed_probability(self, pooled: Tensor) -> Tensor:
        """Return how likely each cell is to seed a hidden block: ``[N, 1, k, k]`` in [0, gamma / size²].

        No gradient reaches ``pooled``. Of the two channels the first one is read; published weights have the second.
        """
        detached = pooled.detach()
        logits: Tensor = self.block(detached) + self.shortcut(detached)
        return logits[:, :1].float().sigmoid() * (self.config.gamma / self.config.size**2)

    def draw(self, pooled: Tensor) -> Tensor:
        """Return drawn seeds, 0 or 1, ``[N, 1, k, k]``, with a gradient to the adversary."""
        float32 = torch.finfo(torch.float32)
        seed = self.seed_probability(pooled).clamp(float32.tiny, 1 - float32.eps)  # logarithms must be finite
        log_p = torch.cat([seed.log(), (-seed).log1p()], dim=1)
        drawn: Tensor = F.gumbel_softmax(log_p, tau=self.config.temperature, hard=True, dim=1)
        return drawn[:, :1]
