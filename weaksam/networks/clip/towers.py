"""CLIP's two towers, as class activation maps need them (Radford et al., ICML 2021; FMA method 1).

They differ from a plain CLIP in four ways, of which none touches the weights:

* an image may have any sides that are multiples of a patch's: the grid of positions is resized, bilinearly;
* the embedding of an image is that of its patches' mean, and not of the class token;
* the attention of some layers is told, as its mean over heads and layers;
* the last block is apart, so that its normalised input can be differentiated by.

Layout and names are open_clip's, whose weights load strictly; a small CNN in the place of patches is ours. The nonlinearity is
QuickGELU: weights of an architecture with GELU have the same names and other values.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from weaksam.config import require
from weaksam.networks.clip.tokens import Vocabulary
from weaksam.networks.pixels import PixelFormat
from weaksam.networks.small_stem import SmallCnnStem

CLIP_PIXELS = PixelFormat(
    bgr=False,
    white=1.0,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def resized_to_patches(
    image: NDArray[np.uint8], patch: int, *, scale: float = 1.0, max_side: float = math.inf
) -> NDArray[np.uint8]:
    """Resize an RGB image ``[H, W, 3]`` so that its sides are whole patches, rounded up; bicubic, aspect nearly kept.

    Args:
        image: of any size.
        patch: pixels along its side.
        scale: of the sides that are wanted.
        max_side: pixels; an image that would be longer is shown smaller.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    # A factor of a limited image stays a fraction: rounded, it could make a side that fits one patch too long.
    times, over = (max_side, longer) if longer * scale > max_side else (scale, 1)
    size_wh = [patch * max(1, math.ceil(side * times / (over * patch))) for side in (width, height)]
    return np.array(Image.fromarray(image).resize(size_wh, Image.Resampling.BICUBIC))


@dataclass(frozen=True, kw_only=True)
class ClipArchitecture:
    """Sizes of a CLIP; the defaults are ViT-B/16's."""

    embed_dim: int = 512  # of image and text, where they are compared
    image_dim: int = 768
    image_layers: int = 12
    image_heads: int = 12
    patch: int = 16  # pixels along a side
    # What makes patches: one convolution, or the small CNN of 8 x 8 pixels, with which a tower learns from few images.
    stem: Literal["patch", "cnn"] = "patch"
    grid: int = 14  # patches along a side of the images that it was trained on
    text_dim: int = 512
    text_layers: int = 12
    text_heads: int = 8
    context_length: int = 77  # tokens at the most
    vocabulary: int = 49408


class BeforeLastBlock(NamedTuple):
    """What the vision tower knows of images before its last block."""

    tokens: Tensor  # [N, 1 + P, D], the class token first
    activations: Tensor  # [N, 1 + P, D], the same after the block's first normalisation
    attention: Tensor  # [N, 1 + P, 1 + P] rows are queries; mean over heads and the asked layers; zeros where none was


class Clip(nn.Module):
    """Both towers, frozen, and the tokens that they know."""

    def __init__(self, architecture: ClipArchitecture | None = None, vocabulary: Vocabulary | None = None) -> None:
        super().__init__()
        own = self.architecture = architecture or ClipArchitecture()
        self.vocabulary = vocabulary or Vocabulary()
        self.visual = VisionTower(own)
        self.token_embedding = nn.Embedding(own.vocabulary, own.text_dim)
        self.positional_embedding = nn.Parameter(torch.empty(own.context_length, own.text_dim).normal_(std=0.01))
        self.transformer = Blocks(own.text_dim, own.text_layers, own.text_heads)
        self.ln_final = nn.LayerNorm(own.text_dim)
        self.text_projection = nn.Parameter(torch.empty(own.text_dim, own.embed_dim).normal_(std=own.text_dim**-0.5))
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())
        self.requires_grad_(False)

    def text_embedding(self, prompts: Tensor, last: Tensor) -> Tensor:
        """Embed prompts, through which a gradient may flow.

        Args:
            prompts: ``[G, T, Dt]``, embeddings of tokens, without positions. What stands behind the last end of text changes
                nothing, and need not be there: T is the largest of ``last`` plus one or more.
            last: int64 ``[G]``, the position of each prompt's end of text.

        Returns:
            ``[G, E]``, not normalised.

        Raises:
            ConfigError: prompts of more tokens than texts have.
        """
        length, most = prompts.shape[1], len(self.positional_embedding)
        require(length <= most, "prompts", f"names and contexts of at most {most} tokens together", length)
        hidden = torch.full((length, length), -torch.inf, device=prompts.device).triu(1)
        x = prompts + self.positional_embedding[:length]
        for block in self.transformer.resblocks:
            x, _ = block(x, hidden)
        ends: Tensor = self.ln_final(x[torch.arange(len(x), device=x.device), last])
        return ends @ self.text_projection

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as they are, ``[G, E]``, not normalised.

        Raises:
            ConfigError: a word that this CLIP does not know, or more words than it takes.
        """
        start, end = self.vocabulary.start, self.vocabulary.end
        rows = [torch.tensor([start, *self.vocabulary.tokens(text), end]) for text in texts]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end).to(self.logit_scale.device)
        last = torch.tensor([len(row) - 1 for row in rows], device=tokens.device)
        return self.text_embedding(self.token_embedding(tokens), last)

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Compare embeddings ``[N, E]`` and ``[G, E]``: their cosines times the scale that was learnt, some 100; ``[N, G]``."""
        return self.logit_scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T


