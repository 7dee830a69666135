import pytest
import torch
import torchvision

from tests.support.tolerances import assert_near, roundings_in
from weaksam.errors import CheckpointError, ConfigError
from weaksam.networks.pyramids import PYRAMIDS, build_pyramid, pixel_format
from weaksam.networks.roi_backbones import SmallRoiBackbone
from weaksam.networks.small_stem import load_builtin_classifier

LARGE = {"swin_large": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(name, marks=LARGE.get(name, ())) for name in PYRAMIDS])
def test_maps_have_the_promised_strides_and_channels(name):
    backbone = build_pyramid(name).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert pixel_format(name) == backbone.pixels


def test_the_resnet_gives_what_torchvisions_gives_before_its_mean():
    torch.manual_seed(0)
    whole = torchvision.models.resnet50().eval()
    backbone = build_pyramid("resnet50.torchvision").eval()
    backbone.init_from(whole.state_dict(), "test")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        logits = whole.fc(backbone(images)[-1].mean(dim=(2, 3)))
        assert_near(logits, whole(images), length=roundings_in(whole))


def test_the_small_one_gives_what_the_weakly_supervised_body_sees():
    state = load_builtin_classifier().state_dict()
    backbone, body = build_pyramid("small"), SmallRoiBackbone(0.0)
    for network in (backbone, body):
        network.init_from(state, "test")
    backbone.train()  # its batch norms stay at rest
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_near(backbone(images)[0], body.eval().features(images)[:, :64], length=roundings_in(backbone))


@pytest.mark.parametrize(("name", "stages"), [("small", 3), ("resnet50.torchvision", 5), ("efficientnet_lite0", 5)])
def test_the_first_stages_can_be_kept_from_learning(name, stages):
    backbone = build_pyramid(name)
    backbone.freeze(2, "freeze_stages")
    frozen = {id(p) for stage in backbone.stages()[:2] for layer in stage for p in layer.parameters()}
    assert frozen
    assert all(p.requires_grad == (id(p) not in frozen) for p in backbone.parameters())
    backbone.freeze(stages, "freeze_stages")
    assert not any(p.requires_grad for p in backbone.parameters())
    with pytest.raises(ConfigError, match=f"freeze_stages: expected 0..{stages}"):
        backbone.freeze(stages + 1, "freeze_stages")


@pytest.mark.parametrize(
    "keys",
    [
        ["backbone.body.conv1.weight", "rpn.head.conv.weight", "roi_heads.box_head.fc6.weight"],  # torchvision
        ["module.transformer.encoder.layers.0.norm1.weight"],  # DETR and its kin
        ["backbone.conv1.weight", "bbox_head.cls_branches.0.weight"],  # mmdetection
    ],
)
@pytest.mark.parametrize("name", PYRAMIDS)
def test_weights_of_a_detector_are_refused(name, keys):
    with pytest.raises(CheckpointError, match="would leak full supervision"):
        build_pyramid(name).init_from({key: torch.zeros(1) for key in keys}, "somewhere.pth")


@pytest.mark.parametrize(
    "keys",
    [
        [
            "model.pixel_level_module.encoder.embeddings.norm.weight",
            "class_predictor.weight",
        ],  # transformers' Mask2Former
        ["backbone.res2.0.conv1.weight", "sem_seg_head.pixel_decoder.mask_features.weight"],  # detectron2's
        ["backbone.conv1.weight", "decode_head.query_embed.weight"],  # mmsegmentation's
        ["backbone.body.conv1.weight", "roi_heads.mask_head.0.0.weight"],  # torchvision's Mask R-CNN
    ],
)
def test_weights_that_learnt_from_masks_are_refused(keys):
    with pytest.raises(CheckpointError, match="would leak full supervision"):
        build_pyramid("small").init_from({key: torch.zeros(1) for key in keys}, "somewhere.pth")


def test_weights_that_do_not_fit_are_named():
    state = load_builtin_classifier().state_dict()
    state.pop("stem.layers.0.weight")
    with pytest.raises(CheckpointError, match=r"layers\.0\.weight"):
        build_pyramid("small").init_from(state, "test")
