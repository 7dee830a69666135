"""Read CLIP's weights, which must be in open_clip's layout and trained with QuickGELU."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from weaksam.config import ClipConfig
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import described, described_bytes, load_strictly, read_state_dict
from weaksam.io.weights import PUBLISHED
from weaksam.networks.clip import NAME, with_weights_named
from weaksam.networks.clip.tokens import Vocabulary
from weaksam.networks.clip.towers import Clip, ClipArchitecture
from weaksam.networks.small_stem import SmallCnnStem

METADATA_KEY = "clip"  # of the metadata of our own files; the value is JSON
HEAD = 64  # channels of an attention head, which no tensor tells
SIXTEEN_HEADS = (1280, 1408, 1664)  # widths of the image towers that have other ones: ViT-H, ViT-g, ViT-G
_OF_CNN = "visual.conv1.layers.0.weight"  # where the small CNN makes patches
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
    weights = with_weights_named(config).weights
    file = weights.fetch()
    where = f"{weights} as CLIP"
    state, metadata = read_state_dict(file.path)
    own = described(metadata, METADATA_KEY, where)
    if not (own or config.quick_gelu or file.sha256 == PUBLISHED[NAME].sha256):
        raise CheckpointError(
            f"{weights}: expected OpenAI's ViT-B/16 (SHA-256 {PUBLISHED[NAME].sha256[:12]}…), got another file "
            f"({file.sha256[:12]}…), and its tensors do not tell whether it was trained with QuickGELU, as ViT-B-16-quickgelu "
            "was, or with GELU, as ViT-B-16 was; set quick_gelu=true if it was the first"
        )
    other = next((what for prefix, what in _OTHERS.items() if any(prefix in name for name in state)), "")
    try:
        architecture = architecture_of(state)
    except (KeyError, IndexError):
        architecture = ClipArchitecture()
    try:
        vocabulary = Vocabulary([int(token) for token in own["tokens"]]) if own else Vocabulary()
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: expected in its metadata the tokens that it knows, start and end among them, got "
            f"{str(own)[:100]!a}; copy it again"
        ) from error
    if architecture.vocabulary != len(vocabulary):
        raise CheckpointError(
            f"{where}: expected embeddings of CLIP's {len(vocabulary):,} tokens, got {architecture.vocabulary:,}; take "
            "a CLIP with open_clip's own tokenizer"
        )
    clip = Clip(architecture, vocabulary)
    load_strictly(clip, state, where=where, cause=other)
    return clip.eval().to(device)


def architecture_of(state: Mapping[str, Tensor]) -> ClipArchitecture:
    """Return the sizes that tensors of open_clip's layout have; raise KeyError or IndexError where it is another."""
    cnn = _OF_CNN in state
    image_dim = len(state["visual.class_embedding"])
    patch = SmallCnnStem.stride if cnn else state["visual.conv1.weight"].shape[2]
    text_dim, embed_dim = state["text_projection"].shape
    return ClipArchitecture(
        embed_dim=embed_dim,
        image_dim=image_dim,
        image_layers=_layers(state, "visual.transformer.resblocks."),
        image_heads=16 if image_dim in SIXTEEN_HEADS else max(1, image_dim // HEAD),
        patch=patch,
        stem="cnn" if cnn else "patch",
        grid=math.isqrt(len(state["visual.positional_embedding"]) - 1),
        text_dim=text_dim,
        text_layers=_layers(state, "transformer.resblocks."),
        text_heads=max(1, text_dim // HEAD),
        context_length=len(state["positional_embedding"]),
        vocabulary=len(state["token_embedding.weight"]),
    )


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def clip_to_bytes(clip: Clip) -> bytes:
    """Return a safetensors file of a CLIP of our own, matrices in float16, and in its metadata the tokens that it knows."""
    state = {name: value.half() if value.ndim > 1 else value for name, value in clip.state_dict().items()}
    return described_bytes(state, METADATA_KEY, {"tokens": list(clip.vocabulary.known)})
