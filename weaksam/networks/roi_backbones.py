"""Backbones of the weakly-supervised detectors: features, RoI max pooling and the layers after it (method 4.1).

A backbone is named by its architecture *and* by how its weights want their pixels, because the two are one choice:

    vgg16.torchvision     normalised RGB         stride 8   7 x 7 cells   fc6, fc7 of 4096
    vgg16.caffe           BGR in 0..255 - means  the same; the published detectors start here
    resnet50.torchvision  normalised RGB         stride 16  14 x 14       "C4": the fourth stage runs on every proposal
    small                 normalised RGB         stride 4   5 x 5         two layers of 256, for drawings of 128 pixels

ResNet-50 as C4 has no layer that ImageNet did not train before its predictors; a dilated last stage would need new fully
connected layers of 100 M parameters, which image-level labels hardly train.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import FrozenBatchNorm2d, roi_pool

from weaksam.config import require
from weaksam.io.state_dicts import load_strictly
from weaksam.networks.small_stem import SmallCnnStem
from weaksam.transforms import IMAGENET_MEAN, IMAGENET_STD

# Where the convolutions conv1, conv2, ... of torchvision's VGG-16 begin and the last one ends; 23 is the fourth pooling.
VGG_STAGES = (0, 5, 10, 17, 24, 30)
VGG_POOL4 = 23
# The small stem's: each stage begins with a strided convolution, and the first two end at stride 4.
SMALL_STAGES = (0, 6, 12, 24)
SMALL_STEM_DIM = 128
SMALL_FC_DIM = 256


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How the weights of a network want their input; light enough to travel to the processes that read images."""

    bgr: bool
    white: float  # what the brightest pixel is before the mean is taken off
    mean: tuple[float, float, float]  # in the order of the channels
    std: tuple[float, float, float]

    def normalise(self, image: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
        """Turn RGB ``[H, W, 3]``, uint8 in 0..255 or float in 0..1, into float32 ``[3, H, W]``."""
        values = torch.from_numpy(np.ascontiguousarray(image[..., ::-1] if self.bgr else image)).permute(2, 0, 1)
        unit = values / 255 if values.dtype == torch.uint8 else values
        return (unit * self.white - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


IMAGENET = PixelFormat(bgr=False, white=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)


@dataclass(frozen=True, kw_only=True)
class VggVariant:
    """In what the VGG-16 of the published detectors differ (table of method 4.1)."""

    last_relu: bool  # after conv5_3
    ceil_mode: bool  # rounding of the pooled sizes; images padded to a multiple of 32 do not feel it
    caffe_means_bgr: tuple[float, float, float]


class Body(nn.Module, ABC):
    """A backbone: ``features`` once per image, ``pool`` and ``head`` once per proposal."""

    stride: int  # pixels per cell of the features
    channels: int  # of the features
    pool_size: int  # cells, side of a pooled proposal
    dim: int  # of what ``head`` returns
    pixels: PixelFormat = IMAGENET

    def normalise(self, image: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
        """Return RGB ``[H, W, 3]`` (uint8, or float in 0..1) as the weights want it, float32 ``[3, H, W]``."""
        return self.pixels.normalise(image)

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Normalised images ``[B, 3, H, W]`` -> ``[B, channels, H / stride, W / stride]``."""

    def pool(self, features: Tensor, boxes_xyxy: Tensor, image_index: Tensor) -> Tensor:
        """Take the maximum of every cell of every box: RoI max pooling, the corners rounded to whole cells of the features.

        Args:
            features: ``[B, channels, h, w]``.
            boxes_xyxy: ``[N, 4]`` pixels of the normalised images.
            image_index: int64 ``[N]``, which of the B images a box lies in.

        Returns:
            float32 ``[N, channels, pool_size, pool_size]``; no boxes give N = 0.
        """
        # roi_pool counts the last cell in, so that it wants the last pixel and not the one after it.
        inclusive = boxes_xyxy.float() - boxes_xyxy.new_tensor([0, 0, 1, 1], dtype=torch.float32)
        rois = torch.cat([image_index[:, None].float(), inclusive], dim=1)
        pooled: Tensor = roi_pool(features.float(), rois, self.pool_size, 1 / self.stride)
        return pooled

    @abstractmethod
    def head(self, pooled: Tensor) -> Tensor:
        """Pooled proposals ``[N, channels, pool_size, pool_size]`` -> ``[N, dim]``, with dropout while training."""

    @abstractmethod
    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """Return the layers of the features stage by stage, the first one first."""

    def freeze(self, stages: int) -> None:
        """Let the first ``stages`` stages not learn.

        Raises:
            ConfigError: there are fewer of them.
        """
        own = self.stages()
        require(0 <= stages <= len(own), "mil.freeze_stages", f"0..{len(own)} for this backbone", stages)
        for layer in (layer for stage in own[:stages] for layer in stage):
            layer.requires_grad_(False)

    @abstractmethod
    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """Start from the state dict of a classifier of this architecture, whose class layer is dropped.

        Raises:
            CheckpointError: keys or shapes do not fit, naming them.
        """


class VggBody(Body):
    """VGG-16 without its fourth and fifth pooling, conv5 dilated instead: stride 8."""

    stride = 8
    channels = 512
    pool_size = 7
    dim = 4096

    def __init__(self, pixels: PixelFormat, variant: VggVariant, dropout: float) -> None:
        super().__init__()
        self.pixels = pixels
        layers = list(make_layers(cfgs["D"], batch_norm=False))
        for layer in layers:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = variant.ceil_mode
        layers[VGG_POOL4] = nn.Identity()
        for layer in layers[VGG_STAGES[-2] :]:
            if isinstance(layer, nn.Conv2d):
                layer.dilation = layer.padding = (2, 2)
        self.conv = nn.Sequential(*layers[: VGG_STAGES[-1] if variant.last_relu else VGG_STAGES[-1] - 1])
        self.fc = _two_layers(self.channels * self.pool_size**2, self.dim, dropout)

    def features(self, images: Tensor) -> Tensor:
        """See ``Body``."""
        return self.conv(images)  # type: ignore[no-any-return]

    def head(self, pooled: Tensor) -> Tensor:
        """See ``Body``; fc6 and fc7, each with ReLU and dropout."""
        return self.fc(pooled.flatten(1))  # type: ignore[no-any-return]

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Body``; conv1 to conv5."""
        return _slices(self.conv, VGG_STAGES)

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Body``; torchvision's names, which converted Caffe weights have, too."""
        parts = {"features": "conv", "classifier": "fc"}
        own = {}
        for key, value in state.items():
            part, _, rest = key.partition(".")
            if not key.startswith("classifier.6."):
                own[f"{parts.get(part, part)}.{rest}"] = value
        load_strictly(self, own, where=where)


class ResNetBody(Body):
    """torchvision's ResNet-50 as "C4": stages 1 to 3 over the image, stage 4 over every proposal; batch norms are frozen."""

    stride = 16
    channels = 1024
    pool_size = 14
    dim = 2048

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.network = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        del self.network.avgpool, self.network.fc
        self.dropout = nn.Dropout(dropout)

    def features(self, images: Tensor) -> Tensor:
        """See ``Body``."""
        for stage in self.stages():
            for layer in stage:
                images = layer(images)
        return images

    def head(self, pooled: Tensor) -> Tensor:
        """See ``Body``; stage 4 with its stride of 2, then the mean over its 7 x 7 cells."""
        return self.dropout(self.network.layer4(pooled).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Body``; the stem, then layer1 to layer3."""
        n = self.network
        return [[n.conv1, n.bn1, n.relu, n.maxpool], [n.layer1], [n.layer2], [n.layer3]]

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Body``; frozen batch norms count no batches."""
        own = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith(".num_batches_tracked")}
        load_strictly(self.network, own, where=where)


class SmallBody(Body):
    """The small CNN stem; its features at strides 4 and 8 are laid over each other, as 8 is coarse for small drawings."""

    stride = 4
    channels = 64 + SMALL_STEM_DIM
    pool_size = 5
    dim = SMALL_FC_DIM

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.stem = SmallCnnStem(SMALL_STEM_DIM)
        for layer in self.stem.layers:
            if isinstance(
                layer, nn.Conv2d
            ):  # with the batch norms at rest, random weights must keep the scale themselves
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.fc = _two_layers(self.channels * self.pool_size**2, self.dim, dropout)

    def train(self, mode: bool = True) -> SmallBody:
        """Leave the stem's batch norms in evaluation mode: a step sees too few images to measure them."""
        super().train(mode)
        self.stem.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """See ``Body``."""
        cut = SMALL_STAGES[2]
        fine = self.stem.layers[:cut](images.contiguous(memory_format=torch.channels_last))
        coarse = self.stem.layers[cut:](fine)
        return torch.cat([fine, F.interpolate(coarse, size=fine.shape[2:], mode="bilinear")], dim=1)

    def head(self, pooled: Tensor) -> Tensor:
        """See ``Body``."""
        return self.fc(pooled.flatten(1))  # type: ignore[no-any-return]

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Body``; the layers at strides 2, 4 and 8."""
        return _slices(self.stem.layers, SMALL_STAGES)

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Body``; the state of a ``SmallCnnClassifier``."""
        own = {k.removeprefix("stem."): v for k, v in state.items() if not k.startswith("head.")}
        load_strictly(self.stem, own, where=where)


def pixel_format(backbone: str, vgg: VggVariant) -> PixelFormat:
    """Return the input that the weights of a backbone want, without building it."""
    if backbone == "vgg16.caffe":
        return PixelFormat(bgr=True, white=255.0, mean=vgg.caffe_means_bgr, std=(1.0, 1.0, 1.0))
    return IMAGENET


def build_body(backbone: str, *, vgg: VggVariant, dropout: float) -> Body:
    """Return the body of that name (``MilConfig.backbone``) with random weights; ``vgg`` is for VGG-16 alone."""
    if backbone == "small":
        return SmallBody(dropout)
    if backbone == "resnet50.torchvision":
        return ResNetBody(dropout)
    return VggBody(pixel_format(backbone, vgg), vgg, dropout)


def _two_layers(channels: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout)
    )


def _slices(layers: nn.Sequential, bounds: Sequence[int]) -> list[list[nn.Module]]:
    return [list(layers[start:end]) for start, end in pairwise(bounds)]
