"""What every segmenter owes: losses of fixed names, probabilities that add up, weights that come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from weaksam.config import DeepLabConfig, Mask2FormerSegmenterConfig, SegmenterConfig, SegmenterNetworkConfig, Weights
from weaksam.config.weights import NO_WEIGHTS
from weaksam.errors import CheckpointError, ConfigError, DataError
from weaksam.label_maps import IGNORED
from weaksam.segmentation.segmenters import SEGMENTERS
from weaksam.segmentation.segmenters.base import Segmenter
from weaksam.segmentation.segmenters.loading import build_segmenter, described_in, load_segmenter, segmenter_to_bytes
from weaksam.structures import IMAGE_LABELS, MASKS

CLASSES = ("cat", "dog", "emu")
SMALL: dict[str, SegmenterNetworkConfig] = {  # of each segmenter, to try it fast
    "deeplab": DeepLabConfig(dim=16, fine_dim=16, rates=(2,), dropout=0.5),
    "mask2former": Mask2FormerSegmenterConfig(
        dim=32, heads=4, encoder_layers=1, encoder_feedforward_dim=32, decoder_layers=2, feedforward_dim=32, queries=10,
        points=64,
    ),
}  # fmt: skip
BACKBONES = ["small", "efficientnet_lite0", "swin_tiny"]

each = pytest.mark.parametrize("name", SEGMENTERS)


def segmenter_of(name: str, backbone: str = "small", **options: object) -> Segmenter:
    torch.manual_seed(0)
    given = {"network": SMALL[name], "backbone": backbone, "init": NO_WEIGHTS, **options}
    return build_segmenter(SegmenterConfig(**given), len(CLASSES))  # type: ignore[arg-type]


def views() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def maps() -> torch.Tensor:
    """Two classes and an ignored corner in the first, nothing decided in the second."""
    label_maps = torch.zeros(2, 64, 96, dtype=torch.uint8)
    label_maps[0, 8:40, 8:44], label_maps[0, 48:, 64:] = 2, IGNORED
    label_maps[1] = IGNORED
    return label_maps


@each
@pytest.mark.parametrize(
    "which", [slice(0, 2), slice(0, 1), slice(1, 2)], ids=["one undecided", "one", "nothing decided"]
)
def test_losses_have_their_names_whatever_there_is_to_learn(name: str, which: slice) -> None:
    segmenter = segmenter_of(name).train()
    losses = segmenter.training_losses(views()[which], maps()[which])
    assert list(losses) == list(segmenter.training_losses(views(), maps()))
    assert all(value.shape == () and value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in segmenter.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    if which.start == 1:
        assert all(value.item() == 0 for value in losses.values())
        assert not any(gradient.any() for gradient in gradients)


@each
@pytest.mark.parametrize("backbone", BACKBONES)
def test_probabilities_add_up_on_even_cells(name: str, backbone: str) -> None:
    segmenter = segmenter_of(name, backbone).eval()
    found = segmenter.probabilities(views())
    assert found.shape == (2, len(CLASSES) + 1, 16, 24)
    assert found.dtype == torch.float32
    assert (found >= 0).all()
    assert found.sum(dim=1) == pytest.approx(torch.ones(2, 16, 24), abs=1e-5)
    assert not found.requires_grad


@each
def test_a_view_does_not_depend_on_its_neighbours(name: str) -> None:
    segmenter = segmenter_of(name).eval()
    alone = torch.cat([segmenter.probabilities(view[None]) for view in views()])
    assert (segmenter.probabilities(views()) - alone).abs().mean() < 1e-4


@each
def test_every_weight_that_learns_is_in_one_group(name: str) -> None:
    segmenter = segmenter_of(name, "efficientnet_lite0", freeze_stages=1)
    groups = segmenter.parameter_groups(segmenter.config)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(p) for p in segmenter.parameters() if p.requires_grad}
    assert {group["lr"] for group in groups} == {1e-3, 1e-3 * 0.3}


@each
@pytest.mark.parametrize("supervision", [IMAGE_LABELS, MASKS])
def test_a_segmenter_survives_saving_and_loading(name: str, supervision: str, tmp_path: Path) -> None:
    segmenter, file = segmenter_of(name), tmp_path / "s.safetensors"
    file.write_bytes(segmenter_to_bytes(segmenter, CLASSES, supervision))
    loaded = load_segmenter(file, segmenter.config)
    assert type(loaded.segmenter) is type(segmenter)
    assert (loaded.class_names, loaded.supervision) == described_in(file) == (CLASSES, supervision)
    assert not loaded.segmenter.training
    assert torch.equal(loaded.segmenter.probabilities(views()), segmenter.eval().probabilities(views()))


@each
def test_other_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    other = next(key for key in SEGMENTERS if key != name)
    file = tmp_path / "s.safetensors"
    file.write_bytes(segmenter_to_bytes(segmenter_of(name), CLASSES, IMAGE_LABELS))
    with pytest.raises(CheckpointError, match=f"expected {other} on small, got {name} on small; set network={name}"):
        load_segmenter(file, segmenter_of(other).config)
    with pytest.raises(CheckpointError, match=f"expected {name} on swin_tiny, got {name} on small"):
        load_segmenter(file, segmenter_of(name, "swin_tiny").config)
    file.write_bytes(save({"a": torch.zeros(1)}, {"format": "pt"}))
    with pytest.raises(CheckpointError, match="expected a segmenter that weaksam trained, got other weights"):
        load_segmenter(file, segmenter_of(name).config)


@each
def test_a_file_of_another_size_is_refused_with_the_option_that_differs(name: str, tmp_path: Path) -> None:
    file = tmp_path / "s.safetensors"
    file.write_bytes(segmenter_to_bytes(segmenter_of(name), CLASSES, IMAGE_LABELS))
    dim = SMALL[name].dim  # type: ignore[attr-defined]
    wider = replace(segmenter_of(name).config, network=replace(SMALL[name], dim=64))  # type: ignore[call-arg]
    with pytest.raises(CheckpointError, match=rf"another model \(network\.dim is {dim} in the file, 64 here\): "):
        load_segmenter(file, wider)


@each
def test_it_starts_from_a_classifier_and_from_nothing_that_saw_masks(name: str, tmp_path: Path) -> None:
    stem = segmenter_of(name, init=Weights("builtin:stem")).backbone.state_dict()
    fresh = segmenter_of(name).backbone.state_dict()
    assert not torch.equal(stem["stem.layers.0.weight"], fresh["stem.layers.0.weight"])
    file = tmp_path / "mask2former.pth"
    torch.save(
        {"state_dict": {"backbone.stages.0.x": torch.zeros(1), "decode_head.query_embed.weight": torch.zeros(1)}}, file
    )
    with pytest.raises(CheckpointError, match=r"got those of a detector or segmenter \(keys with decode_head"):
        segmenter_of(name, "swin_tiny", init=Weights(str(file)))


@each
def test_what_cannot_be_built_is_told(name: str) -> None:
    with pytest.raises(ConfigError, match=r"freeze_stages: expected 0\.\.3 for this backbone, got 4"):
        segmenter_of(name, freeze_stages=4)
    with pytest.raises(DataError, match="expected at most 254 classes"):
        build_segmenter(SegmenterConfig(network=SMALL[name], init=NO_WEIGHTS), 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_side": 100}, "crop_side: expected pixels, a multiple of 32, got 100"),
        ({"resize": (2.0, 1.0)}, "resize: expected the least factor, then the largest"),
        ({"epochs": 0}, "steps: expected steps or epochs of 1 or more"),
        ({"max_side": 64}, r"max_side: expected 128 pixels \(side\) or more, got 64"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmenterConfig(**options)  # type: ignore[arg-type]
