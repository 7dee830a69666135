"""Backbones with several feature maps, for the detectors that are retrained on pseudo ground truth.

    resnet50.torchvision  strides 4, 8, 16, 32   256, 512, 1024, 2048 channels
    small                 strides 4, 8           64, 128 channels

``trunks.py`` says what they are made of and where their weights come from.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from weaksam.networks.pixels import PixelFormat
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


def build_pyramid(name: str) -> Pyramid:
    """Return the backbone of that name (``RetrainConfig.backbone``) with random weights."""
    return SmallPyramid() if name == "small" else ResNetPyramid()


def pixel_format(name: str) -> PixelFormat:
    """Return the input that the weights of a backbone want, without building it."""
    return (SmallPyramid if name == "small" else ResNetPyramid).pixels
