"""Swin Transformer (Liu et al., ICCV 2021) as a backbone: torchvision's blocks, which take images of any size.

    swin_tiny   96 channels, blocks 2, 2, 6, 2, windows of 7    ImageNet-1k, torchvision's weights
    swin_large  192 channels, blocks 2, 2, 18, 2, windows of 12  ImageNet-22k at 384 pixels, as mmsegmentation publishes it

A checkpoint may carry torchvision's names, the official ones (``layers.0.blocks.0.attn.qkv``) or mmsegmentation's
(``stages.0.blocks.0.attn.w_msa.qkv``), which also count the pixels that are merged in another order. Each map that goes out is
normalised by a layer of its own, which no classifier has: it starts from nothing, as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from weaksam.io.state_dicts import load_strictly
from weaksam.networks.trunks import Trunk

SwinName = Literal["swin_tiny", "swin_large"]
_PATCH = 4  # pixels, side of what the first layer looks at
_CLASS_LAYERS = ("head.", "norm.")  # the last norm is part of the classifier
# Worked out from the sizes of windows and images; others keep them beside the weights.
_COMPUTED = ("relative_position_index", "attn_mask")
_LAYERS = {  # of a block, in others' names -> torchvision's
    "attn.w_msa.": "attn.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
    "ffn.layers.0.0.": "mlp.0.",
    "ffn.layers.1.": "mlp.3.",
}
_EMBEDDING = {
    "patch_embed.proj.": "features.0.0.",
    "patch_embed.projection.": "features.0.0.",
    "patch_embed.norm.": "features.0.2.",
}


class SwinVariant(NamedTuple):
    """In what the sizes differ."""

    dim: int  # channels of the first stage; each later one has twice as many
    depths: tuple[int, ...]  # blocks of each stage
    heads: tuple[int, ...]
    window: int  # cells along each side
    path_drop: float  # chance that a block of the last layer is passed by in training, growing from 0 (published)


SWIN_VARIANTS: Mapping[SwinName, SwinVariant] = {
    "swin_tiny": SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 0.2),
    "swin_large": SwinVariant(192, (2, 2, 18, 2), (6, 12, 24, 48), 12, 0.3),
}


class SwinTrunk(Trunk):
    """Swin without its last norm and class layer."""

    def __init__(self, variant: SwinVariant) -> None:
        super().__init__()
        self.network = SwinTransformer(
            patch_size=[_PATCH, _PATCH],
            embed_dim=variant.dim,
            depths=list(variant.depths),
            num_heads=list(variant.heads),
            window_size=[variant.window, variant.window],
            stochastic_depth_prob=variant.path_drop,
        )
        del self.network.norm, self.network.head
        self.dims = tuple(variant.dim * 2**n for n in range(len(variant.depths)))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in self.dims)

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """See ``Trunk``; the embedding of patches, then the blocks at strides 4, 8, 16, 32 with the merging before them."""
        embedding, first, *others = self.network.features
        return [
            [embedding],
            [first],
            *([merging, blocks] for merging, blocks in zip(others[::2], others[1::2], strict=True)),
        ]

    def normalised_maps(self, images: Tensor) -> list[Tensor]:
        """Normalised images ``[B, 3, H, W]`` -> normalised maps ``[B, channels, h, w]`` of strides 4, 8, 16, 32."""
        after = self.stage_features(images)[1:]
        return [norm(cells).permute(0, 3, 1, 2).contiguous() for norm, cells in zip(self.norms, after, strict=True)]

    def _load_classifier(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``Trunk``."""
        computed = {key: value for key, value in self.network.state_dict().items() if key.endswith(_COMPUTED)}
        load_strictly(self.network, torchvision_names(state) | computed, where=where)


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a Swin classifier under torchvision's names, without its class layer; unknown names stay."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(_CLASS_LAYERS) or key.endswith(_COMPUTED):
            continue
        name, tensor = _renamed(key), value
        if key.startswith("stages.") and ".downsample." in key:
            tensor = _merged_as_published(value)
        renamed[name] = tensor
    return renamed


def _renamed(key: str) -> str:
    kind, _, rest = key.partition(".")
    if kind not in ("layers", "stages"):
        theirs = next((name for name in _EMBEDDING if key.startswith(name)), "")
        return _EMBEDDING.get(theirs, "") + key.removeprefix(theirs)
    number, _, rest = rest.partition(".")
    if not number.isdigit():
        return key
    if rest.startswith("downsample."):
        return f"features.{2 * int(number) + 2}.{rest.removeprefix('downsample.')}"
    for theirs, ours in _LAYERS.items():
        rest = rest.replace(theirs, ours)
    return f"features.{2 * int(number) + 1}.{rest.removeprefix('blocks.')}"


def _merged_as_published(weights: Tensor) -> Tensor:
    """Count what is merged pixel by pixel, each with its channels, down first; mmsegmentation counts channel by channel.

    ``weights`` is ``[4 C]`` or ``[D, 4 C]``.
    """
    rows = weights.reshape(-1, weights.shape[-1] // 4, 4).transpose(1, 2)  # [D, pixels, C]; pixels to the right first
    return rows[:, torch.tensor([0, 2, 1, 3])].reshape(weights.shape)
