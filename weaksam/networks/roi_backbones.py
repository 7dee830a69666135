"""Backbones of the weakly-supervised detectors: features, RoI max pooling and the layers after it (method 4.1).

A backbone is named by its architecture *and* by how its weights want their pixels, because the two are one choice:

    vgg16.torchvision     normalised RGB         stride 8   7 x 7 cells   fc6, fc7 of 4096
    vgg16.caffe           BGR in 0..255 - means  the same; the published detectors start here
    resnet50.torchvision  normalised RGB         stride 16  14 x 14       "C4": the fourth stage runs on every proposal
    efficientnet_lite0    RGB in -1..1           stride 16  7 x 7         two layers of 512, for photographs on a laptop
    efficientnet_lite2    the same
    small                 normalised RGB         stride 4   5 x 5         two layers of 256, for drawings of 128 pixels

ResNet-50 as C4 has no layer that ImageNet did not train before its predictors; a dilated last stage would need new fully
connected layers of 100 M parameters, which image-level labels hardly train.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import roi_pool

from weaksam.io.state_dicts import load_strictly
from weaksam.networks.efficientnet_lite import LITE_CHANNELS, LITE_PIXELS, LiteName, LiteTrunk
from weaksam.networks.pixels import IMAGENET, PixelFormat
from weaksam.networks.trunks import SMALL_STEM_DIM, ResNetTrunk, SmallTrunk, Trunk, slices

# Where the convolutions conv1, conv2, ... of torchvision's VGG-16 begin and the last one ends; 23 is the fourth pooling.
VGG_STAGES = (0, 5, 10, 17, 24, 30)
VGG_POOL4 = 23
SMALL_FC_DIM = 256
LITE_FC_DIM = 512


@dataclass(frozen=True, kw_only=True)
class VggVariant:
    """In what the VGG-16 of the published detectors differ (table of method 4.1)."""

    last_relu: bool  # after conv5_3
    ceil_mode: bool  # rounding of the pooled sizes; images padded to a multiple of 32 do not feel it
    caffe_means_bgr: tuple[float, float, float]


class RoiBackbone(Trunk):
    """A backbone: ``features`` once per image, ``pool`` and ``head`` once per proposal."""

    stride: int  # pixels per cell of the features
    channels: int  # of the features
    pool_size: int  # cells, side of a pooled proposal
    dim: int  # of what ``head`` returns

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


class VggRoiBackbone(RoiBackbone):
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
        """See ``RoiBackbone``."""
        return self.conv(images)  # type: ignore[no-any-return]

    def head(self, pooled: Tensor) -> Tensor:
        """See ``RoiBackbone``; fc6 and fc7, each with ReLU and dropout."""
        return self.fc(pooled.flatten(1))  # type: ignore[no-any-return]

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Trunk``; conv1 to conv5."""
        return slices(self.conv, VGG_STAGES)

    def _load_classifier(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Trunk``; torchvision's names, which converted Caffe weights have, too."""
        parts = {"features": "conv", "classifier": "fc"}
        own = {}
        for key, value in state.items():
            part, _, rest = key.partition(".")
            if not key.startswith("classifier.6."):
                own[f"{parts.get(part, part)}.{rest}"] = value
        load_strictly(self, own, where=where)


class ResNetRoiBackbone(ResNetTrunk, RoiBackbone):
    """ResNet-50 as "C4": stages 1 to 3 over the image, stage 4 over every proposal."""

    stride = 16
    channels = 1024
    pool_size = 14
    dim = 2048

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Trunk``; the stem, then layer1 to layer3."""
        return super().stages()[:-1]

    def features(self, images: Tensor) -> Tensor:
        """See ``RoiBackbone``."""
        return self.stage_features(images)[-1]

    def head(self, pooled: Tensor) -> Tensor:
        """See ``RoiBackbone``; stage 4 with its stride of 2, then the mean over its 7 x 7 cells."""
        return self.dropout(self.network.layer4(pooled).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class SmallRoiBackbone(SmallTrunk, RoiBackbone):
    """The small CNN stem; its features at strides 4 and 8 are laid over each other, as 8 is coarse for small drawings."""

    stride = 4
    channels = 64 + SMALL_STEM_DIM
    pool_size = 5
    dim = SMALL_FC_DIM

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.fc = _two_layers(self.channels * self.pool_size**2, self.dim, dropout)

    def features(self, images: Tensor) -> Tensor:
        """See ``RoiBackbone``."""
        fine, coarse = self.fine_and_coarse(images)
        return torch.cat([fine, F.interpolate(coarse, size=fine.shape[2:], mode="bilinear")], dim=1)

    def head(self, pooled: Tensor) -> Tensor:
        """See ``RoiBackbone``."""
        return self.fc(pooled.flatten(1))  # type: ignore[no-any-return]


class LiteRoiBackbone(LiteTrunk, RoiBackbone):
    """EfficientNet-Lite, dilated from stride 16 on, and two layers that ImageNet did not train.

    At this stride larger images, of the size that ImageNet has taught, cost less than smaller ones at stride 8.
    """

    stride = 16
    pool_size = 7
    dim = LITE_FC_DIM

    def __init__(self, name: LiteName, dropout: float) -> None:
        super().__init__(name, output_stride=self.stride)
        self.channels = LITE_CHANNELS[name][-1]
        self.fc = _two_layers(self.channels * self.pool_size**2, self.dim, dropout)

    def features(self, images: Tensor) -> Tensor:
        """See ``RoiBackbone``."""
        return self.stage_features(images)[-1]

    def head(self, pooled: Tensor) -> Tensor:
        """See ``RoiBackbone``."""
        return self.fc(pooled.flatten(1))  # type: ignore[no-any-return]


# Those beside VGG-16, which has variants; each with the input that its weights want.
ROI_BACKBONES: Mapping[str, tuple[Callable[[float], RoiBackbone], PixelFormat]] = {
    "resnet50.torchvision": (ResNetRoiBackbone, IMAGENET),
    "efficientnet_lite0": (partial(LiteRoiBackbone, "efficientnet_lite0"), LITE_PIXELS),
    "efficientnet_lite2": (partial(LiteRoiBackbone, "efficientnet_lite2"), LITE_PIXELS),
    "small": (SmallRoiBackbone, IMAGENET),
}


def pixel_format(backbone: str, vgg: VggVariant) -> PixelFormat:
    """Return the input that the weights of a backbone want, without building it."""
    if backbone == "vgg16.caffe":
        return PixelFormat(bgr=True, white=255.0, mean=vgg.caffe_means_bgr, std=(1.0, 1.0, 1.0))
    return ROI_BACKBONES[backbone][1] if backbone in ROI_BACKBONES else IMAGENET


def build_roi_backbone(backbone: str, *, vgg: VggVariant, dropout: float) -> RoiBackbone:
    """Return the backbone of that name (``MilConfig.backbone``) with random weights; ``vgg`` is for VGG-16 alone."""
    if backbone in ROI_BACKBONES:
        return ROI_BACKBONES[backbone][0](dropout)
    return VggRoiBackbone(pixel_format(backbone, vgg), vgg, dropout)


def _two_layers(channels: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout)
    )
