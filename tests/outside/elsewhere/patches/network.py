"""A network that scores patches, each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from elsewhere.patches.options import PatchesConfig
from weaksam.clues.base import ClueNetwork
from weaksam.io.state_dicts import load_strictly


class Patches(ClueNetwork):
    """One convolution from patches to classes."""

    config: PatchesConfig
    depth = 0

    def __init__(self, config: PatchesConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes, self.smallest_side = config, num_classes, config.side
        self.scores = nn.Conv2d(3, num_classes, config.side, stride=config.side)

    def classify(self, images: Tensor) -> Tensor:
        """The mean over all patches."""
        scores: Tensor = self.scores(images)
        return scores.mean(dim=(2, 3))

    def training_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ClueNetwork``."""
        logits = self.classify(images)
        return F.multilabel_soft_margin_loss(logits, targets), logits

    def activation_maps(
        self,
        images: Tensor,
        class_index: Sequence[int],
        kinds: Sequence[str],
        cross_layers: Sequence[int],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """See ``ClueNetwork``."""
        return {kind: self.scores(images)[:, list(class_index), None].relu() for kind in kinds}

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``ClueNetwork``."""
        load_strictly(self.scores, state, where=where)
