"""A small SAM for photographs: its image encoder begins with EfficientNet-Lite0 as ImageNet left it, which is installed.

It takes 192 x 192 pixels and has a token for each 8 x 8 of them: the trunk's features at strides 4, 8, 16 and 32 are added at
stride 8, and two residual blocks make the embedding of them. Prompt encoder and mask decoder are segment-anything's, of the
size of the built-in small SAM's, whose weights they began with.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.io.state_dicts import read_state_dict
from weaksam.networks.efficientnet_lite import LITE_CHANNELS, LiteName, LiteTrunk, timm_names
from weaksam.sam.small import PROMPT_DIM, around

IMAGE_SIZE = 192  # pixels, the longer side after resizing
TOKEN_STRIDE = 8  # pixels
RESIDUAL_BLOCKS = 2
GREY = 127.5  # EfficientNet-Lite wants pixels in -1..1: mean and deviation
_TRUNK: LiteName = "efficientnet_lite0"
_OF_TRUNK = "image_encoder.trunk."


class ResidualBlock(nn.Module):
    """A norm and two convolutions beside the identity, ``[B, C, h, w]`` -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            LayerNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        added: Tensor = self.layers(features)
        return features + added


class LiteEncoder(nn.Module):
    """Pixels in -1..1, ``[B, 3, 192, 192]`` -> embedding ``[B, PROMPT_DIM, 24, 24]``; the trunk does not learn."""

    img_size = IMAGE_SIZE

    def __init__(self) -> None:
        super().__init__()
        self.trunk = LiteTrunk(_TRUNK).requires_grad_(False)
        channels = LITE_CHANNELS[_TRUNK][1:]
        self.laterals = nn.ModuleList(nn.Conv2d(before, PROMPT_DIM, 1) for before in channels)
        self.norms = nn.ModuleList(LayerNorm2d(PROMPT_DIM) for _ in channels)
        self.blocks = nn.Sequential(
            *(ResidualBlock(PROMPT_DIM) for _ in range(RESIDUAL_BLOCKS)), LayerNorm2d(PROMPT_DIM)
        )

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features = self.trunk.stage_features(images)[1:]
        size = (features[1].shape[-2], features[1].shape[-1])
        merged = torch.zeros((), device=images.device)
        for feature, lateral, norm in zip(features, self.laterals, self.norms, strict=True):
            own: Tensor = norm(lateral(feature))
            merged = merged + (
                F.adaptive_avg_pool2d(own, size)
                if own.shape[-1] > size[-1]
                else F.interpolate(own, size, mode="bilinear", align_corners=False)
            )
        embedding: Tensor = self.blocks(merged)
        return embedding


def build_lite_sam() -> Sam:
    """Return the network with random weights, in evaluation mode; ``builtin:sam_lite`` are the trained ones."""
    grey = [GREY] * 3
    grid_size = IMAGE_SIZE // TOKEN_STRIDE
    return around(LiteEncoder(), grid_size=grid_size, image_size=IMAGE_SIZE, pixel_mean=grey, pixel_std=grey)


def with_trunk(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors of a file that lacks the trunk, and those of the trunk, which are installed with another package."""
    return {**state, **trunk_weights()}


def without_trunk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a file of weights needs to hold."""
    return {name: value for name, value in state.items() if not name.startswith(_OF_TRUNK)}


def trunk_weights() -> dict[str, Tensor]:
    """Return the tensors of the trunk by their names in the network; see ``read_state_dict`` for what is raised."""
    own = set(LiteTrunk(_TRUNK).state_dict())
    named = timm_names(read_state_dict(BUILTIN_WEIGHTS[_TRUNK].path).tensors, _TRUNK)
    of_trunk = {f"network.{name}": value for name, value in named.items()}
    return {f"{_OF_TRUNK}{name}": value for name, value in of_trunk.items() if name in own}
