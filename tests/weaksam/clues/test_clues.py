"""Checkpoints, gating and the making of a clue source."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.weaksam.clues.weaktr_by_hand import Fusion, published_state
from weaksam.clues.gating import gate, present_classes
from weaksam.clues.loading import build_classifier, classifier_to_bytes, load_classifier, load_clues
from weaksam.config import CamConfig, CluesConfig, NoCluesConfig, ResNetCamConfig, WeakTrConfig, Weights
from weaksam.errors import CheckpointError, ConfigError

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
TINY = WeakTrConfig(stem="cnn", patch_size=8, dim=32, depth=2, heads=2, position_grid=4, fusion_reduction=2)
ANIMALS = ("ant", "bee", "cat")


def cam(**changes: object) -> CamConfig:
    return CamConfig(**{"scales": (1.0,), "cross_layers": (), **changes})  # type: ignore[arg-type]


def small_published(fusion: Fusion = "se", num_classes: int = 3) -> dict[str, Tensor]:
    return published_state(num_classes=num_classes, fusion=fusion, dim=128, depth=4, grid=4)


@pytest.mark.parametrize(
    ("gating", "labels", "logits", "present"),
    [
        pytest.param("labels", (2, 0), [9.0, 9.0, -9.0], [0, 2], id="labels decide, whatever the logits say"),
        pytest.param("labels", (), [9.0, 9.0, 9.0], [], id="known to show none of the classes"),
        pytest.param("labels", None, [-0.4, -0.6, 3.0], [0, 2], id="unknown: above the threshold"),
        pytest.param("labels", None, [-0.5, -0.5, -0.4], [2], id="the threshold itself is not above it"),
        pytest.param("labels", None, [-3.0, -0.9, -2.0], [1], id="none above: the best"),
        pytest.param("labels", None, [-2.0, -2.0, -2.0], [0], id="none above and a tie: the first"),
        pytest.param("predicted", (2,), [1.0, -3.0, -3.0], [0], id="labels are ignored"),
        pytest.param("predicted", (), [-1.0, -3.0, -3.0], [0], id="empty labels are ignored"),
    ],
)
def test_gating(gating: str, labels: tuple[int, ...] | None, logits: list[float], present: list[int]) -> None:
    assert gate(torch.tensor(logits), labels, CluesConfig(gating=gating)) == present  # type: ignore[arg-type]


def test_known_labels_cost_no_pass(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(classifier_to_bytes(build_classifier(TINY, 3), ANIMALS))
    config = CluesConfig(weights=Weights(str(tmp_path / "c")), cam=cam())
    clues = load_clues(config)
    predicted = gate(clues.logits(IMAGE), None, config)
    assert present_classes(clues, IMAGE, None, config) == predicted
    clues.logits = None  # type: ignore[assignment, method-assign]
    assert present_classes(clues, IMAGE, [2, 1], config) == [1, 2]


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(classifier_to_bytes(build_classifier(TINY, 3), ANIMALS))
    config = CluesConfig(weights=Weights(str(tmp_path / "c")), cam=cam())
    own = load_clues(config)
    other = load_clues(config, class_names=("cat", "ant"))
    assert own.class_names == ANIMALS
    assert other.class_names == ("cat", "ant")
    assert torch.equal(other.logits(IMAGE), own.logits(IMAGE)[[2, 0]])
    (ant,) = other.class_maps(IMAGE, [1])
    (same,) = own.class_maps(IMAGE, [0])
    assert ant.class_index == 1
    assert torch.equal(ant.maps["coarse"], same.maps["coarse"])
    with pytest.raises(ConfigError, match="knows the classes ant, bee, cat; the data set also has dog"):
        load_clues(config, class_names=("ant", "dog"))


def test_only_wanted_kinds_are_computed(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(classifier_to_bytes(build_classifier(TINY, 3), ANIMALS))
    clues = load_clues(CluesConfig(weights=Weights(str(tmp_path / "c")), cam=cam()), kinds=("coarse",))
    assert clues.kinds == ("coarse",)
    (maps,) = clues.class_maps(IMAGE, [0])
    assert set(maps.maps) == {"coarse"}


def test_weights_of_the_other_network_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(
        classifier_to_bytes(build_classifier(ResNetCamConfig(backbone="shufflenet_v2_x0_5"), 3), ANIMALS)
    )
    with pytest.raises(ConfigError, match=r"expected those of weaktr, but .* holds a ResNetCam"):
        load_clues(CluesConfig(weights=Weights(str(tmp_path / "c"))))


def test_without_a_clue_source_there_is_nothing_to_load() -> None:
    with pytest.raises(
        ConfigError, match=r"source: expected one that computes activation maps, got none; .* a grid alone"
    ):
        load_clues(CluesConfig(source=NoCluesConfig()))


def test_a_checksum_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(classifier_to_bytes(build_classifier(TINY, 3), ANIMALS))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_clues(CluesConfig(weights=Weights(str(tmp_path / "c"), "0" * 64)))


@pytest.mark.parametrize("fusion", ["se", "feat", "none"])
def test_published_files_load_wrapped_and_bare(fusion: Fusion, tmp_path: Path) -> None:
    state = small_published(fusion)
    torch.save({"model": state, "epoch": 59, "miou": np.float64(66.2)}, tmp_path / "wrapped.pth")
    torch.save(state, tmp_path / "bare.pth")
    wrapped_config, bare_config = (
        CluesConfig(weights=Weights(str(tmp_path / name)), cam=cam()) for name in ("wrapped.pth", "bare.pth")
    )
    wrapped = load_clues(wrapped_config, class_names=ANIMALS)
    bare = load_clues(bare_config)
    assert wrapped.class_names == ANIMALS
    assert bare.class_names == ("class 0", "class 1", "class 2")
    assert torch.equal(wrapped.logits(IMAGE), bare.logits(IMAGE))
    with pytest.raises(ConfigError, match="has 3 classes without names, the data set has 2"):
        load_clues(bare_config, class_names=("ant", "bee"))


def test_coco_classes_find_their_slots_by_category_id(tmp_path: Path) -> None:
    torch.save(small_published(num_classes=90), tmp_path / "coco.pth")
    config = CluesConfig(weights=Weights(str(tmp_path / "coco.pth")), cam=cam())
    every_slot = load_clues(config)
    coco = load_clues(config, class_names=[f"name {i}" for i in range(80)])
    logits, slots = coco.logits(IMAGE), every_slot.logits(IMAGE)
    assert logits.shape == (80,)
    # person 1, fire hydrant 11, stop sign 13, backpack 27, handbag 31, toothbrush 90
    for class_index, category_id in ((0, 1), (10, 11), (11, 13), (24, 27), (26, 31), (79, 90)):
        assert logits[class_index] == slots[category_id - 1]
    two = load_clues(config, class_names=("stop sign", "person"), class_slots=(12, 0))
    assert torch.equal(two.logits(IMAGE), slots[[12, 0]])


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda s: without(s, "blocks.1.mlp.fc2.bias"), r"1 missing: blocks\.1\.mlp\.fc2\.bias$", id="missing"
        ),
        pytest.param(lambda s: s | {"extra": torch.zeros(1)}, "1 surplus: extra", id="unexpected"),
        pytest.param(
            lambda s: s | {"head.bias": torch.zeros(7)}, r"head\.bias \(7,\) instead of \(3,\)", id="another shape"
        ),
        pytest.param(
            lambda s: without(s, "adaptive_attention_fusion.fc.2.weight"),
            r"'se' fusion: .*: 1 missing: adaptive_attention_fusion\.fc\.2\.weight$",
            id="half a fusion",
        ),
        pytest.param(
            lambda s: without(s, "adaptive_attention_fusion.fc.0.weight"),
            r"1 surplus: adaptive_attention_fusion\.fc\.2\.weight",
            id="the other half",
        ),
        pytest.param(
            lambda s: s | {"adaptive_attention_fusion.attn_head_ffn.0.weight": torch.zeros(1, 8)},
            r"'se' fusion: [^:]*: 1 surplus: adaptive_attention_fusion\.attn_head_ffn\.0\.weight$",
            id="both fusions",
        ),
        pytest.param(
            lambda s: s | {"adaptive_attention_fusion.fc.0.weight": torch.zeros(0, 8)},
            r"fc\.0\.weight \(0, 8\)",
            id="a fusion of nothing",
        ),
        pytest.param(lambda s: {f"module.{k}": v for k, v in s.items()}, "strip that prefix", id="parallel wrapper"),
        pytest.param(
            lambda s: s | {"head.weight": torch.zeros(1000, 128)},
            r"head\.weight.*give it as init of WeakTr",
            id="DeiT",
        ),
        pytest.param(lambda s: {f"encoder.{k}": v for k, v in s.items()}, "segmentation", id="segmentation network"),
        pytest.param(lambda _: {"conv1.weight": torch.zeros(1)}, "convolutional", id="a ResNet"),
        pytest.param(lambda _: {}, "missing or not of.*cls_token", id="nothing"),
        pytest.param(lambda s: s | {"pos_embed": torch.zeros(1, 20, 128)}, r"pos_embed \(1, 20, 128\)", id="odd grid"),
    ],
)
def test_state_dicts_that_do_not_fit_are_refused_by_name(change, message: str, tmp_path: Path) -> None:
    torch.save({"model": change(small_published())}, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=message):
        load_classifier(tmp_path / "wrong.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(pickle.dumps({"model": Evil()}, protocol=2), id="a pickle with code"),
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04 not a zip", id="damaged zip"),
        pytest.param(b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":', id="damaged safetensors"),
        pytest.param(b"<html>Not found</html>", id="a web page"),
    ],
)
def test_files_that_are_no_weights_are_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match="file: "):
        load_classifier(tmp_path / "file")
    assert capsys.readouterr().out == ""


def test_code_inside_a_torch_file_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Evil()}, tmp_path / "file")
    with pytest.raises(CheckpointError, match="could run code"):
        load_classifier(tmp_path / "file")
    assert capsys.readouterr().out == ""


def test_things_that_are_no_state_dict_are_described(tmp_path: Path) -> None:
    torch.save({"model": {"weight": 3}, "epoch": 1}, tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"expected a state dict .* got a dict with weight: int"):
        load_classifier(tmp_path / "file")


def test_a_classifier_of_another_version_is_refused(tmp_path: Path) -> None:
    data = classifier_to_bytes(build_classifier(TINY, 3), ANIMALS)
    (tmp_path / "c").write_bytes(data.replace(b"drop_path", b"drip_path"))
    with pytest.raises(CheckpointError, match=r"'weaktr' that does not fit.*drip_path.*train it again"):
        load_classifier(tmp_path / "c")


def test_initial_weights_come_from_a_file(tmp_path: Path) -> None:
    weaktr = WeakTrConfig(patch_size=8, dim=128, depth=4, heads=2, position_grid=4, fusion_reduction=2)
    deit = {k: v for k, v in small_published("none", num_classes=1).items() if not k.startswith("head.")}
    deit["patch_embed.proj.weight"] = deit["patch_embed.proj.weight"][..., ::2, ::2]
    torch.save({"model": deit | {"head.weight": torch.zeros(1000, 128)}}, tmp_path / "deit.pth")
    network = build_classifier(replace(weaktr, init=Weights(str(tmp_path / "deit.pth"))), 3)
    assert torch.equal(network.state_dict()["cls_token"][0, 2], deit["cls_token"][0, 0])


@pytest.mark.parametrize("weaktr", [TINY, WeakTrConfig()], ids=["another width", "no CNN stem"])
def test_builtin_stem_needs_a_network_that_takes_it(weaktr: WeakTrConfig) -> None:
    with pytest.raises(CheckpointError, match=r"builtin:stem as a .*: the weights belong to another model"):
        build_classifier(replace(weaktr, init=Weights("builtin:stem")), 3)


def test_builtin_stem_is_taken_over() -> None:
    weaktr = WeakTrConfig(stem="cnn", patch_size=8, dim=128, depth=1, heads=2, position_grid=4, fusion_reduction=2)
    started = build_classifier(replace(weaktr, init=Weights("builtin:stem")), 3)
    again = build_classifier(replace(weaktr, init=Weights("builtin:stem")), 3)
    stem = {k: v for k, v in started.state_dict().items() if k.startswith("patch_embed.")}
    assert all(torch.equal(again.state_dict()[k], v) for k, v in stem.items())
