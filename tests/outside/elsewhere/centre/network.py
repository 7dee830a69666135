"""A detector that finds one object, in the middle, and learns its class alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elsewhere.centre.options import CentreConfig
from weaksam.config import RetrainConfig
from weaksam.detectors.retrained.base import RetrainedDetector, Targets, TrainingLosses, ViewDetections


class Centre(RetrainedDetector):
    """See ``RetrainedDetector``."""

    options: CentreConfig

    def __init__(self, config: RetrainConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.head = nn.Linear(self.backbone.channels[-1], num_classes)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images)[-1].mean(dim=(2, 3)))
        return logits

    def training_losses(self, images: Tensor, sizes_hw: Tensor, targets: list[Targets], step: int) -> TrainingLosses:  # noqa: ARG002
        """See ``RetrainedDetector``."""
        wanted = torch.zeros(len(targets), self.num_classes, device=images.device)
        for row, target in zip(wanted, targets, strict=True):
            row[target.class_index] = 1
        return TrainingLosses({"class": F.binary_cross_entropy_with_logits(self._logits(images).float(), wanted)}, {})

    @torch.no_grad()
    def predict(self, images: Tensor, sizes_hw: Tensor) -> list[ViewDetections]:
        """See ``RetrainedDetector``."""
        found = []
        for scores, (height, width) in zip(self._logits(images).sigmoid().float(), sizes_hw.tolist(), strict=True):
            margin = (1 - self.options.fraction) / 2
            box = [width * margin, height * margin, width * (1 - margin), height * (1 - margin)]
            boxes = torch.tensor([box], device=images.device)
            found.append(ViewDetections(boxes, scores.argmax()[None], scores.max()[None]))
        return found
