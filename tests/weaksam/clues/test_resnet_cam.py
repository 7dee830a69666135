from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from tests.support.tolerances import assert_near, roundings_in
from weaksam.clues.cam import MultiScaleCam
from weaksam.clues.resnet_cam import ResNetCam
from weaksam.config import CamConfig, ResNetCamConfig
from weaksam.errors import CheckpointError, ConfigError


@torch.no_grad()
def test_logits_are_those_of_the_whole_torchvision_classifier() -> None:
    torch.manual_seed(0)
    whole = torchvision.models.resnet18(num_classes=3).eval()
    network = ResNetCam(ResNetCamConfig(backbone="resnet18"), 3).eval()
    network.init_from(whole.state_dict(), "test")
    network.head.weight.copy_(whole.fc.weight[:, :, None, None])
    network.head.bias.copy_(whole.fc.bias)
    images = torch.randn(2, 3, 96, 64)
    assert_near(network.classify(images), whole(images), length=roundings_in(whole))

    maps = network.activation_maps(images, [2], ("coarse",), ())
    assert maps["coarse"].shape == (2, 1, 1, 3, 2)
    features = network.backbone(images)
    by_hand = torch.einsum("d,bdhw->bhw", whole.fc.weight[2], features) + whole.fc.bias[2]
    assert_near(
        maps["coarse"][:, 0, 0], by_hand.clamp(min=0), length=roundings_in(whole), magnitude=by_hand.abs().max()
    )


@pytest.mark.parametrize(
    "backbone", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1", "timm:test_convnext"]
)
def test_any_convolutional_backbone_trains_and_gives_maps(backbone: str) -> None:
    network = ResNetCam(ResNetCamConfig(backbone=backbone), 3)
    loss, logits = network.training_loss(torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 0, 0], [0, 1, 1]]))
    loss.backward()
    assert logits.shape == (2, 3)
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    clues = MultiScaleCam(
        network, class_names="abc", class_slots=range(3), kinds=("coarse",), config=CamConfig(scales=(1.0,))
    )
    for size_hw in ((70, 50), (1, 1)):
        (maps,) = clues.class_maps(np.zeros((*size_hw, 3), np.uint8), [1])
        assert maps.maps["coarse"].shape == (1, *size_hw)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet19", "torchvision has no classifier 'resnet19'"),
        ("timm:resnet19", "timm has no model 'resnet19'"),
        ("timm:test_vit", "choose a convolutional network|takes no 224 x 448 image"),
    ],
)
def test_backbones_that_cannot_be_used_are_refused(backbone: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResNetCam(ResNetCamConfig(backbone=backbone), 3)


def test_weights_of_another_backbone_are_refused_by_name() -> None:
    network = ResNetCam(ResNetCamConfig(backbone="resnet18"), 3)
    state = torchvision.models.resnet18().state_dict()
    del state["conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["bn1.weight"] = torch.zeros(3)
    reshaped = r"1 of another shape: bn1\.weight \(3,\) instead of \(64,\)"
    with pytest.raises(
        CheckpointError,
        match=rf"^w\.pth as resnet18: .*: 1 missing: conv1\.weight; 1 surplus: layer9\.weight; {reshaped}$",
    ):
        network.init_from(state, "w.pth")
