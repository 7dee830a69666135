import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tests.support.tolerances import assert_near, roundings_in
from weaksam.config import MilConfig, OicrConfig, Weights
from weaksam.detectors.loading import build_detector, pixel_format
from weaksam.detectors.mil import MIL_DETECTORS
from weaksam.detectors.mil.mist import Mist
from weaksam.errors import CheckpointError, ConfigError
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.io.file_notes import file_sha256
from weaksam.io.weights import PUBLISHED, Published
from weaksam.networks.pixels import IMAGENET
from weaksam.networks.roi_backbones import ROI_BACKBONES, SmallRoiBackbone, build_roi_backbone

PIXEL = np.array([[[255, 0, 51]]], dtype=np.uint8)  # red 1, green 0, blue .2
OF_IMAGENET = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]


@pytest.mark.parametrize(
    ("backbone", "detector", "expected"),
    [
        pytest.param("vgg16.torchvision", "mist", OF_IMAGENET, id="torchvision"),
        # blue, green, red
        pytest.param("vgg16.caffe", "mist", [51 - 102.98, 0 - 115.95, 255 - 122.77], id="caffe-mist"),
        pytest.param("vgg16.caffe", "oicr", [51.0 - 104, -117.0, 255.0 - 124], id="caffe-oicr"),
        pytest.param("small", "oicr", OF_IMAGENET, id="small"),
    ],
)
def test_pixels_become_what_the_weights_want(backbone, detector, expected):
    pixels = pixel_format(MilConfig(detector=MIL_DETECTORS[detector](), backbone=backbone))
    found = pixels.normalise(PIXEL)
    assert found.shape == (3, 1, 1)
    assert_near(found.flatten(), expected, length=4)
    assert_near(pixels.normalise(PIXEL.astype(np.float32) / 255), found, length=4)


def test_a_body_normalises_by_its_own_format():
    body = SmallRoiBackbone(0.0)
    assert torch.equal(body.normalise(PIXEL), IMAGENET.normalise(PIXEL))


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        # Of stride 4: the first pixel / 4 and the last pixel / 4, rounded, are the first and last cell.
        pytest.param([0, 0, 20, 20], (0, 0, 5, 5), id="the-last-pixel-rounds-up"),  # 19 / 4 = 4.75 -> 5
        pytest.param([8, 4, 9, 5], (2, 1, 2, 1), id="one-pixel-is-one-cell"),
        pytest.param([8, 4, 8.1, 4.1], (2, 1, 2, 1), id="less-than-a-pixel-is-one-cell"),
        pytest.param([6, 0, 16, 16], (2, 0, 4, 4), id="half-a-cell-rounds-up"),  # 6 / 4 = 1.5 -> 2, 15 / 4 -> 4
    ],
)
def test_pooling_reaches_from_the_first_to_the_last_cell_of_a_box(box, cells):
    body = SmallRoiBackbone(0.0)
    features = torch.arange(64.0).view(1, 1, 8, 8)  # cell (x, y) holds 8 y + x
    pooled = body.pool(features, torch.tensor([box]), torch.tensor([0]))
    assert pooled.shape == (1, 1, 5, 5)
    x1, y1, x2, y2 = cells
    assert pooled[0, 0, 0, 0] >= 8 * y1 + x1
    assert pooled.amin() >= 8 * y1 + x1
    assert pooled.amax() == 8 * y2 + x2


def test_as_many_cells_as_bins_are_taken_as_they_are():
    features = torch.arange(64.0).view(1, 1, 8, 8)
    pooled = SmallRoiBackbone(0.0).pool(
        features, torch.tensor([[4, 8, 20, 24.0]]), torch.tensor([0])
    )  # 19 / 4 -> 5, 23 / 4 -> 6
    assert torch.equal(pooled, features[:, :, 2:7, 1:6])


def test_pooling_looks_into_the_image_that_a_box_lies_in():
    features = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    boxes = torch.tensor([[0, 0, 16, 16.0]] * 3)
    pooled = SmallRoiBackbone(0.0).pool(features, boxes, torch.tensor([1, 0, 1]))
    assert pooled.amax(dim=(1, 2, 3)).tolist() == [1, 0, 1]
    assert SmallRoiBackbone(0.0).pool(features, boxes[:0], torch.zeros(0, dtype=torch.long)).shape == (0, 1, 5, 5)


