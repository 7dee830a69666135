from __future__ import annotations

import re
from typing import get_args

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests.support.tolerances import assert_near, near, roundings_in
from weaksam.config import Weights
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import read_state_dict
from weaksam.networks.efficientnet_lite import (
    LITE_CHANNELS,
    LITE_PIXELS,
    LiteName,
    LiteTrunk,
    dilated_depthwise,
    from_imagenet_pixels,
    load_lite,
    timm_names,
)
from weaksam.transforms import normalise

every_lite = pytest.mark.parametrize("name", get_args(LiteName))


def installed(name: LiteName) -> dict[str, torch.Tensor]:
    return dict(read_state_dict(Weights(f"builtin:{name}").fetch().path).tensors)


@every_lite
def test_installed_weights_are_timms_in_the_order_of_its_layers(name: LiteName) -> None:
    stock, state = timm.create_model(f"tf_{name}").state_dict(), installed(name)
    in_order = dict(zip(stock, state.values(), strict=True))
    named = timm_names(state, name)
    assert named.keys() == stock.keys()
    assert all(torch.equal(named[key], in_order[key]) for key in stock)


@every_lite
def test_features_are_those_of_timms_classifier(name: LiteName) -> None:
    state = installed(name)
    stock = timm.create_model(f"tf_{name}")
    stock.load_state_dict(timm_names(state, name))
    stock.eval()
    trunk = LiteTrunk(name, last=True)
    trunk.init_from(state, "test")
    trunk.train()  # its batch norms stay at rest
    images = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = trunk.stage_features(images)
        logits = stock.classifier(trunk.classifier_features(features[-1]).mean(dim=(2, 3)))
        assert_near(logits, stock(images), length=roundings_in(stock))
    expected = [(1, channels, 96 >> n, 64 >> n) for n, channels in enumerate(LITE_CHANNELS[name], start=1)]
    assert [tuple(map_.shape) for map_ in features] == expected


def test_weights_under_timms_own_names_load_as_well() -> None:
    trunk, again = LiteTrunk("efficientnet_lite0"), LiteTrunk("efficientnet_lite0")
    trunk.init_from(timm.create_model("tf_efficientnet_lite0").state_dict(), "test")
    whole = LiteTrunk("efficientnet_lite0", last=True).network.state_dict()
    again.init_from({**whole, **trunk.network.state_dict()}, "test")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in trunk.state_dict().items())


def test_weights_of_the_other_one_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"w\.pth as efficientnet_lite0: .* 90 surplus: _blocks\.16\._expand"):
        LiteTrunk("efficientnet_lite0").init_from(installed("efficientnet_lite2"), "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth as efficientnet_lite2: .* 90 missing: blocks\."):
        LiteTrunk("efficientnet_lite2").init_from(installed("efficientnet_lite0"), "w.pth")


@pytest.mark.parametrize(
    "key", ["_blocks.99._bn0.weight", "_blocks.one", "_fc.scale", "classifier.scale", "conv_stem.weight"]
)
def test_one_tensor_too_many_is_refused_by_name(key: str) -> None:
    state = {**installed("efficientnet_lite0"), key: torch.zeros(1)}
    named = key.replace("_fc", "classifier") if key != "conv_stem.weight" else "_conv_stem.weight"
    with pytest.raises(CheckpointError, match=f"1 surplus: {re.escape(named)}"):
        LiteTrunk("efficientnet_lite0").init_from(state, "w.pth")


def test_pixels_are_the_same_whoever_normalised_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    ours = from_imagenet_pixels(normalise(torch.from_numpy(image).permute(2, 0, 1))[None])[0]
    assert ours.numpy() == near(LITE_PIXELS.normalise(image).numpy(), length=8, magnitude=1.0)
    assert float(ours.min()) >= -1.001
    assert float(ours.max()) <= 1.001


def test_where_strides_are_left_out_layers_are_dilated() -> None:
    trunk = LiteTrunk("efficientnet_lite0", output_stride=8)
    trunk.init_from(installed("efficientnet_lite0"), "test")
    with torch.no_grad():
        features = trunk.stage_features(torch.zeros(1, 3, 64, 96))
    assert [tuple(map_.shape[2:]) for map_ in features] == [(32, 48), (16, 24), (8, 12), (8, 12), (8, 12)]


@pytest.mark.parametrize("dilation", [2, 3])
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("size_hw", [(1, 1), (4, 6), (5, 7), (1, 9)])
def test_a_dilated_convolution_in_parts_is_that_of_torch(dilation: int, side: int, size_hw: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = nn.Conv2d(4, 4, side, padding=dilation * (side // 2), dilation=dilation, groups=4, bias=False)
    features = torch.randn(2, 4, *size_hw, generator=generator, requires_grad=True)
    weight = torch.randn(2, 4, *size_hw, generator=generator)
    slow, fast = plain(features), dilated_depthwise(features, plain.weight, None, dilation)
    assert fast.detach().numpy() == near(slow.detach().numpy(), length=side * side, magnitude=5.0)
    for value in (features, plain.weight):
        (of_slow,) = torch.autograd.grad((slow * weight).sum(), value, retain_graph=True)
        (of_fast,) = torch.autograd.grad((fast * weight).sum(), value, retain_graph=True)
        assert of_fast.numpy() == near(
            of_slow.numpy(), length=2 * size_hw[0] * size_hw[1] * side * side, magnitude=20.0
        )


def test_dilated_layers_keep_their_names() -> None:
    dilated, plain = (LiteTrunk("efficientnet_lite0", output_stride=stride) for stride in (16, 32))
    assert list(dilated.state_dict()) == list(plain.state_dict())


@every_lite
@pytest.mark.parametrize("output_stride", [8, 32])
def test_norms_at_rest_and_convolutions_at_once_are_timms_network(name: LiteName, output_stride: int) -> None:
    plain = timm.create_model(f"tf_{name}", num_classes=0, global_pool="", output_stride=output_stride)
    load_lite(plain, name, installed(name), "test")
    trunk = LiteTrunk(name, output_stride=output_stride, last=True)
    trunk.init_from(installed(name), "test")
    plain.eval().double()  # in double precision no activation lies so near its bounds that rounding decides its gradient
    trunk.train().double()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow, fast = plain(images), trunk.classifier_features(trunk.stage_features(images)[-1])
    length = 2 * roundings_in(plain)  # there and back
    assert_near(fast, slow, length=length)
    for key in ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.5.1.conv_dw.weight", "conv_head.weight"):
        of_slow, of_fast = (
            torch.autograd.grad(features.square().mean(), network.get_parameter(key), retain_graph=True)[0]
            for features, network in ((slow, plain), (fast, trunk.network))
        )
        assert_near(of_fast, of_slow, length=length)


def test_batch_norms_neither_learn_nor_count() -> None:
    trunk = LiteTrunk("efficientnet_lite0").train()
    before = {key: value.clone() for key, value in trunk.state_dict().items() if "bn" in key}
    trunk.stage_features(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert all(torch.equal(trunk.state_dict()[key], value) for key, value in before.items())
    assert before
    assert not any("bn" in key for key, _ in trunk.named_parameters())
    assert all(p.grad is not None for p in trunk.parameters())
