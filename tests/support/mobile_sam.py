"""MobileSAM by its specification, written out: names and shapes of the published file, and a slow encoder on such tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from torch import Tensor

E = "image_encoder."
# Stages of attention blocks: width, blocks, heads, window.
STAGES = {1: (128, 2, 4, 7), 2: (160, 6, 5, 14), 3: (320, 2, 10, 7)}
WIDTHS = (64, 128, 160, 320)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the 439 tensors of ``mobile_sam.pt``; prompt encoder and decoder are any SAM's."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv_norm(name: str, *weight: int) -> None:
        shapes[f"{name}.c.weight"] = weight
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = weight[:1]
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    def with_bias(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    conv_norm(f"{E}patch_embed.seq.0", 32, 3, 3, 3)
    conv_norm(f"{E}patch_embed.seq.2", 64, 32, 3, 3)
    for n in range(2):
        conv_norm(f"{E}layers.0.blocks.{n}.conv1", 256, 64, 1, 1)
        conv_norm(f"{E}layers.0.blocks.{n}.conv2", 256, 1, 3, 3)
        conv_norm(f"{E}layers.0.blocks.{n}.conv3", 64, 256, 1, 1)
    for stage, (width, blocks, heads, window) in STAGES.items():
        for n in range(blocks):
            block = f"{E}layers.{stage}.blocks.{n}"
            with_bias(f"{block}.attn.norm", width)
            with_bias(f"{block}.attn.qkv", 3 * width, width)
            with_bias(f"{block}.attn.proj", width, width)
            shapes[f"{block}.attn.attention_biases"] = (heads, window**2)
            conv_norm(f"{block}.local_conv", width, 1, 3, 3)
            with_bias(f"{block}.mlp.norm", width)
            with_bias(f"{block}.mlp.fc1", 4 * width, width)
            with_bias(f"{block}.mlp.fc2", width, 4 * width)
    for stage in range(3):
        before, after = WIDTHS[stage : stage + 2]
        conv_norm(f"{E}layers.{stage}.downsample.conv1", after, before, 1, 1)
        conv_norm(f"{E}layers.{stage}.downsample.conv2", after, 1, 3, 3)
        conv_norm(f"{E}layers.{stage}.downsample.conv3", after, after, 1, 1)
    with_bias(f"{E}norm_head", 320)
    with_bias(f"{E}head", 1000, 320)
    shapes[f"{E}neck.0.weight"], shapes[f"{E}neck.2.weight"] = (256, 320, 1, 1), (256, 256, 3, 3)
    with_bias(f"{E}neck.1", 256)
    with_bias(f"{E}neck.3", 256)
    with torch.device("meta"):
        others = sam_model_registry["vit_b"]().state_dict()
    return shapes | {name: tuple(value.shape) for name, value in others.items() if not name.startswith(E)}


def random_state(seed: int = 0) -> dict[str, Tensor]:
    """Return tensors by these names, of a size that keeps activations near 1; norms are not at their start."""
    drawn = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in published_shapes().items():
        value = torch.randn(shape, generator=drawn)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(1)
        elif name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) > 1 and not name.endswith("attention_biases"):
            value = value / math.sqrt(math.prod(shape[1:]))
        elif "norm" in name or ".bn." in name or "neck" in name:
            value = 1 + 0.1 * value if name.endswith("weight") else 0.1 * value
        state[name] = value
    return state


def encode(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Run the image encoder as its specification says, window by window and head by head."""

    def conv_norm(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{E}{name}.c.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=groups)
        norm = [state[f"{E}{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        mean, variance, scale, shift = (values[:, None, None] for values in norm)
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def layer_norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{E}{name}.weight"], state[f"{E}{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{E}{name}.weight"], state[f"{E}{name}.bias"])

    def attend(tokens: Tensor, name: str, heads: int, window: int) -> Tensor:
        """Attention within one window: tokens ``[window * window, width]``."""
        width = tokens.shape[1]
        each = linear(layer_norm(tokens, f"{name}.norm"), f"{name}.qkv").view(-1, heads, 3, width // heads)
        cells = [(n // window, n % window) for n in range(window**2)]
        index = torch.tensor([[abs(y - v) * window + abs(x - u) for v, u in cells] for y, x in cells])
        out = []
        for head in range(heads):
            query, key, value = each[:, head].unbind(1)
            scores = query @ key.T * (width // heads) ** -0.5 + state[f"{E}{name}.attention_biases"][head][index]
            out.append(scores.softmax(dim=1) @ value)
        return linear(torch.cat(out, dim=1), f"{name}.proj")

    def block(x: Tensor, name: str, heads: int, window: int) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % window, 0, -height % window))
        attended = torch.zeros_like(padded)
        for top in range(0, padded.shape[2], window):
            for left in range(0, padded.shape[3], window):
                place = (slice(None), slice(top, top + window), slice(left, left + window))
                tokens = padded[0][place].flatten(1).T
                attended[0][place] = attend(tokens, f"{name}.attn", heads, window).T.view(-1, window, window)
        x = x + attended[:, :, :height, :width]
        x = conv_norm(x, f"{name}.local_conv", groups=x.shape[1])
        tokens = x[0].flatten(1).T
        hidden = F.gelu(linear(layer_norm(tokens, f"{name}.mlp.norm"), f"{name}.mlp.fc1"))
        return x + linear(hidden, f"{name}.mlp.fc2").T.view_as(x)

    def downsample(x: Tensor, stage: int) -> Tensor:
        name = f"layers.{stage}.downsample"
        x = F.gelu(conv_norm(x, f"{name}.conv1"))
        x = F.gelu(conv_norm(x, f"{name}.conv2", stride=1 if stage == 2 else 2, groups=x.shape[1]))
        return conv_norm(x, f"{name}.conv3")

    x = conv_norm(images, "patch_embed.seq.0", stride=2)
    x = conv_norm(F.gelu(x), "patch_embed.seq.2", stride=2)
    for n in range(2):
        name = f"layers.0.blocks.{n}"
        inner = F.gelu(conv_norm(x, f"{name}.conv1"))
        inner = F.gelu(conv_norm(inner, f"{name}.conv2", groups=256))
        x = F.gelu(x + conv_norm(inner, f"{name}.conv3"))
    x = downsample(x, 0)
    for stage, (_, blocks, heads, window) in STAGES.items():
        for n in range(blocks):
            x = block(x, f"layers.{stage}.blocks.{n}", heads, window)
        if stage < 3:
            x = downsample(x, stage)

    def layer_norm_2d(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
        scale, shift = (state[f"{E}{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / torch.sqrt(variance + 1e-6) * scale + shift

    x = layer_norm_2d(F.conv2d(x, state[f"{E}neck.0.weight"]), "neck.1")
    return layer_norm_2d(F.conv2d(x, state[f"{E}neck.2.weight"], padding=1), "neck.3")
