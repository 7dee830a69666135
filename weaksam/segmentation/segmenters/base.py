"""What segmenters share: label maps in, the probabilities of classes out.

A segmenter brings its network, its losses and its probabilities for one view. ``samples.py`` makes the views,
``inference.py`` joins what several views of an image say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from weaksam.config import SegmenterConfig, SegmenterNetworkConfig
from weaksam.networks.parameter_groups import parameter_groups
from weaksam.networks.pyramids import Pyramid, build_pyramid


class Segmenter(nn.Module, ABC):
    """A segmenter with random weights whose backbone may start from a classifier's."""

    backbone: Pyramid
    options: SegmenterNetworkConfig  # of the chosen segmenter

    def __init__(self, config: SegmenterConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.options = config.network
        self.num_classes = num_classes  # without background
        self.backbone = build_pyramid(config.backbone)
        self.backbone.freeze(config.freeze_stages, "freeze_stages")

    @abstractmethod
    def training_losses(self, images: Tensor, label_maps: Tensor) -> dict[str, Tensor]:
        """Compute the parts of the loss of a batch.

        Args:
            images: normalised views ``[B, 3, H, W]``, sides multiples of 32.
            label_maps: uint8 ``[B, H, W]``, see ``weaksam.label_maps``; ignored pixels teach as little as the loss allows.

        Returns:
            float32 scalars, weighted, always of the same names in the same order.
        """

    @abstractmethod
    def probabilities(self, images: Tensor) -> Tensor:
        """Return how probable each class is of each cell: float32 ``[B, C + 1, h, w]``, background first.

        Each cell sums to 1; the h x w cells cover the views evenly. Layers are in the mode that the module is in, and nothing
        is kept for gradients.

        Args:
            images: as in ``training_losses``.
        """

    def parameter_groups(self, config: SegmenterConfig) -> list[dict[str, Any]]:
        """Group what learns for an optimiser: the backbone at ``backbone_lr_factor`` times ``lr``, all else at ``lr``."""
        return parameter_groups(self, self.backbone, config)
