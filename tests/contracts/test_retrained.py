"""What every detector of RETRAINED owes its callers, on the small backbone."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from weaksam.config import (
    DetectConfig,
    DinoConfig,
    FasterRcnnConfig,
    Mask2FormerConfig,
    MaskRcnnConfig,
    RetrainConfig,
    Weights,
)
from weaksam.detectors.inference import detect_alone
from weaksam.detectors.loading import build_retrained, detector_to_bytes, load_retrained
from weaksam.detectors.retrained import RETRAINED
from weaksam.detectors.retrained.base import RetrainedDetector, Targets
from weaksam.errors import CheckpointError, ConfigError
from weaksam.structures import BOXES, IMAGE_LABELS

pytestmark = pytest.mark.parametrize("name", RETRAINED)
CLASSES = ("ant", "bee", "cat")
SMALL = {
    "dino": DinoConfig(
        levels=3, finest_stride=4, dim=32, heads=4, points=2, encoder_layers=1, decoder_layers=2, feedforward_dim=64,
        queries=10, denoising_queries=6,
    ),
    "faster_rcnn": FasterRcnnConfig(
        anchor_sides=(16, 32, 64), pyramid_dim=32, head_dim=32, proposals_before_nms=(100, 100), proposals=60, rois=32,
    ),
    "mask2former": Mask2FormerConfig(
        dim=32, heads=4, encoder_layers=1, encoder_feedforward_dim=32, decoder_layers=2, feedforward_dim=32, queries=10,
        points=64,
    ),
    "mask_rcnn": MaskRcnnConfig(
        anchor_sides=(16, 32, 64), pyramid_dim=32, head_dim=32, proposals_before_nms=(100, 100), proposals=60, rois=32,
        mask_dims=(16, 16),
    ),
}  # fmt: skip
CELLS = MaskRcnnConfig.mask_cells
SIZES_HW = torch.tensor([[64, 96], [40, 33]])
TWO = Targets(
    torch.tensor([[8.0, 8, 44, 40], [30, 20, 90, 60]]), torch.tensor([2, 0]),
    torch.full((2, CELLS, CELLS), 255, dtype=torch.uint8),
)  # fmt: skip
NONE = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, CELLS, CELLS, dtype=torch.uint8))


def config_of(name: str, **options: object) -> RetrainConfig:
    test = DetectConfig(scales=(64,), score_threshold=0.0, nms_iou=0.5, max_detections=20)
    own = {"detector": SMALL[name], "backbone": "small", "freeze_stages": 1, "test": test}
    return RetrainConfig(**(own | options))  # type: ignore[arg-type]


def detector_of(name: str) -> RetrainedDetector:
    torch.manual_seed(0)
    return build_retrained(config_of(name), len(CLASSES))


def images() -> torch.Tensor:
    """Two views, 0 right of and below each."""
    batch = torch.zeros(2, 3, 64, 96)
    generator = torch.Generator().manual_seed(0)
    for image, (height, width) in zip(batch, SIZES_HW.tolist(), strict=True):
        image[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    return batch


@pytest.mark.parametrize("targets", [[TWO, NONE], [NONE, NONE]], ids=["one empty view", "nothing at all"])
def test_losses_have_their_names_whatever_there_is_to_learn(name: str, targets: list[Targets]) -> None:
    torch.manual_seed(0)
    detector = detector_of(name).train()
    found = detector.training_losses(images(), SIZES_HW, targets, 0)
    other = detector.training_losses(images(), SIZES_HW, [TWO, TWO], 1)
    assert list(found.losses) == list(other.losses)
    assert list(found.counts) == list(other.counts)
    assert all(value.shape == () and value.isfinite() for value in (*found.losses.values(), *found.counts.values()))
    assert not any(count.requires_grad for count in found.counts.values())
    torch.stack(list(found.losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


def test_on_efficientnet_lite_of_imagenet_a_step_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    init = Weights("builtin:efficientnet_lite0")
    small = SMALL[name]
    five_levels = {"anchor_sides": (8, 16, 32, 64, 128)} if hasattr(small, "anchor_sides") else {}
    own = {
        "backbone": "efficientnet_lite0",
        "init": init,
        "freeze_stages": 2,
        "detector": replace(small, **five_levels),
    }
    config = config_of(name, **own)
    detector = build_retrained(config, len(CLASSES)).train()
    trained = [p for p in detector.parameters() if p.requires_grad]
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        loss = torch.stack(list(detector.training_losses(images(), SIZES_HW, [TWO, TWO], 0).losses.values())).sum()
        losses.append(float(loss.detach()))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        assert norm.isfinite()
        with torch.no_grad():
            for parameter in trained:
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad
                    parameter.grad = None
    assert losses[1] < losses[0]


def test_every_weight_that_learns_is_in_one_group(name: str) -> None:
    detector = detector_of(name)
    groups = detector.parameter_groups(detector.config)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(p) for p in detector.parameters() if p.requires_grad}


def test_predictions_lie_in_their_view_best_first_and_leave_the_mode_alone(name: str) -> None:
    detector = detector_of(name).train()
    found = detector.predict(images(), SIZES_HW)
    assert len(found) == 2
    for one, (height, width) in zip(found, SIZES_HW.tolist(), strict=True):
        assert len(one.boxes_xyxy) == len(one.class_index) == len(one.score) > 0
        assert (one.score.diff() <= 0).all()
        assert ((one.score >= 0) & (one.score <= 1)).all()
        assert ((one.class_index >= 0) & (one.class_index < len(CLASSES))).all()
        assert (one.boxes_xyxy >= 0).all()
        assert (one.boxes_xyxy <= torch.tensor([width, height, width, height])).all()
        assert not one.score.requires_grad
    assert detector.training


def test_what_is_no_number_is_told_and_not_left_out(name: str) -> None:
    detector = detector_of(name)
    torch.nn.init.constant_(next(detector.backbone.parameters()), torch.nan)
    with pytest.raises(ConfigError, match=r"retrain\.test\.precision: expected finite numbers .* in exact precision"):
        detect_alone(detector, np.full((64, 96, 3), 200, np.uint8))


@pytest.mark.parametrize("supervision", [IMAGE_LABELS, BOXES])
def test_a_detector_survives_saving_and_loading(name: str, supervision: str) -> None:
    detector = detector_of(name)
    data = detector_to_bytes(detector, CLASSES, supervision)
    loaded, names, marked = load_retrained(io.BytesIO(data), detector.config)
    assert type(loaded) is type(detector)
    assert (names, marked) == (CLASSES, supervision)
    assert not loaded.training
    image = (images()[0].permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()
    assert detect_alone(loaded, image).boxes_xyxy.tolist() == detect_alone(detector, image).boxes_xyxy.tolist()


def test_a_file_of_another_detector_is_refused_by_name(name: str) -> None:
    other = next(key for key in RETRAINED if key != name)
    with pytest.raises(CheckpointError, match=f"expected {other} on small, got {name} on small; set detector="):
        load_retrained(io.BytesIO(detector_to_bytes(detector_of(name), CLASSES)), config_of(other))


def test_a_file_of_another_size_is_refused_with_the_option_that_differs(name: str) -> None:
    option = "dim" if hasattr(SMALL[name], "dim") else "head_dim"
    wider = config_of(name, detector=replace(SMALL[name], **{option: 64}))
    message = rf"another model \(detector\.{option} is 32 in the file, 64 here\): .* of another shape: "
    with pytest.raises(CheckpointError, match=message):
        load_retrained(io.BytesIO(detector_to_bytes(detector_of(name), CLASSES)), wider)


def test_more_stages_than_there_are_cannot_be_frozen(name: str) -> None:
    with pytest.raises(ConfigError, match=r"freeze_stages: expected 0\.\.3 for this backbone, got 4"):
        build_retrained(config_of(name, freeze_stages=4), 2)
