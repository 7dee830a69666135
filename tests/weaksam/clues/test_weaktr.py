from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.support.tolerances import assert_near, near, roundings_in
from tests.weaksam.clues.weaktr_by_hand import Fusion, published_state, weaktr_by_hand
from weaksam.clues.published import weaktr_from_published
from weaksam.clues.weaktr import WeakTr, weaktr_loss
from weaksam.config import WeakTrConfig
from weaksam.errors import CheckpointError, ConfigError
from weaksam.networks.small_stem import SmallCnnClassifier

KINDS = ("fine", "coarse", "cross")


def tiny(**changes: object) -> WeakTr:
    torch.manual_seed(0)
    settings: dict[str, object] = {"patch_size": 8, "dim": 32, "depth": 3, "heads": 2, "position_grid": 4}
    settings["fusion_reduction"] = 2
    return WeakTr(WeakTrConfig(**{**settings, **changes}), num_classes=5)  # type: ignore[arg-type]


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """Where rounding would hide a small mistake in a network of 12 blocks."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize(
    ("fusion", "num_classes", "sizes"),
    [
        pytest.param("se", 20, [(224, 224), (333, 500)], id="se-20"),
        pytest.param("feat", 90, [(224, 224), (333, 500)], id="feat-90"),
        pytest.param("none", 20, [(224, 224), (500, 333)], id="none-20"),
    ],
)
@torch.no_grad()
def test_published_weights_give_what_the_specification_gives(
    fusion: Fusion, num_classes: int, sizes: list[tuple[int, int]]
) -> None:
    state = published_state(num_classes=num_classes, fusion=fusion)
    if fusion == "se":
        assert len(state) == 154
        assert sum(value.numel() for value in state.values()) == pytest.approx(21.75e6, abs=5e3)
    network = weaktr_from_published(state, "made here").eval()
    assert network.config.fusion == {"none": "uniform"}.get(fusion, fusion)

    for height, width in sizes:
        h, w = height // 16, width // 16
        image = torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))
        by_hand = weaktr_by_hand(state, image, fusion)
        logits = network(image[None])
        maps = network.activation_maps(image[None], range(num_classes), KINDS, ())
        assert maps["coarse"].shape == (1, num_classes, 1, h, w)
        assert maps["cross"].shape == (1, num_classes, 72, h, w)
        for found, expected in (
            (logits.classes[0], by_hand.y_cls),
            (logits.coarse[0], by_hand.y_coarse),
            (logits.fine[0], by_hand.y_fine),
            (maps["coarse"][0, :, 0], by_hand.coarse),
            (maps["fine"][0, :, 0], by_hand.fine),
            (maps["cross"][0], by_hand.cross.flatten(0, 1).transpose(0, 1)),
        ):
            assert found.dtype == torch.float64
            assert_near(found, expected, length=roundings_in(network))


@torch.no_grad()
def test_only_asked_classes_and_layers_come_in_their_order() -> None:
    network = tiny().eval()
    image = torch.randn(1, 3, 40, 56)
    everything = network.activation_maps(image, range(5), KINDS, ())
    some = network.activation_maps(image, [3, 1], ("cross", "fine"), [3, 2])
    assert set(some) == {"cross", "fine"}
    assert_near(some["fine"], everything["fine"][:, [3, 1]], length=roundings_in(network))
    # head-major: head 0 layers 1 2 3, head 1 layers 1 2 3
    assert_near(some["cross"], everything["cross"][:, [3, 1]][:, :, [1, 2, 4, 5]], length=roundings_in(network))


@pytest.mark.parametrize("fusion", ["se", "feat"])
@torch.no_grad()
def test_exchanging_two_fusion_weights_changes_the_fine_map_only(fusion: Fusion) -> None:
    state = published_state(num_classes=3, fusion=fusion, dim=128, depth=4, grid=4)
    name = "fc" if fusion == "se" else "attn_head_ffn"
    state[f"adaptive_attention_fusion.{name}.0.weight"].abs_()  # no dead unit in the bottleneck
    if fusion == "feat":
        state["adaptive_attention_fusion.attn_feat_ffn.1.bias"] += 3
    image = torch.randn(1, 3, 64, 80)
    before = weaktr_from_published(state, "").eval().activation_maps(image, range(3), KINDS, ())
    key = f"adaptive_attention_fusion.{name}.2.weight"
    state[key] = state[key][[7, 1, 2, 3, 4, 5, 6, 0]]  # head 0 layer 0 with head 1 layer 3
    after = weaktr_from_published(state, "").eval().activation_maps(image, range(3), KINDS, ())
    assert not torch.allclose(before["fine"], after["fine"], rtol=1e-3, atol=0)
    assert torch.equal(before["coarse"], after["coarse"])
    assert torch.equal(before["cross"], after["cross"])


@torch.no_grad()
def test_rows_of_every_attention_map_sum_to_one() -> None:
    network = tiny().eval()
    tokens = torch.randn(2, 9, 32)
    for block in network.blocks:
        tokens, seen = block(tokens)
        assert seen.attention.shape == (2, 2, 9, 9)
        assert_near(seen.attention.sum(dim=-1), torch.ones(2, 2, 9), length=9)


@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize("fusion", ["se", "feat"])
def test_the_fine_logit_trains_the_fusion_alone(fusion: str, pool: str) -> None:
    network = tiny(fusion=fusion, fusion_pool=pool)
    network(torch.randn(2, 3, 32, 32)).fine.sum().backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert trained
    assert {name.split(".")[0] for name in trained} == {"adaptive_attention_fusion"}


def test_uniform_fusion_has_nothing_to_train_and_no_keys() -> None:
    network = tiny(fusion="uniform")
    logits = network(torch.randn(1, 3, 32, 32))
    assert not logits.fine.requires_grad
    assert logits.coarse.requires_grad
    assert not [key for key in network.state_dict() if "fusion" in key]


def test_every_trainable_parameter_gets_a_gradient() -> None:
    network = tiny(fusion="feat", stem="cnn")
    loss, logits = network.training_loss(torch.randn(2, 3, 32, 32), torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 0]]))
    loss.backward()
    assert logits.shape == (2, 5)
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []  # DistributedDataParallel would wait for it
    assert not network.norm.weight.requires_grad


def test_loss_is_the_sum_of_three_soft_margins() -> None:
    network = tiny(depth=1, fusion="uniform").eval()
    logits = network(torch.randn(1, 3, 32, 32))
    zeros = type(logits)(*(torch.zeros(1, 2) for _ in range(3)))
    assert weaktr_loss(zeros, torch.tensor([[1.0, 0.0]])).item() == near(3 * math.log(2), length=4)
    certain = type(logits)(*(torch.tensor([[30.0, -30.0]]) for _ in range(3)))
    assert weaktr_loss(certain, torch.tensor([[1.0, 0.0]])).item() == near(0.0, magnitude=0.1)


def test_a_few_steps_lower_the_loss() -> None:
    network = tiny(stem="cnn", fusion="feat")
    optimizer = torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=1e-3)
    images, targets = torch.randn(4, 3, 32, 32), torch.eye(5)[:4]
    losses = []
    for _ in range(12):
        loss, _ = network.training_loss(images, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("size_hw", "resized"),
    [
        pytest.param((32, 32), False, id="same grid, square"),
        pytest.param((37, 37), False, id="same grid, square with a remainder"),
        pytest.param((64, 16), True, id="as many patches, not square"),
        pytest.param((32, 40), True, id="another grid"),
    ],
)
def test_positions_are_resized_unless_they_fit_a_square_image(size_hw: tuple[int, int], resized: bool) -> None:
    network = tiny()
    with torch.no_grad():
        network.pos_embed.copy_(torch.arange(21.0)[None, :, None].expand(1, 21, 32))
    h, w = size_hw[0] // 8, size_hw[1] // 8
    got = network._positions(h, w, square=size_hw[0] == size_hw[1])
    assert got.shape == (1, 5 + h * w, 32)
    assert torch.equal(got[:, :5], network.pos_embed[:, :5])
    assert torch.equal(got, network.pos_embed) is not resized


def test_cnn_stem_needs_its_own_stride() -> None:
    with pytest.raises(ConfigError, match=r"patch_size: expected 8.*got 16"):
        tiny(stem="cnn", patch_size=16)


def test_too_strong_a_reduction_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 6"):
        tiny(fusion="se", fusion_reduction=7)


def deit_state(network: WeakTr) -> dict[str, Tensor]:
    """A DeiT of the network's size: one class token, a linear classifier."""
    own = network.state_dict()
    state = {k: torch.randn_like(v) for k, v in own.items() if not k.startswith(("head.", "adaptive"))}
    state["cls_token"] = torch.randn(1, 1, 32)
    state["pos_embed"] = torch.randn(1, 1 + 16, 32)
    return {**state, "head.weight": torch.randn(1000, 32), "head.bias": torch.randn(1000)}


