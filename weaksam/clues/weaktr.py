"""WeakTr: a plain vision transformer with one class token per class (Zhu et al., arXiv 2304.01184).

Three kinds of maps come out of it: the *coarse* CAM (a convolution on the last patch tokens), the *cross* maps (what
each class token attends to, per head and layer) and the *fine* CAM (the coarse one, weighted by the fused cross maps
and spread over the patches by the fused patch-to-patch attention). WeakSAM section 3.2 prompts SAM with the peaks of all
three. Parameters carry the names of the published checkpoints (``published.py`` reads those).

Letters besides those of ``structures.py``: T = C + P tokens, class tokens first; P = h w patches, row by row; D width;
L layers; A heads. The published quirks are kept on purpose: the final LayerNorm is never applied, the fused attention
is divided by the number of maps and not by the sum of their gates, and ``FeatureFusion`` splits the width the odd way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from weaksam.clues.base import ClueNetwork
from weaksam.config import WeakTrConfig
from weaksam.errors import ConfigError
from weaksam.io.state_dicts import load_strictly
from weaksam.networks.small_stem import SmallCnnStem


class WeakTrLogits(NamedTuple):
    """The three image-level predictions, each float ``[B, C]``."""

    classes: Tensor  # mean of the final class token; the one that decides which classes are present
    coarse: Tensor  # spatial mean of the class scores before the ReLU
    fine: Tensor  # spatial mean of the fine CAM, never negative; trains the fusion only


def weaktr_loss(logits: WeakTrLogits, targets: Tensor) -> Tensor:
    """Sum of three multi-label soft margin losses, weight 1 each (method 1.4).

    Args:
        logits: the network's output.
        targets: float ``[B, C]``, 1 where the class is present, else 0.
    """
    return torch.stack([F.multilabel_soft_margin_loss(one.float(), targets) for one in logits]).sum()


class WeakTr(ClueNetwork):
    """The network; the defaults of ``WeakTrConfig`` with ``num_classes`` 20 are the published VOC model.

    Raises:
        ConfigError: the CNN stem is asked for with a patch size that is not its stride.
    """

    config: WeakTrConfig

    def __init__(self, config: WeakTrConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.smallest_side = config.patch_size
        self.depth = config.depth
        self.patch_embed: nn.Module
        if config.stem == "cnn":
            if config.patch_size != SmallCnnStem.stride:
                raise ConfigError(
                    f"patch_size: expected {SmallCnnStem.stride}, the stride of the CNN stem, got "
                    f"{config.patch_size}; set it, or choose stem=patch"
                )
            self.patch_embed = SmallCnnStem(config.dim)
        else:
            self.patch_embed = _PatchEmbedding(config.patch_size, config.dim)
        self.cls_token = nn.Parameter(torch.empty(1, num_classes, config.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, num_classes + config.position_grid**2, config.dim))
        drops = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(_Block(config.dim, config.heads, drop) for drop in drops)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6).requires_grad_(False)  # in every checkpoint, never applied
        self.head = nn.Conv2d(config.dim, num_classes, kernel_size=3, padding=1)
        self.adaptive_attention_fusion = _build_fusion(config)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> WeakTrLogits:
        """ImageNet-normalised images ``[B, 3, H, W]``, sides of at least one patch -> three logits ``[B, C]`` each.

        No patch-to-patch map is kept: the spatial mean of the fine CAM needs only its mean over rows.
        """
        state = self._encode(images)
        # mean_p sum_q PA[p, q] F[c, q] = sum_q (mean_p PA[p, q]) F[c, q]
        weighted = state.class_attention * state.coarse_scores.relu().detach().flatten(2)  # F: [B, C, P]
        fine = (weighted * self._fuse(state.gates, [layer.patch_mean for layer in state.layers])[:, None]).sum(-1)
        return WeakTrLogits(classes=state.class_tokens.mean(-1), coarse=state.coarse_scores.mean(dim=(2, 3)), fine=fine)

    def training_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``weaktr_loss`` and the class logits ``[B, C]``."""
        logits: WeakTrLogits = self(images)
        return weaktr_loss(logits, targets), logits.classes

    def classify(self, images: Tensor) -> Tensor:
        """Return class logits ``[B, C]``: the mean of each class token."""
        logits: WeakTrLogits = self(images)
        return logits.classes

    def activation_maps(
        self, images: Tensor, class_index: Sequence[int], kinds: Sequence[str], cross_layers: Sequence[int]
    ) -> dict[str, Tensor]:
        """See ``ClueNetwork``; h, w are the patch grid."""
        state = self._encode(images)
        b, _, h, w = state.coarse_scores.shape
        classes = torch.as_tensor(class_index, device=images.device, dtype=torch.long)
        coarse = state.coarse_scores[:, classes].relu()
        maps: dict[str, Tensor] = {}
        for kind in kinds:
            if kind == "coarse":
                maps[kind] = coarse[:, :, None]
            elif kind == "fine":
                weighted = state.class_attention[:, classes] * coarse.flatten(2)
                maps[kind] = self._spread(state, weighted).reshape(b, len(classes), 1, h, w)
            else:
                layers = [state.layers[i - 1] for i in sorted(cross_layers)] if cross_layers else state.layers
                cross = torch.stack([layer.class_to_patch[:, :, classes] for layer in layers], dim=2)  # [B, A, L, C, P]
                maps[kind] = cross.flatten(1, 2).transpose(1, 2).reshape(b, len(classes), -1, h, w)
        return maps

    def init_from(self, state: Mapping[str, Tensor], where: str) -> None:
        """See ``ClueNetwork``; a DeiT of the same width, depth and patch size (``deit_small_patch16_224``).

        Its class token and that token's positional embedding are repeated C times. The CAM head and the fusion keep their
        random values. With a CNN stem it is a ``SmallCnnClassifier`` instead, see ``_init_from_stem``.
        """
        if self.config.stem == "cnn":
            self._init_from_stem(state, where)
            return
        own = {key: value for key, value in state.items() if not key.startswith(("head.", "head_dist."))}
        for name in ("cls_token", "pos_embed"):
            if name in own and own[name].ndim == 3:
                of_class, of_patches = own[name][:, :1], own[name][:, 1:]
                own[name] = torch.cat([of_class.expand(-1, self.num_classes, -1), of_patches], dim=1)
        fitting = f"{where} as a DeiT of {self.config.depth} blocks"
        load_strictly(self, own, where=fitting, keep=("head.", "adaptive_attention_fusion."))

    def _init_from_stem(self, state: Mapping[str, Tensor], where: str) -> None:
        """Start from the trained CNN stem of a classifier, with blocks that already attend to like patches.

        Queries and keys start as the same random rotation of the tokens, so that patch-to-patch attention is an affinity
        from the first step on, as it is in a pretrained transformer (mimetic initialization, Trockman and Kolter, ICML
        2023); output projections start at zero, so that the blocks begin by changing nothing. A few hundred images do not
        teach this: with the usual random start the fine CAM's peaks avoid the objects.
        """
        stem = {key.removeprefix("stem."): value for key, value in state.items() if not key.startswith("head.")}
        load_strictly(self.patch_embed, stem, where=f"{where} as a CNN stem of {self.config.dim} channels")
        d = self.config.dim
        for block in self.blocks:
            assert isinstance(block, _Block)
            rotation = nn.init.orthogonal_(torch.empty(d, d))
            with torch.no_grad():
                block.attn.qkv.weight[: 2 * d] = rotation.repeat(2, 1)
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)

    def _encode(self, images: Tensor) -> _Encoded:
        patches = self.patch_embed(images)  # [B, D, h, w]
        h, w = patches.shape[2:]
        c = self.num_classes
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).mT], dim=1)
        tokens = tokens + self._positions(h, w, square=images.shape[2] == images.shape[3])
        layers = []
        for block in self.blocks:
            tokens, seen = block(tokens)
            layers.append(
                _Layer(
                    queries=seen.queries,
                    keys=seen.keys,
                    class_to_patch=seen.attention[:, :, :c, c:].clone(),  # a view would keep all of it alive
                    patch_mean=seen.attention[:, :, c:, c:].mean(dim=2),
                    statistic=self.adaptive_attention_fusion.statistic(seen.attention, seen.features),
                )
            )
        gates = self.adaptive_attention_fusion(torch.stack([layer.statistic for layer in layers], dim=2))
        return _Encoded(
            class_tokens=tokens[:, :c],
            coarse_scores=self.head(tokens[:, c:].mT.reshape(len(images), -1, h, w)),
            layers=layers,
            gates=gates,
            class_attention=self._fuse(gates, [layer.class_to_patch for layer in layers]),
        )

    def _positions(self, h: int, w: int, *, square: bool) -> Tensor:
        """Positional embedding ``[1, C + h w, D]``; the patch part is resized unless it fits and the image is square."""
        grid: int = self.config.position_grid
        if square and h * w == grid * grid:
            return self.pos_embed
        classes, patches = self.pos_embed[:, : self.num_classes], self.pos_embed[:, self.num_classes :]
        # The published code resizes by factors with 0.1 added, which also shifts where the embedding is sampled.
        patches = F.interpolate(
            patches.mT.reshape(1, -1, grid, grid),
            scale_factor=((h + 0.1) / grid, (w + 0.1) / grid),
            mode="bicubic",
            align_corners=False,
        )
        return torch.cat([classes, patches.flatten(2).mT], dim=1)

    def _fuse(self, gates: Tensor, per_layer: Sequence[Tensor]) -> Tensor:
        """Gated sum over heads and layers of L tensors ``[B, A, ...]``, divided by their number: ``[B, ...]``."""
        stacked = torch.stack(list(per_layer), dim=2)  # [B, A, L, ...]
        fused: Tensor = torch.einsum("bal,bal...->b...", gates, stacked)
        return fused / gates[0].numel()

    def _spread(self, state: _Encoded, weighted: Tensor) -> Tensor:
        """Fused patch-to-patch attention times ``weighted [B, K, P]``: ``[B, K, P]``.

        Attending with ``weighted`` for values is that product, head by head, without ever holding all the L A maps of
        P x P; class tokens get the value 0.
        """
        c = self.num_classes
        values = F.pad(weighted.mT, (0, 0, c, 0))[:, None].expand(-1, self.config.heads, -1, -1)  # [B, A, T, K]
        spread = [
            F.scaled_dot_product_attention(layer.queries[:, :, c:], layer.keys, values.to(layer.keys.dtype))
            for layer in state.layers
        ]
        return self._fuse(state.gates, spread).mT


