"""A CLIP of a few thousand weights that knows what drawings show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tests.weaksam.networks.clip.test_towers import random_state
from weaksam.datasets.shapes import CLASS_NAMES
from weaksam.networks.clip.load import clip_to_bytes
from weaksam.networks.clip.tokens import END, START, Vocabulary, all_tokens
from weaksam.networks.clip.towers import Clip, ClipArchitecture

TINY = ClipArchitecture(
    embed_dim=12,
    image_dim=64,
    image_layers=3,
    image_heads=1,
    patch=8,
    grid=4,
    text_dim=64,
    text_layers=2,
    text_heads=1,
    context_length=24,
)


def tiny_clip() -> Clip:
    """Return one with random weights, always the same."""
    words = " ".join((*CLASS_NAMES, "ground", "blob", "."))
    vocabulary = Vocabulary(sorted({START, END, *all_tokens(words)}))
    architecture = replace(TINY, vocabulary=len(vocabulary))
    clip = Clip(architecture, vocabulary)
    clip.load_state_dict(random_state(architecture))
    return clip.eval()


def write_tiny_clip(folder: Path) -> Path:
    """Write it as a file of our own."""
    path = folder / "clip.safetensors"
    path.write_bytes(clip_to_bytes(tiny_clip()))
    return path


def some_pixels(batch: int, height: int, width: int) -> torch.Tensor:
    """Return random images ``[batch, 3, height, width]``, always the same."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
