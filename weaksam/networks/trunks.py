"""What backbones share, whatever they are made into: layers in stages, frozen stages, weights of a classifier to start from.

``roi_backbones.py`` makes trunks into backbones of detectors that score proposals, ``pyramids.py`` into those of detectors
that find boxes of their own. A trunk is named by its architecture *and* by how its weights want their pixels, because the two
are one choice:

    resnet50.torchvision  normalised RGB   stem and four stages; batch norms are frozen
    small                 normalised RGB   the small CNN stem in three stages, for drawings of 128 pixels; batch norms at rest

Weights come from an image classifier. A detector or segmenter that was trained on true boxes or masks would carry full
supervision into a weakly supervised one, so that its state dict is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Self

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from weaksam.config import require
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import load_strictly
from weaksam.networks.pixels import IMAGENET, PixelFormat
from weaksam.networks.small_stem import SmallCnnStem

SMALL_STEM_DIM = 128
# Each stage of the small stem begins with a strided convolution, and the first two end at stride 4.
SMALL_STAGES = (0, 6, 12, 24)

# Parts of names in state dicts of detectors and segmenters: torchvision, detectron2, mmdetection, mmsegmentation, DETR and its
# kin, Mask2Former as its authors and as transformers publish it.
_OF_DETECTORS = (
    "rpn.",
    "rpn_head.",
    "roi_heads.",
    "roi_head.",
    "bbox_head.",
    "bbox_embed.",
    "class_embed.",
    "transformer.",
    "decode_head.",
    "auxiliary_head.",
    "mask_head.",
    "panoptic_head.",
    "sem_seg_head.",
    "pixel_level_module.",
    "transformer_module.",
    "class_predictor.",
)


class Trunk(nn.Module, ABC):
    """Convolutional layers in stages, with random weights."""

    pixels: PixelFormat = IMAGENET

    @abstractmethod
    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """Return the layers of the features stage by stage, the first one first."""

    @abstractmethod
    def _load_classifier(self, state: Mapping[str, Tensor], where: str) -> None:
        """Take over the weights of a classifier without its class layer, see ``init_from``, which calls this."""

    def stage_features(self, images: Tensor) -> list[Tensor]:
        """Normalised images ``[B, 3, H, W]`` -> the features after each of ``stages``."""
        features: list[Tensor] = []
        for stage in self.stages():
            for layer in stage:
                images = layer(images)
            features.append(images)
        return features

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """Start from the state dict of a classifier of this architecture, whose class layer is dropped.

        Args:
            state: its names and tensors.
            where: the file, for messages.

        Raises:
            CheckpointError: it is a detector's or segmenter's, or keys or shapes do not fit, naming them.
        """
        marks = sorted({part for key in state for part in _OF_DETECTORS if f".{part}" in f".{key}"})
        if marks:
            raise CheckpointError(
                f"{where}: expected weights of an image classifier, got those of a detector or segmenter (keys with "
                f"{', '.join(marks)}); one trained on boxes or masks would leak full supervision into a weakly-supervised one"
            )
        self._load_classifier(state, where)

    def freeze(self, stages: int, option: str) -> None:
        """Let the first ``stages`` stages not learn; ``option`` is what says how many, for messages.

        Raises:
            ConfigError: there are fewer of them.
        """
        own = self.stages()
        require(0 <= stages <= len(own), option, f"0..{len(own)} for this backbone", stages)
        for layer in (layer for stage in own[:stages] for layer in stage):
            layer.requires_grad_(False)


class ResNetTrunk(Trunk):
    """torchvision's ResNet-50 without its pooling and class layer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        del self.network.avgpool, self.network.fc

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Trunk``; the stem, then layer1 to layer4."""
        n = self.network
        return [[n.conv1, n.bn1, n.relu, n.maxpool], [n.layer1], [n.layer2], [n.layer3], [n.layer4]]

    def _load_classifier(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Trunk``; torchvision's names. Frozen batch norms count no batches."""
        own = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith(".num_batches_tracked")}
        load_strictly(self.network, own, where=where)


class SmallTrunk(Trunk):
    """The small CNN stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SmallCnnStem(SMALL_STEM_DIM)
        for layer in self.stem.layers:
            if isinstance(
                layer, nn.Conv2d
            ):  # with the batch norms at rest, random weights must keep the scale themselves
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def train(self, mode: bool = True) -> Self:
        """Leave the stem's batch norms in evaluation mode: a step sees too few images to measure them."""
        super().train(mode)
        self.stem.eval()
        return self

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Trunk``; the layers at strides 2, 4 and 8."""
        return slices(self.stem.layers, SMALL_STAGES)

    def fine_and_coarse(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images ``[B, 3, H, W]`` -> features at strides 4 and 8, of 64 and ``SMALL_STEM_DIM`` channels."""
        cut = SMALL_STAGES[2]
        fine: Tensor = self.stem.layers[:cut](images.contiguous(memory_format=torch.channels_last))
        return fine, self.stem.layers[cut:](fine)

    def _load_classifier(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Trunk``; the state of a ``SmallCnnClassifier``."""
        own = {k.removeprefix("stem."): v for k, v in state.items() if not k.startswith("head.")}
        load_strictly(self.stem, own, where=where)


def slices(layers: nn.Sequential, bounds: Sequence[int]) -> list[list[nn.Module]]:
    """Cut layers into stages between neighbouring ``bounds``."""
    return [list(layers[start:end]) for start, end in pairwise(bounds)]