@dataclass(frozen=True)
class _Layer:
    """What the maps and the fusion need of one layer; detached from the graph."""

    queries: Tensor  # [B, A, T, D / A]
    keys: Tensor  # [B, A, T, D / A]
    class_to_patch: Tensor  # [B, A, C, P]
    patch_mean: Tensor  # [B, A, P] mean over the attending patches
    statistic: Tensor  # [B, A, S] what the fusion judges the heads by


@dataclass(frozen=True)
class _Encoded:
    class_tokens: Tensor  # [B, C, D] of the last block
    coarse_scores: Tensor  # [B, C, h, w]
    layers: list[_Layer]
    gates: Tensor  # [B, A, L] in (0, 1)
    class_attention: Tensor  # [B, C, P] fused over heads and layers


class _PatchEmbedding(nn.Module):
    """Patches without overlap -> tokens; pixels right of and below the last whole patch are ignored."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.proj(images)
        return features


class _Seen(NamedTuple):
    """One attention layer's inner values, detached: y_fine must train the fusion only."""

    queries: Tensor  # [B, A, T, D / A]
    keys: Tensor
    attention: Tensor  # [B, A, T, T] rows sum to 1
    features: Tensor  # [B, T, D] after the output projection, before the residual


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> tuple[Tensor, _Seen]:
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, A, T, D / A]
        attention = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1)
        features = self.proj((attention @ v).transpose(1, 2).flatten(2))
        return features, _Seen(q.detach(), k.detach(), attention.detach(), features.detach())


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return features


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _Mlp(dim)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, tokens: Tensor) -> tuple[Tensor, _Seen]:
        features, seen = self.attn(self.norm1(tokens))
        tokens = tokens + self.drop_path(features)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens))), seen


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _build_fusion(config: WeakTrConfig) -> UniformFusion | AttentionFusion | FeatureFusion:
    match config.fusion:
        case "uniform":
            return UniformFusion()
        case "se":
            return AttentionFusion(config)
        case "feat":
            return FeatureFusion(config)


