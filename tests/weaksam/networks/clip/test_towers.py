"""CLIP's towers: open_clip's layout, and what plain loops over tokens and heads say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import load_strictly
from weaksam.networks.clip.towers import Clip, ClipArchitecture, resized_to_patches

SMALL = ClipArchitecture(
    embed_dim=12, image_dim=16, image_layers=3, image_heads=2, patch=4, grid=3, text_dim=8, text_layers=2, text_heads=2,
    context_length=10, vocabulary=20,
)  # fmt: skip


def layout(own: ClipArchitecture) -> dict[str, tuple[int, ...]]:
    """Name -> shape of open_clip's state dict, from its table and not from our module."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (own.context_length, own.text_dim),
        "text_projection": (own.text_dim, own.embed_dim),
        "logit_scale": (),
        "token_embedding.weight": (own.vocabulary, own.text_dim),
        "ln_final.weight": (own.text_dim,),
        "ln_final.bias": (own.text_dim,),
        "visual.class_embedding": (own.image_dim,),
        "visual.positional_embedding": (1 + own.grid**2, own.image_dim),
        "visual.proj": (own.image_dim, own.embed_dim),
        "visual.conv1.weight": (own.image_dim, 3, own.patch, own.patch),
    }
    shapes |= {
        f"visual.{norm}.{part}": (own.image_dim,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")
    }
    for prefix, dim, layers in (
        ("visual.transformer", own.image_dim, own.image_layers),
        ("transformer", own.text_dim, own.text_layers),
    ):
        for number in range(layers):
            block = f"{prefix}.resblocks.{number}"
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * dim, dim),
                f"{block}.attn.in_proj_bias": (3 * dim,),
                f"{block}.attn.out_proj.weight": (dim, dim),
                f"{block}.attn.out_proj.bias": (dim,),
                f"{block}.mlp.c_fc.weight": (4 * dim, dim),
                f"{block}.mlp.c_fc.bias": (4 * dim,),
                f"{block}.mlp.c_proj.weight": (dim, 4 * dim),
                f"{block}.mlp.c_proj.bias": (dim,),
            }
            shapes |= {f"{block}.{norm}.{part}": (dim,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    return shapes


def random_state(own: ClipArchitecture) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in layout(own).items()}
    return {name: value + 1 if ".ln_" in name and name.endswith("weight") else value for name, value in state.items()}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state(SMALL)


@pytest.fixture(scope="module")
def clip(state: dict[str, Tensor]) -> Clip:
    clip = Clip(SMALL)
    load_strictly(clip, state, where="random")
    return clip


def test_vit_b_16_has_the_tensors_of_the_published_one() -> None:
    shapes = layout(ClipArchitecture())
    assert len(shapes) == 302
    assert sum(math.prod(shape) for shape in shapes.values()) == 149_620_737
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in Clip().state_dict().items()}
    assert own == shapes


def test_another_layout_is_refused_with_what_differs(state: dict[str, Tensor]) -> None:
    renamed = {name.replace("visual.", "vision_model."): value for name, value in state.items()}
    with pytest.raises(CheckpointError, match="visual"):
        load_strictly(Clip(SMALL), renamed, where="other.safetensors")


def normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def slow_attention(x: Tensor, state: dict[str, Tensor], block: str, heads: int, causal: bool) -> tuple[Tensor, Tensor]:
    """Of one image or prompt ``[L, D]``: what is attended, and the mean attention, query by query and head by head."""
    L, D = x.shape
    width = D // heads
    q, k, v = (x @ state[f"{block}.attn.in_proj_weight"].T + state[f"{block}.attn.in_proj_bias"]).split(D, dim=1)
    found, mean = torch.zeros(L, D), torch.zeros(L, L)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for i in range(L):
            seen = range(i + 1) if causal else range(L)
            alike = torch.stack([(q[i, own] * k[j, own]).sum() / width**0.5 for j in seen])
            shares = (alike - alike.max()).exp() / (alike - alike.max()).exp().sum()
            for share, j in zip(shares, seen, strict=True):
                found[i, own] += share * v[j, own]
                mean[i, j] += share / heads
    return found @ state[f"{block}.attn.out_proj.weight"].T + state[f"{block}.attn.out_proj.bias"], mean


