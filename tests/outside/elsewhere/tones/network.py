"""A segmenter that looks at the tone of each cell alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elsewhere.tones.options import TonesConfig
from weaksam.config import SegmenterConfig
from weaksam.segmentation.losses import pixel_cross_entropy
from weaksam.segmentation.segmenters.base import Segmenter


class Tones(Segmenter):
    """See ``Segmenter``."""

    options: TonesConfig

    def __init__(self, config: SegmenterConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.of_tone = nn.Conv2d(3, num_classes + 1, 1)

    def training_losses(self, images: Tensor, label_maps: Tensor) -> dict[str, Tensor]:
        """See ``Segmenter``."""
        return {"pixels": pixel_cross_entropy(self.of_tone(images * self.options.contrast), label_maps).mean()}

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """See ``Segmenter``."""
        logits: Tensor = self.of_tone(F.avg_pool2d(images, 4) * self.options.contrast)
        return logits.softmax(dim=1)
