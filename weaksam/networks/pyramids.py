"""Backbones with several feature maps, for segmenters, and for the detectors that are retrained on pseudo ground truth.

    resnet50.torchvision  strides 4, 8, 16, 32   256, 512, 1024, 2048 channels
    efficientnet_lite0    strides 4, 8, 16, 32   24, 40, 112, 320 channels
    efficientnet_lite2    strides 4, 8, 16, 32   24, 48, 120, 352 channels
    swin_tiny             strides 4, 8, 16, 32   96, 192, 384, 768 channels
    swin_large            strides 4, 8, 16, 32   192, 384, 768, 1536 channels
    small                 strides 4, 8           64, 128 channels

``trunks.py``, ``efficientnet_lite.py`` and ``swin.py`` say what they are made of and where their weights come from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from weaksam.networks.efficientnet_lite import LITE_CHANNELS, LITE_PIXELS, LiteName, LiteTrunk
from weaksam.networks.pixels import IMAGENET, PixelFormat
from weaksam.networks.swin import SWIN_VARIANTS, SwinName, SwinTrunk
from weaksam.networks.trunks import SMALL_STEM_DIM, ResNetTrunk, SmallTrunk, Trunk


class Pyramid(Trunk):
    """Images in, feature maps from fine to coarse out."""

    strides: tuple[int, ...]  # pixels per cell of each map
    channels: tuple[int, ...]  # of each map

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images ``[B, 3, H, W]``, sides multiples of 32 -> maps ``[B, channels, H / stride, W / stride]``."""


class ResNetPyramid(ResNetTrunk, Pyramid):
    """The ends of the four stages of ResNet-50."""

    strides = (4, 8, 16, 32)
    channels = (256, 512, 1024, 2048)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``Pyramid``."""
        return self.stage_features(images)[1:]


class SmallPyramid(SmallTrunk, Pyramid):
    """The small CNN stem at strides 4 and 8."""

    strides = (4, 8)
    channels = (64, SMALL_STEM_DIM)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``Pyramid``."""
        return list(self.fine_and_coarse(images))


class LitePyramid(LiteTrunk, Pyramid):
    """EfficientNet-Lite from stride 4 on."""

    strides = (4, 8, 16, 32)

    def __init__(self, name: LiteName) -> None:
        super().__init__(name)
        self.channels = LITE_CHANNELS[name][1:]

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``Pyramid``. In the plain layout, in which gradients of what follows, no depthwise layers, are faster."""
        return [map_.contiguous() for map_ in self.stage_features(images)[1:]]


class SwinPyramid(SwinTrunk, Pyramid):
    """The stages of Swin."""

    strides = (4, 8, 16, 32)

    def __init__(self, name: SwinName) -> None:
        super().__init__(SWIN_VARIANTS[name])
        self.channels = self.dims

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``Pyramid``."""
        return self.normalised_maps(images)


# Each with the input that its weights want.
PYRAMIDS: Mapping[str, tuple[Callable[[], Pyramid], PixelFormat]] = {
    "resnet50.torchvision": (ResNetPyramid, IMAGENET),
    "efficientnet_lite0": (partial(LitePyramid, "efficientnet_lite0"), LITE_PIXELS),
    "efficientnet_lite2": (partial(LitePyramid, "efficientnet_lite2"), LITE_PIXELS),
    "swin_tiny": (partial(SwinPyramid, "swin_tiny"), IMAGENET),
    "swin_large": (partial(SwinPyramid, "swin_large"), IMAGENET),
    "small": (SmallPyramid, IMAGENET),
}


def build_pyramid(name: str) -> Pyramid:
    """Return the backbone of that name (``RetrainConfig.backbone``, ``SegmenterConfig.backbone``) with random weights."""
    return PYRAMIDS[name][0]()


def pixel_format(name: str) -> PixelFormat:
    """Return the input that the weights of a backbone want, without building it."""
    return PYRAMIDS[name][1]