@pytest.mark.parametrize("backbone", ROI_BACKBONES)
def test_sizes_are_what_a_body_says(backbone):
    body = build_roi_backbone(backbone, vgg=Mist.vgg, dropout=0.5).eval()
    with torch.no_grad():
        features = body.features(torch.zeros(1, 3, 64, 96))
        assert features.shape == (1, body.channels, 64 // body.stride, 96 // body.stride)
        assert body.head(torch.zeros(2, body.channels, body.pool_size, body.pool_size)).shape == (2, body.dim)


def test_the_small_body_sees_the_shipped_stem_at_two_strides():
    detector = build_detector(MilConfig(backbone="small", init=Weights("builtin:stem")), 2)
    body = detector.body.eval()
    images = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, coarse = body.features(images), body.stem(images)
    assert coarse.amax() > 0
    upsampled = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    assert_near(features[:, 64:], upsampled, length=roundings_in(body.stem))


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_frozen_stages_do_not_learn(stages):
    body = SmallRoiBackbone(0.0)
    body.freeze(stages, "freeze_stages")
    convolutions = [layer for layer in body.stem.layers if isinstance(layer, nn.Conv2d)]
    assert [c.weight.requires_grad for c in convolutions] == [2 * stages <= k for k in range(4)] + [stages < 3] * 4
    assert all(parameter.requires_grad for parameter in body.fc.parameters())


def test_more_stages_than_there_are_cannot_be_frozen():
    with pytest.raises(ConfigError, match=r"freeze_stages: expected 0..3 for this backbone, got 4"):
        build_detector(MilConfig(backbone="small", freeze_stages=4), 2)


def test_batch_norms_of_the_small_body_rest_while_it_trains():
    body = SmallRoiBackbone(0.5).train()
    assert {layer.training for layer in body.stem.layers} == {False}
    assert body.fc.training
    before = {name: value.clone() for name, value in body.stem.named_buffers()}
    body.features(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in body.stem.named_buffers())


def test_random_weights_keep_the_scale_of_the_features():
    torch.manual_seed(0)
    features = SmallRoiBackbone(0.0).eval().features(torch.randn(1, 3, 64, 64))
    assert 0.2 < features[:, 64:].std() < 5


def test_torchvisions_resnet_loads_and_its_features_are_its_third_stage(tmp_path):
    torch.manual_seed(0)
    published = torchvision.models.resnet50(weights=None).eval()
    torch.save(published.state_dict(), tmp_path / "w.pth")
    config = MilConfig(detector=OicrConfig(), backbone="resnet50.torchvision", init=Weights(str(tmp_path / "w.pth")))
    body = build_detector(config, 2).body.eval()
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = body.features(x)
        x = published.maxpool(published.relu(published.bn1(published.conv1(x))))
        expected = published.layer3(published.layer2(published.layer1(x)))
        assert_near(found, expected, length=roundings_in(body))
        pooled = torch.rand(1, 1024, 14, 14, generator=torch.Generator().manual_seed(1))
        assert_near(body.head(pooled), published.layer4(pooled).mean(dim=(2, 3)), length=roundings_in(published.layer4))


def test_frozen_stages_of_the_resnet_are_its_stem_and_first_stage():
    body = build_roi_backbone("resnet50.torchvision", vgg=Mist.vgg, dropout=0.0)
    body.freeze(2, "freeze_stages")
    frozen = {name.split(".")[1] for name, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


@pytest.mark.parametrize(
    ("backbone", "state", "message"),
    [
        pytest.param("small", {"conv1.weight": torch.zeros(1)}, "1 surplus: conv1.weight", id="small-gets-a-resnet"),
        pytest.param(
            "resnet50.torchvision",
            {"features.0.weight": torch.zeros(1)},
            "missing: conv1.weight.* surplus: features.0.weight",
            id="resnet-gets-a-vgg",
        ),
        pytest.param(
            "small", {"roi_heads.box_head.fc6.weight": torch.zeros(1)}, "would leak full supervision", id="a-detector"
        ),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, backbone, state, message):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        build_detector(MilConfig(backbone=backbone, init=Weights(str(tmp_path / "w.pth"))), 2)


def test_weights_known_to_want_another_input_are_refused(monkeypatch):
    # Names and shapes of VGG-16's two kinds of weights are the same: the checksum alone tells them apart.
    published = Published(
        uri="https://here/w", size_bytes=None, sha256=file_sha256(BUILTIN_WEIGHTS["stem"].path)[:8], note=""
    )
    monkeypatch.setitem(PUBLISHED, "vgg16.torchvision", published)
    with pytest.raises(
        CheckpointError, match=r"expected weights of small, but by its checksum .* is vgg16.torchvision"
    ):
        build_detector(MilConfig(backbone="small", init=Weights("builtin:stem")), 2)


def test_installed_weights_of_another_body_are_refused():
    with pytest.raises(CheckpointError, match=r"builtin:stem as resnet50.torchvision: the weights belong to another"):
        build_detector(MilConfig(backbone="resnet50.torchvision", init=Weights("builtin:stem")), 2)


@pytest.mark.parametrize("name", MIL_DETECTORS)
def test_predictors_start_small_and_unbiased(name):
    detector = build_detector(MilConfig(detector=MIL_DETECTORS[name](), backbone="small"), 20)
    std = {"mist": 0.001, "oicr": 0.01}[name]
    for layer in (detector.class_stream, detector.detection_stream, *detector.refinements, *detector.box_branches):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
        assert not layer.bias.any()
