"""Read CLIP's weights, which must be in open_clip's layout and trained with QuickGELU."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from weaksam.config import ClipConfig, Weights
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import load_strictly, read_state_dict
from weaksam.io.weights import PUBLISHED
from weaksam.networks.clip.towers import Clip, ClipArchitecture

NAME = "clip_vit_b_16"  # of the published weights
HEAD = 64  # channels of an attention head, which no tensor tells
SIXTEEN_HEADS = (1280, 1408, 1664)  # widths of the image towers that have other ones: ViT-H, ViT-g, ViT-G
_OTHERS = {
    "vision_model.": "transformers' names: take the open_clip_model.safetensors that lies beside it",
    "visual.trunk.": "the image tower is timm's: take ViT-B-16-quickgelu",
    "visual.layer1.": "the image tower is a ResNet: take a vision transformer",
}


def load_clip(config: ClipConfig, device: str | torch.device = "cpu") -> Clip:
    """Return the CLIP that ``config`` names, frozen and in evaluation mode.

    Raises:
        CheckpointError: the weights cannot be had, are an archive with code, have another layout, or may not have been trained
            with QuickGELU.
    """
    weights = config.weights or Weights(PUBLISHED[NAME].uri)
    file = weights.fetch()
    if not (config.quick_gelu or file.sha256 == PUBLISHED[NAME].sha256):
        raise CheckpointError(
            f"{weights}: expected OpenAI's ViT-B/16 (SHA-256 {PUBLISHED[NAME].sha256[:12]}…), got another file "
            f"({file.sha256[:12]}…), and its tensors do not tell whether it was trained with QuickGELU, as ViT-B-16-quickgelu "
            "was, or with GELU, as ViT-B-16 was; set quick_gelu=true if it was the first"
        )
    state = read_state_dict(file.path).tensors
    where = f"{weights} as CLIP"
    other = next((what for prefix, what in _OTHERS.items() if any(prefix in name for name in state)), "")
    try:
        architecture = architecture_of(state)
    except (KeyError, IndexError):
        architecture = ClipArchitecture()
    clip = Clip(architecture)
    load_strictly(clip, state, where=where, cause=other)
    return clip.eval().to(device)


def architecture_of(state: Mapping[str, Tensor]) -> ClipArchitecture:
    """Return the sizes that tensors of open_clip's layout have; raise KeyError or IndexError where it is another."""
    image_dim, _, patch, _ = state["visual.conv1.weight"].shape
    text_dim, embed_dim = state["text_projection"].shape
    return ClipArchitecture(
        embed_dim=embed_dim,
        image_dim=image_dim,
        image_layers=_layers(state, "visual.transformer.resblocks."),
        image_heads=16 if image_dim in SIXTEEN_HEADS else max(1, image_dim // HEAD),
        patch=patch,
        grid=math.isqrt(len(state["visual.positional_embedding"]) - 1),
        text_dim=text_dim,
        text_layers=_layers(state, "transformer.resblocks."),
        text_heads=max(1, text_dim // HEAD),
        context_length=len(state["positional_embedding"]),
        vocabulary=len(state["token_embedding.weight"]),
    )


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})