def test_deit_initialisation_repeats_the_class_token() -> None:
    network = tiny()
    state = deit_state(network)
    head = network.head.weight.clone()
    network.init_from(state, "test")
    for c in range(5):
        assert torch.equal(network.cls_token[0, c], state["cls_token"][0, 0])
        assert torch.equal(network.pos_embed[0, c], state["pos_embed"][0, 0])
    assert torch.equal(network.pos_embed[0, 5:], state["pos_embed"][0, 1:])
    assert torch.equal(network.blocks[2].mlp.fc1.weight, state["blocks.2.mlp.fc1.weight"])
    assert torch.equal(network.head.weight, head)
    network.cls_token.data[0, 0] += 1  # the copies are independent
    assert not torch.equal(network.cls_token[0, 0], network.cls_token[0, 1])


def test_blocks_on_a_trained_stem_start_out_looking_at_like_patches_and_changing_nothing() -> None:
    torch.manual_seed(0)
    classifier = SmallCnnClassifier(32, 5)
    network = WeakTr(WeakTrConfig(stem="cnn", patch_size=8, dim=32, depth=2, heads=2, fusion_reduction=1), 3)
    network.init_from(classifier.state_dict(), "test")
    assert torch.equal(network.patch_embed.layers[0].weight, classifier.stem.layers[0].weight)
    tokens = torch.randn(1, 40, 32)
    for block in network.blocks:
        after, seen = block(tokens)
        assert torch.equal(after, tokens)  # what is added is 0
        assert torch.equal(seen.attention.mean(1)[0].argmax(1), torch.arange(40))