class VisionTower(nn.Module):
    """Images to patches, and these to an embedding."""

    def __init__(self, architecture: ClipArchitecture) -> None:
        super().__init__()
        own, dim = architecture, architecture.image_dim
        self.grid = own.grid
        self.class_embedding = nn.Parameter(torch.empty(dim).normal_(std=dim**-0.5))
        self.positional_embedding = nn.Parameter(torch.empty(1 + own.grid**2, dim).normal_(std=dim**-0.5))
        self.conv1 = SmallCnnStem(dim) if own.stem == "cnn" else nn.Conv2d(3, dim, own.patch, own.patch, bias=False)
        self.ln_pre = nn.LayerNorm(dim)
        self.transformer = Blocks(dim, own.image_layers, own.image_heads)
        self.ln_post = nn.LayerNorm(dim)
        self.proj = nn.Parameter(torch.empty(dim, own.embed_dim).normal_(std=dim**-0.5))

    def before_last_block(self, images: Tensor, attention_of: Collection[int] = ()) -> BeforeLastBlock:
        """Compute all blocks but the last.

        Args:
            images: ``[N, 3, H, W]``, see ``CLIP_PIXELS``; sides are multiples of a patch's.
            attention_of: layers from 1 whose attention is wanted, the last one's too if it is among them.

        Raises:
            ValueError: there is no such layer.
        """
        layers = set(attention_of)
        if not layers <= set(range(1, 1 + len(self.transformer.resblocks))):
            raise ValueError(
                f"attention_of: expected layers of 1..{len(self.transformer.resblocks)}, got {sorted(layers)}"
            )
        x = self.tokens(images)
        attention = x.new_zeros(len(x), x.shape[1], x.shape[1])
        last = self.transformer.last
        for number, block in enumerate(self.transformer.resblocks[:-1], start=1):
            x, weights = block(x, weights=number in layers)
            if weights is not None:
                attention += weights / len(layers)
        activations = last.ln_1(x)
        if len(self.transformer.resblocks) in layers:
            _, weights = last.attn(activations, weights=True)
            attention += weights / len(layers)
        return BeforeLastBlock(x, activations, attention)

    def tokens(self, images: Tensor) -> Tensor:
        """Return what the first block takes, ``[N, 1 + P, D]``, the class token first."""
        x = self.conv1(images)
        size_hw = (x.shape[2], x.shape[3])
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        embedded: Tensor = self.ln_pre(x + self.positions(size_hw))
        return embedded

    def embedding(self, tokens: Tensor, activations: Tensor) -> Tensor:
        """Compute the last block and the embedding ``[N, E]``, of what ``before_last_block`` knows."""
        last = self.transformer.last
        attended, _ = last.attn(activations)
        x = tokens + attended
        x = x + last.mlp(last.ln_2(x))
        patches: Tensor = self.ln_post(x[:, 1:])
        return patches.mean(dim=1) @ self.proj

    def positions(self, size_hw: tuple[int, int]) -> Tensor:
        """Resize the embeddings of positions to a grid of patches: ``[1 + P, D]``, the class token's as it was."""
        grid = self.positional_embedding[1:].T.reshape(1, -1, self.grid, self.grid)
        resized = F.interpolate(grid, size_hw, mode="bilinear", align_corners=False)[0].flatten(1).T
        return torch.cat([self.positional_embedding[:1], resized])


class Blocks(nn.Module):
    """Blocks under open_clip's name."""

    def __init__(self, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))

    @property
    def last(self) -> Block:
        """The last block."""
        block = self.resblocks[-1]
        assert isinstance(block, Block)
        return block


class Block(nn.Module):
    """Attention and a multilayer perceptron, each beside what it is added to."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = Perceptron(dim)

    def forward(
        self, x: Tensor, hidden: Tensor | None = None, *, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See ``Attention``."""
        attended, told = self.attn(self.ln_1(x), hidden, weights=weights)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), told


class Attention(nn.Module):
    """Attention, written out, for it is differentiated twice and its weights are told."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim).normal_(std=dim**-0.5))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, hidden: Tensor | None = None, *, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Let tokens ``[N, L, D]`` look at each other.

        Args:
            x: the tokens.
            hidden: ``[L, L]``, added to what queries (rows) and keys have in common; -inf where a query must not look.
            weights: whether the attention is wanted.

        Returns:
            ``[N, L, D]``, and the attention ``[N, L, L]``, mean over heads.
        """
        N, L, D = x.shape
        query, key, value = (
            F.linear(x, self.in_proj_weight, self.in_proj_bias)
            .view(N, L, 3, self.heads, D // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        alike = query @ key.transpose(2, 3) * (D // self.heads) ** -0.5
        attention = (alike if hidden is None else alike + hidden).softmax(dim=3)
        found = (attention @ value).transpose(1, 2).reshape(N, L, D)
        return self.out_proj(found), attention.mean(dim=1) if weights else None


class Perceptron(nn.Module):
    """Two linear layers with QuickGELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(dim, 4 * dim)
        self.c_proj = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., D]``."""
        x = self.c_fc(x)
        found: Tensor = self.c_proj(x * torch.sigmoid(1.702 * x))
        return found
