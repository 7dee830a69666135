"""Backbones with several feature maps, for the detectors that are retrained on pseudo ground truth.

A backbone is named by its architecture and by how its weights want their pixels, as in ``roi_backbones.py``:

    resnet50.torchvision  strides 4, 8, 16, 32   256, 512, 1024, 2048 channels; batch norms are frozen
    small                 strides 4, 8           64, 128 channels; the small CNN stem, batch norms at rest

Their weights come from a classifier. A detector that was trained on true boxes would carry full supervision into a weakly
supervised one, so that its state dict is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from weaksam.config import require
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import load_strictly
from weaksam.networks.roi_backbones import IMAGENET, SMALL_STAGES, SMALL_STEM_DIM, PixelFormat
from weaksam.networks.small_stem import SmallCnnStem

# Parts of names in state dicts of detectors: torchvision, detectron2, mmdetection, DETR and its kin.
_OF_DETECTORS = (
    "rpn.",
    "rpn_head.",
    "roi_heads.",
    "roi_head.",
    "bbox_head.",
    "bbox_embed.",
    "class_embed.",
    "transformer.",
)


class Backbone(nn.Module, ABC):
    """Images in, feature maps from fine to coarse out."""

    strides: tuple[int, ...]  # pixels per cell of each map
    channels: tuple[int, ...]  # of each map
    pixels: PixelFormat = IMAGENET

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images ``[B, 3, H, W]``, sides multiples of 32 -> maps ``[B, channels, H / stride, W / stride]``."""

    @abstractmethod
    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """Return the layers stage by stage, the stem first."""

    @abstractmethod
    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """Start from the state dict of a classifier of this architecture, whose class layer is dropped.

        Raises:
            CheckpointError: it is a detector's, or keys or shapes do not fit, naming them.
        """

    def freeze(self, stages: int) -> None:
        """Let the first ``stages`` stages not learn.

        Raises:
            ConfigError: there are fewer of them.
        """
        own = self.stages()
        require(0 <= stages <= len(own), "retrain.freeze_stages", f"0..{len(own)} for this backbone", stages)
        for layer in (layer for stage in own[:stages] for layer in stage):
            layer.requires_grad_(False)


class ResNetBackbone(Backbone):
    """torchvision's ResNet-50, the ends of its four stages."""

    strides = (4, 8, 16, 32)
    channels = (256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.network = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        del self.network.avgpool, self.network.fc

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``Backbone``."""
        maps: list[Tensor] = []
        for stage in self.stages():
            for layer in stage:
                images = layer(images)
            maps.append(images)
        return maps[1:]

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Backbone``; the stem, then layer1 to layer4."""
        n = self.network
        return [[n.conv1, n.bn1, n.relu, n.maxpool], [n.layer1], [n.layer2], [n.layer3], [n.layer4]]

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Backbone``; torchvision's names."""
        refuse_detectors(state, where)
        own = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith(".num_batches_tracked")}
        load_strictly(self.network, own, where=where)


class SmallBackbone(Backbone):
    """The small CNN stem at strides 4 and 8."""

    strides = (4, 8)
    channels = (64, SMALL_STEM_DIM)

    def __init__(self) -> None:
        super().__init__()
        self.stem = SmallCnnStem(SMALL_STEM_DIM)
        for layer in self.stem.layers:
            if isinstance(
                layer, nn.Conv2d
            ):  # the batch norms are at rest: random weights must keep the scale themselves
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def train(self, mode: bool = True) -> SmallBackbone:
        """Leave the stem's batch norms in evaluation mode: a step sees too few images to measure them."""
        super().train(mode)
        self.stem.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``Backbone``."""
        cut = SMALL_STAGES[2]
        fine = self.stem.layers[:cut](images.contiguous(memory_format=torch.channels_last))
        return [fine, self.stem.layers[cut:](fine)]

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Backbone``; the layers at strides 2, 4 and 8."""
        bounds = pairwise(SMALL_STAGES)
        return [list(self.stem.layers[start:end]) for start, end in bounds]

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Backbone``; the state of a ``SmallCnnClassifier``."""
        refuse_detectors(state, where)
        own = {k.removeprefix("stem."): v for k, v in state.items() if not k.startswith("head.")}
        load_strictly(self.stem, own, where=where)


def build_backbone(name: str) -> Backbone:
    """Return the backbone of that name (``RetrainConfig.backbone``) with random weights."""
    return SmallBackbone() if name == "small" else ResNetBackbone()


def pixel_format(name: str) -> PixelFormat:
    """Return the input that the weights of a backbone want, without building it."""
    return (SmallBackbone if name == "small" else ResNetBackbone).pixels


def refuse_detectors(state: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError if a state dict is a detector's."""
    marks = sorted({part for key in state for part in _OF_DETECTORS if f".{part}" in f".{key}"})
    if marks:
        raise CheckpointError(
            f"{where}: expected weights of an image classifier, got those of a detector (keys with {', '.join(marks)}); a "
            "detector trained on boxes would leak full supervision into a weakly-supervised one"
        )