class UniformFusion(nn.Module):
    """Every head of every layer counts the same, gate 0.5: what the published gates come to (method 1.2)."""

    def statistic(self, attention: Tensor, _features: Tensor) -> Tensor:
        """Nothing is judged: ``[B, A, 0]``."""
        return attention.new_empty(*attention.shape[:2], 0)

    def forward(self, statistics: Tensor) -> Tensor:
        """``[B, A, L, S] -> [B, A, L]``."""
        return statistics.new_full(statistics.shape[:3], 0.5)


class AttentionFusion(nn.Module):
    """ "se", WeakTr's first version: a head is judged by its attention map, pooled to one number.

    With average pooling that number is 1/T for every head, since rows sum to 1, so that the gates are constants.
    """

    def __init__(self, config: WeakTrConfig) -> None:
        super().__init__()
        self.pool = config.fusion_pool
        self.fc = _excitation(config)

    def statistic(self, attention: Tensor, _features: Tensor) -> Tensor:
        """``[B, A, T, T] -> [B, A, 1]``."""
        pooled = attention.mean(dim=(2, 3)) if self.pool == "avg" else attention.amax(dim=(2, 3))
        return pooled[..., None]

    def forward(self, statistics: Tensor) -> Tensor:
        """``[B, A, L, 1] -> gates [B, A, L]`` in (0, 1)."""
        gates: Tensor = self.fc(statistics.flatten(1))
        return gates.view(statistics.shape[:3])


