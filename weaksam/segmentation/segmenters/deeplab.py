"""DeepLab v3+ (Chen et al., ECCV 2018) on the backbones of our detectors, small enough for a laptop.

    backbone ─► maps of stride 16 and 32 (8 where there are no coarser ones), side by side ─► ASPP ─► enlarged ─┐
            └─► map of stride 4 ─► fewer channels ──────────────────────────────────────────────────────────────┴─► class

The last stage of the published backbone is dilated to stride 16; here its map of stride 32 is enlarged, which costs a quarter.
Layers are normalised by groups of channels and not by batch: a step sees too few images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.config import DeepLabConfig, SegmenterConfig
from weaksam.segmentation.losses import balanced_cross_entropy, pixel_cross_entropy
from weaksam.segmentation.segmenters.base import Segmenter

_COARSE = 16  # pixels per cell of the maps that are pooled, where the backbone has such
_GROUPS = 8  # of channels that are normalised together
_LOSSES = {"balanced": balanced_cross_entropy, "pixels": pixel_cross_entropy}  # by DeepLabConfig.loss


class DeepLab(Segmenter):
    """See the module."""

    options: DeepLabConfig

    def __init__(self, config: SegmenterConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        own, backbone = self.options, self.backbone
        coarse = min(_COARSE, backbone.strides[-1])
        self._coarse = [n for n, stride in enumerate(backbone.strides) if stride >= coarse]
        channels = sum(backbone.channels[n] for n in self._coarse)
        self.pooling = SpatialPyramidPooling(channels, own.dim, own.rates)
        self.fine = convolution(backbone.channels[0], own.fine_dim, 1)
        self.decoder = nn.Sequential(
            convolution(own.dim + own.fine_dim, own.dim, 3), convolution(own.dim, own.dim, 3), nn.Dropout2d(own.dropout)
        )
        self.classify = nn.Conv2d(own.dim, num_classes + 1, 1)

    def training_losses(self, images: Tensor, label_maps: Tensor) -> dict[str, Tensor]:
        """See ``Segmenter``; "pixels" is the mean over the images of ``DeepLabConfig.loss``."""
        logits = self(images).float()
        enlarged = F.interpolate(logits, label_maps.shape[1:], mode="bilinear", align_corners=False)
        return {"pixels": _LOSSES[self.options.loss](enlarged, label_maps).mean()}

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """See ``Segmenter``."""
        logits: Tensor = self(images)
        return logits.float().softmax(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised views ``[B, 3, H, W]``, sides multiples of 32 -> logits ``[B, C + 1, H / 4, W / 4]``."""
        maps = self.backbone(images)
        coarse = [maps[n] for n in self._coarse]
        pooled = self.pooling(torch.cat([_enlarged(one, coarse[0]) for one in coarse], dim=1))
        features = torch.cat([_enlarged(pooled, maps[0]), self.fine(maps[0])], dim=1)
        logits: Tensor = self.classify(self.decoder(features))
        return logits


class SpatialPyramidPooling(nn.Module):
    """What surrounds each cell, at several distances: dilated convolutions, the cell itself and the mean of the view."""

    def __init__(self, channels: int, dim: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [convolution(channels, dim, 1), *(convolution(channels, dim, 3, rate) for rate in rates)]
        )
        self.whole = convolution(channels, dim, 1)
        self.join = convolution((len(rates) + 2) * dim, dim, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``[B, channels, h, w]`` -> ``[B, dim, h, w]``."""
        whole = self.whole(maps.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *maps.shape[2:])
        joined: Tensor = self.join(torch.cat([*(branch(maps) for branch in self.branches), whole], dim=1))
        return joined


def convolution(channels: int, dim: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, normalised by groups of channels, with ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, dim, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False),
        nn.GroupNorm(_GROUPS, dim),
        nn.ReLU(inplace=True),
    )


def _enlarged(maps: Tensor, to: Tensor) -> Tensor:
    return F.interpolate(maps, to.shape[2:], mode="bilinear", align_corners=False)
