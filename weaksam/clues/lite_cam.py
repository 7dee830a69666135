"""Activation maps of EfficientNet-Lite, which starts from ImageNet and is small enough to be fine-tuned on a laptop.

The *coarse* map is the class activation map of its last features, at stride 32 (Zhou et al., CVPR 2016), as in
``resnet_cam.py``. A second class head looks at the features at stride 16 and learns from the same labels; the *fine* map is
its scores where the coarse map agrees, the product of both, which has edges where the one is only a blob and none of the
other's false alarms (as MCTformer weighs its patch scores).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.clues.base import ClueNetwork
from weaksam.config import LiteCamConfig
from weaksam.networks.efficientnet_lite import LITE_CHANNELS, LITE_CLASSIFIER_DIM, LiteTrunk, from_imagenet_pixels

_STRIDE_16 = 3  # place of those features among the stages'


class LiteCam(ClueNetwork):
    """EfficientNet-Lite with two 1x1 class heads, randomly initialised."""

    config: LiteCamConfig
    depth = 0
    smallest_side = 32

    def __init__(self, config: LiteCamConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.trunk = LiteTrunk(config.backbone, last=True)
        self.head = nn.Conv2d(LITE_CLASSIFIER_DIM, num_classes, kernel_size=1)
        self.fine_head = nn.Conv2d(LITE_CHANNELS[config.backbone][_STRIDE_16], num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """ImageNet-normalised images ``[B, 3, H, W]`` -> class scores at strides 32 and 16, ``[B, C, h, w]``, not rectified."""
        features = self.trunk.stage_features(from_imagenet_pixels(images))
        return self.head(self.trunk.classifier_features(features[-1])), self.fine_head(features[_STRIDE_16])

    def training_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of both heads' multi-label soft margin losses, and the class logits ``[B, C]`` of the first."""
        coarse, fine = (scores.float().mean(dim=(2, 3)) for scores in self(images))
        loss = F.multilabel_soft_margin_loss(coarse, targets) + F.multilabel_soft_margin_loss(fine, targets)
        return loss, coarse

    def classify(self, images: Tensor) -> Tensor:
        """Return class logits ``[B, C]``: the spatial mean of the scores at stride 32."""
        coarse, _ = self(images)
        return coarse.mean(dim=(2, 3))  # type: ignore[no-any-return]

    def activation_maps(
        self,
        images: Tensor,
        class_index: Sequence[int],
        kinds: Sequence[str],
        cross_layers: Sequence[int],  # noqa: ARG002  (no attention here)
    ) -> dict[str, Tensor]:
        """See ``ClueNetwork``; "coarse" at stride 32, "fine" at stride 16."""
        coarse, fine = (scores[:, list(class_index)].relu() for scores in self(images))
        where = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        maps = {"coarse": coarse, "fine": fine * where}
        return {kind: maps[kind][:, :, None] for kind in kinds}

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``ClueNetwork``; the same EfficientNet-Lite."""
        self.trunk.init_from(state, where)