def test_deit_of_another_size_is_refused_by_name() -> None:
    network = tiny()
    state = deit_state(network)
    other = {k: v for k, v in state.items() if k != "blocks.2.mlp.fc1.bias"} | {"dist_token": torch.zeros(1)}
    differences = r"1 missing: blocks\.2\.mlp\.fc1\.bias; 1 surplus: dist_token"
    with pytest.raises(CheckpointError, match=rf"^w\.pth as a DeiT of 3 blocks: .*: {differences}$"):
        network.init_from(other, "w.pth")
    with pytest.raises(CheckpointError, match=r"pos_embed \(1, 30, 32\) instead of \(1, 21, 32\)"):
        network.init_from({**state, "pos_embed": torch.zeros(1, 26, 32)}, "w.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"cls_token": None}, r"1 missing: cls_token$", id="no class token"),
        pytest.param({"cls_token": torch.zeros(32)}, r"cls_token \(32,\) instead of", id="a flat class token"),
        pytest.param(
            {"cls_token": torch.zeros(1, 3, 32)}, r"cls_token \(1, 7, 32\) instead", id="several class tokens"
        ),
        pytest.param(
            {"adaptive_attention_fusion.fc.0.weight": torch.zeros(1)},
            r"1 surplus: adaptive_att",
            id="a fusion of its own",
        ),
    ],
)
def test_what_is_no_deit_is_refused_and_changes_nothing(change: dict[str, Tensor | None], message: str) -> None:
    network = tiny()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value for key, value in (deit_state(network) | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        network.init_from(state, "w.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
