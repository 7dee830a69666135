"""WeakTr as a slow loop over layers, heads and classes, from the specification alone; and state dicts in its layout.

Nothing here is shared with the network under test: layer norm, GELU, the patch and CAM convolutions and the bicubic
resize of the positional embedding are written out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Fusion = Literal["se", "feat", "none"]


def published_state(
    *, num_classes: int, fusion: Fusion, dim: int = 384, depth: int = 12, grid: int = 14, patch: int = 16
) -> dict[str, Tensor]:
    """Random weights under the published names, large enough that attention is far from uniform."""
    g = torch.Generator().manual_seed(num_classes)
    heads = dim // 64
    maps = heads * depth

    def rand(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=g) * std

    state = {
        "cls_token": rand(1, num_classes, dim, std=0.5),
        "pos_embed": rand(1, num_classes + grid * grid, dim, std=0.5),
        "patch_embed.proj.weight": rand(dim, 3, patch, patch, std=0.03),
        "patch_embed.proj.bias": rand(dim, std=0.1),
        "norm.weight": rand(dim, std=1.0),
        "norm.bias": rand(dim, std=1.0),
        "head.weight": rand(num_classes, dim, 3, 3, std=0.002),
        "head.bias": rand(num_classes, std=0.1),
    }
    shapes = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim)}
    for i in range(depth):
        for name, shape in shapes.items():
            state[f"blocks.{i}.{name}.weight"] = rand(*shape, std=1.2 * shape[1] ** -0.5)
            state[f"blocks.{i}.{name}.bias"] = rand(shape[0], std=0.02)
        for name in ("norm1", "norm2"):
            state[f"blocks.{i}.{name}.weight"] = 1 + rand(dim, std=0.05)
            state[f"blocks.{i}.{name}.bias"] = rand(dim, std=0.05)
    prefix = "adaptive_attention_fusion."
    if fusion == "se":
        hidden = maps // 4
        state[f"{prefix}fc.0.weight"] = rand(hidden, maps, std=3.0)
        state[f"{prefix}fc.2.weight"] = rand(maps, hidden, std=3.0)
    elif fusion == "feat":
        hidden = maps // 8
        state[f"{prefix}attn_feat_ffn.0.weight"] = rand(8, 64, std=0.2)
        state[f"{prefix}attn_feat_ffn.0.bias"] = rand(8, std=0.1)
        state[f"{prefix}attn_feat_ffn.1.weight"] = rand(1, 8, std=0.3)
        state[f"{prefix}attn_feat_ffn.1.bias"] = rand(1, std=0.1)
        state[f"{prefix}attn_head_ffn.0.weight"] = rand(hidden, maps, std=0.3)
        state[f"{prefix}attn_head_ffn.2.weight"] = rand(maps, hidden, std=0.3)
    return state


@dataclass
class ByHand:
    """Everything the specification defines, for one image."""

    y_cls: Tensor  # [C]
    y_coarse: Tensor
    y_fine: Tensor
    coarse: Tensor  # [C, h, w]
    fine: Tensor
    cross: Tensor  # [heads, layers, C, h, w]


def weaktr_by_hand(state: dict[str, Tensor], image: Tensor, fusion: Fusion) -> ByHand:
    """``image`` is a normalised ``[3, H, W]``; pools as published: the mean for "se", the maximum for "feat"."""
    c, dim = state["cls_token"].shape[1:]
    depth = sum(key.endswith("norm1.weight") for key in state)
    heads = dim // 64
    patch = state["patch_embed.proj.weight"].shape[2]
    h, w = image.shape[1] // patch, image.shape[2] // patch

    kernel = state["patch_embed.proj.weight"].reshape(dim, -1)
    rows = [
        kernel @ image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(-1)
        for y in range(h)
        for x in range(w)
    ]
    patches = torch.stack(rows) + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"][0], patches])
    x = x + positions(state["pos_embed"][0], c, h, w, square=image.shape[1] == image.shape[2])

    attention: dict[tuple[int, int], Tensor] = {}  # (head, layer) -> [T, T]
    features: list[Tensor] = []  # per layer [T, D]
    for i in range(depth):
        p = f"blocks.{i}."
        qkv = layer_norm(x, state, p + "norm1") @ state[p + "attn.qkv.weight"].T + state[p + "attn.qkv.bias"]
        outputs = []
        for k in range(heads):
            q, key, v = (qkv[:, part * dim + 64 * k : part * dim + 64 * (k + 1)] for part in range(3))
            scores = torch.exp(q @ key.T * 64**-0.5)
            attention[k, i] = scores / scores.sum(dim=1, keepdim=True)
            outputs.append(attention[k, i] @ v)
        features.append(torch.cat(outputs, dim=1) @ state[p + "attn.proj.weight"].T + state[p + "attn.proj.bias"])
        x = x + features[-1]
        hidden = layer_norm(x, state, p + "norm2") @ state[p + "mlp.fc1.weight"].T + state[p + "mlp.fc1.bias"]
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + hidden @ state[p + "mlp.fc2.weight"].T + state[p + "mlp.fc2.bias"]

    scores = cam_convolution(x[c:].T.reshape(dim, h, w), state["head.weight"], state["head.bias"])
    coarse = scores.clamp(min=0)

    gates = gates_by_hand(state, fusion, attention, features, heads, depth)
    mean_attention = torch.zeros_like(attention[0, 0])
    for k in range(heads):
        for i in range(depth):
            mean_attention += gates[k * depth + i] * attention[k, i] / (heads * depth)
    fine = torch.zeros(c, h * w)
    for one in range(c):
        weighted = mean_attention[one, c:] * coarse[one].reshape(-1)
        fine[one] = mean_attention[c:, c:] @ weighted
    cross = torch.stack(
        [torch.stack([attention[k, i][:c, c:].reshape(c, h, w) for i in range(depth)]) for k in range(heads)]
    )
    return ByHand(
        y_cls=x[:c].mean(dim=1),
        y_coarse=scores.mean(dim=(1, 2)),
        y_fine=fine.mean(dim=1),
        coarse=coarse,
        fine=fine.reshape(c, h, w),
        cross=cross,
    )


def gates_by_hand(
    state: dict[str, Tensor],
    fusion: Fusion,
    attention: dict[tuple[int, int], Tensor],
    features: list[Tensor],
    heads: int,
    depth: int,
) -> Tensor:
    prefix = "adaptive_attention_fusion."
    squeezed = []
    if fusion == "none":
        return torch.full((heads * depth,), 0.5)
    for k in range(heads):
        for i in range(depth):
            if fusion == "se":
                squeezed.append(attention[k, i].mean())
            else:
                pooled = features[i].max(dim=0).values[k::heads]  # channels k, k + heads, k + 2 heads, ...
                mid = state[f"{prefix}attn_feat_ffn.0.weight"] @ pooled + state[f"{prefix}attn_feat_ffn.0.bias"]
                out = state[f"{prefix}attn_feat_ffn.1.weight"] @ mid + state[f"{prefix}attn_feat_ffn.1.bias"]
                squeezed.append(out[0])
    name = "fc" if fusion == "se" else "attn_head_ffn"
    hidden = (state[f"{prefix}{name}.0.weight"] @ torch.stack(squeezed)).clamp(min=0)
    return 1 / (1 + torch.exp(-(state[f"{prefix}{name}.2.weight"] @ hidden)))


def layer_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    variance = (centred**2).mean(dim=1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-6) * state[name + ".weight"] + state[name + ".bias"]


def cam_convolution(patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3, one cell of zeros around."""
    dim, h, w = patches.shape
    padded = torch.zeros(dim, h + 2, w + 2)
    padded[:, 1:-1, 1:-1] = patches
    scores = bias[:, None, None].expand(-1, h, w).clone()
    for dy in range(3):
        for dx in range(3):
            scores += torch.einsum("cd,dhw->chw", weight[:, :, dy, dx], padded[:, dy : dy + h, dx : dx + w])
    return scores


def positions(pos_embed: Tensor, c: int, h: int, w: int, *, square: bool) -> Tensor:
    grid = math.isqrt(len(pos_embed) - c)
    if square and h * w == grid * grid:
        return pos_embed
    patches = pos_embed[c:].reshape(grid, grid, -1)
    down, right = bicubic_matrix(grid, h, (h + 0.1) / grid), bicubic_matrix(grid, w, (w + 0.1) / grid)
    resized = torch.einsum("ya,xb,abd->yxd", down, right, patches)
    return torch.cat([pos_embed[:c], resized.reshape(h * w, -1)])


def bicubic_matrix(size: int, new_size: int, factor: float) -> Tensor:
    """Cubic convolution with a = -0.75, sampled at ``(i + 0.5) / factor - 0.5``, borders repeated: ``[new, size]``."""
    matrix = torch.zeros(new_size, size)
    for i in range(new_size):
        source = (i + 0.5) / factor - 0.5
        first = math.floor(source)
        for tap in range(first - 1, first + 3):
            d = abs(source - tap)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
            matrix[i, min(max(tap, 0), size - 1)] += near if d <= 1 else far
    return matrix