class FeatureFusion(nn.Module):
    """ "feat", WeakTr's later versions: a head is judged by the layer's output features, pooled over the tokens.

    The width is split as (D / A, A): head a owns the channels a, a + A, a + 2A, ... This is not how the attention splits
    it, but it is what the published weights were trained with.
    """

    def __init__(self, config: WeakTrConfig) -> None:
        super().__init__()
        self.pool = config.fusion_pool
        self.heads = config.heads
        head_dim = config.dim // config.heads
        self.attn_feat_ffn = nn.Sequential(nn.Linear(head_dim, head_dim // 8), nn.Linear(head_dim // 8, 1))
        self.attn_head_ffn = _excitation(config)

    def statistic(self, _attention: Tensor, features: Tensor) -> Tensor:
        """``[B, T, D] -> [B, A, D / A]``."""
        pooled = features.mean(dim=1) if self.pool == "avg" else features.amax(dim=1)
        return pooled.reshape(len(pooled), -1, self.heads).mT

    def forward(self, statistics: Tensor) -> Tensor:
        """``[B, A, L, D / A] -> gates [B, A, L]`` in (0, 1)."""
        gates: Tensor = self.attn_head_ffn(self.attn_feat_ffn(statistics).flatten(1))
        return gates.view(statistics.shape[:3])


def _excitation(config: WeakTrConfig) -> nn.Sequential:
    """Gates from one number per (head, layer), head-major; a bottleneck of ``maps // reduction`` without biases."""
    maps = config.heads * config.depth
    hidden = maps // config.fusion_reduction
    if hidden < 1:
        raise ConfigError(f"fusion_reduction: expected at most {maps} = heads * depth, got {config.fusion_reduction}")
    return nn.Sequential(
        nn.Linear(maps, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, maps, bias=False), nn.Sigmoid()
    )