def slow_block(
    x: Tensor, state: dict[str, Tensor], block: str, heads: int, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    attended, attention = slow_attention(normed(x, state, f"{block}.ln_1"), state, block, heads, causal)
    x = x + attended
    hidden = normed(x, state, f"{block}.ln_2") @ state[f"{block}.mlp.c_fc.weight"].T + state[f"{block}.mlp.c_fc.bias"]
    hidden = hidden / (1 + (-1.702 * hidden).exp())
    return x + hidden @ state[f"{block}.mlp.c_proj.weight"].T + state[f"{block}.mlp.c_proj.bias"], attention


@torch.no_grad()
def test_an_image_is_what_loops_over_its_patches_say(clip: Clip, state: dict[str, Tensor]) -> None:
    images = torch.randn(2, 3, 8, 20, generator=torch.Generator().manual_seed(1))
    found = clip.visual.before_last_block(images, attention_of=(2, 3))
    embedding = clip.visual.embedding(found.tokens, found.activations)
    grid = state["visual.positional_embedding"][1:].view(3, 3, 16).permute(2, 0, 1)
    positions = F.interpolate(grid[None], (2, 5), mode="bilinear", align_corners=False)[0]
    for n, image in enumerate(images):
        tokens = [state["visual.class_embedding"] + state["visual.positional_embedding"][0]]
        for row in range(2):
            for column in range(5):
                patch = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                seen = (state["visual.conv1.weight"] * patch).sum(dim=(1, 2, 3))
                tokens.append(seen + positions[:, row, column])
        x = normed(torch.stack(tokens), state, "visual.ln_pre")
        attentions = []
        for number in range(3):
            if number == 2:
                torch.testing.assert_close(found.tokens[n], x, rtol=1e-4, atol=1e-4)
            x, attention = slow_block(x, state, f"visual.transformer.resblocks.{number}", 2)
            attentions.append(attention)
        expected = normed(x[1:], state, "visual.ln_post").mean(dim=0) @ state["visual.proj"]
        torch.testing.assert_close(embedding[n], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.attention[n], (attentions[1] + attentions[2]) / 2, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_a_prompt_is_what_loops_over_its_tokens_say_and_what_follows_its_end_changes_nothing(
    clip: Clip, state: dict[str, Tensor]
) -> None:
    prompts = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(2))
    last = torch.tensor([4, 6, 2])
    found = clip.text_embedding(prompts, last)
    for n, prompt in enumerate(prompts):
        x = prompt + state["positional_embedding"][:7]
        for number in range(2):
            x, _ = slow_block(x, state, f"transformer.resblocks.{number}", 2, causal=True)
        expected = normed(x[last[n]], state, "ln_final") @ state["text_projection"]
        torch.testing.assert_close(found[n], expected, rtol=1e-3, atol=1e-4)
    short = clip.text_embedding(prompts[[0, 2], :5], last[[0, 2]])
    torch.testing.assert_close(short, found[[0, 2]], rtol=1e-4, atol=1e-5)


def test_logits_are_cosines_times_the_scale(clip: Clip) -> None:
    images, texts = torch.tensor([[3.0, 0]]), torch.tensor([[2.0, 0], [0, 5], [1, 1]])
    scale = clip.logit_scale.exp().item()
    assert clip.logits(images, texts)[0].tolist() == pytest.approx([scale, 0, scale / 2**0.5], rel=1e-5)


def test_positions_of_the_own_grid_are_the_table(clip: Clip) -> None:
    torch.testing.assert_close(clip.visual.positions((3, 3)), clip.visual.positional_embedding)


def test_the_last_block_is_differentiated_by_its_activations_alone(clip: Clip) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    before = clip.visual.before_last_block(images)
    assert not before.tokens.requires_grad
    activations = before.activations.clone().requires_grad_()
    score = clip.visual.embedding(before.tokens, activations)[0].sum()
    (gradient,) = torch.autograd.grad(score, activations)
    assert (gradient[0] != 0).any()
    assert (gradient[1] == 0).all()  # images do not interact
    assert not any(
        isinstance(module, nn.MultiheadAttention) for module in clip.modules()
    )  # whose kernels lack a second gradient
    assert not any(parameter.requires_grad for parameter in clip.parameters())


@pytest.mark.parametrize(
    ("size_hw", "options", "expected"),
    [
        ((10, 1050), {"max_side": 640}, (16, 640)),  # 640 / 1050 * 1050 is a little more than 640 in floating point
        ((1066, 533), {"max_side": 640}, (640, 320)),
        ((1098, 1098), {"max_side": 640}, (640, 640)),
        ((100, 50), {"max_side": 640}, (112, 64)),
        ((100, 50), {"scale": 2.0}, (208, 112)),
        ((100, 50), {"scale": 2.0, "max_side": 160}, (160, 80)),
        ((100, 50), {"max_side": 20}, (32, 16)),
    ],
)
def test_sides_are_the_fewest_whole_patches(
    size_hw: tuple[int, int], options: dict[str, float], expected: tuple[int, int]
) -> None:
    assert resized_to_patches(np.zeros((*size_hw, 3), np.uint8), 16, **options).shape == (*expected, 3)
