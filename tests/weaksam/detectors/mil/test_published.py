"""The published files load by their key names, and the loaded detectors compute what the specification says."""

import io
from collections import OrderedDict
from itertools import pairwise

import pytest
import torch

from tests.support.tolerances import assert_near, roundings_in
from tests.weaksam.detectors.by_hand import hidden_of, scores_of
from weaksam.config import DropBlockConfig, MilConfig, MistConfig, OicrConfig
from weaksam.detectors.loading import load_detector
from weaksam.detectors.mil import MIL_DETECTORS
from weaksam.detectors.mil.samples import collate
from weaksam.errors import CheckpointError

CLASSES = 3
NAMES = ("cat", "cow", "dog")
TORCHVISION_LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CAFFE_NAMES = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3")
CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def random_layer(generator, rows, fan_in, *, gain=2.0):
    """A weight [rows, fan_in] that overlaps itself in memory, so that fc6 does not cost 400 MB, and a bias."""
    few = torch.randn(rows * 37 + fan_in * 3, generator=generator) * (gain / fan_in) ** 0.5
    return few.as_strided((rows, fan_in), (37, 3)), torch.randn(rows, generator=generator) * 0.1


@pytest.fixture(scope="module")
def vgg():
    """Weights of the thirteen convolutions, fc6 and fc7."""
    generator = torch.Generator().manual_seed(0)
    convolutions = []
    for before, after in pairwise(CHANNELS):
        weight = torch.randn(after, before, 3, 3, generator=generator) * (2 / (before * 9)) ** 0.5
        convolutions.append((weight, torch.randn(after, generator=generator) * 0.1))
    return {
        "conv": convolutions,
        "fc6": random_layer(generator, 4096, 512 * 49),
        "fc7": random_layer(generator, 4096, 4096),
    }


def heads_of(name):
    """Random predictors, the background first."""
    generator = torch.Generator().manual_seed(1)
    streams = CLASSES + 1 if name == "mist" else CLASSES
    heads = {kind: random_layer(generator, streams, 4096) for kind in ("class", "detection")}
    heads["refine"] = [random_layer(generator, CLASSES + 1, 4096) for _ in range(3)]
    if name == "mist":
        heads["box"] = [random_layer(generator, 4 * (CLASSES + 1), 4096) for _ in range(3)]
    return heads


def put(state, name, layer):
    state[f"{name}.weight"], state[f"{name}.bias"] = layer


def mist_file(vgg, heads):
    state = OrderedDict()
    for layer, weights in zip(TORCHVISION_LAYERS, vgg["conv"], strict=True):
        put(state, f"module.backbone.body.features.{layer}", weights)
    put(state, "module.roi_heads.feature_extractor.classifier.1", vgg["fc6"])
    put(state, "module.roi_heads.feature_extractor.classifier.4", vgg["fc7"])
    put(state, "module.roi_heads.predictor.cls_score", heads["class"])
    put(state, "module.roi_heads.predictor.det_score", heads["detection"])
    for k in range(3):
        put(state, f"module.roi_heads.predictor.ref{k + 1}", heads["refine"][k])
        put(state, f"module.roi_heads.predictor.bbox_pred{k + 1}", heads["box"][k])
    state["module.roi_heads.model_sim.fc.weight"] = torch.zeros(2, 2)
    adversary = {
        "module.a.weight": torch.full((1,), 0.5).expand(512, 512, 3, 3),
        **{f"module.b.{kind}": torch.full((512,), 0.25) for kind in ("weight", "bias", "running_mean", "running_var")},
        "module.b.num_batches_tracked": torch.tensor(7),
        "module.c.weight": torch.full((2, 512, 3, 3), 0.75),
        **{f"module.d.{kind}": torch.full((2,), 0.125) for kind in ("weight", "bias", "running_mean", "running_var")},
        "module.e.weight": torch.full((2, 512, 1, 1), 1.5),
    }
    rest = {
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        "scheduler": {"last_epoch": 3},
        "iteration": 30_000,
    }
    return {"model": state, "model_cdb": adversary, **rest}


def oicr_file(vgg, heads):
    state = OrderedDict()
    for layer, weights in zip(CAFFE_NAMES, vgg["conv"], strict=True):
        put(state, f"backbone.conv{layer}", weights)
    put(state, "roi_head.bbox_head.fc1", vgg["fc6"])
    put(state, "roi_head.bbox_head.fc2", vgg["fc7"])
    put(state, "roi_head.bbox_head.fc_cls1", heads["class"])
    put(state, "roi_head.bbox_head.fc_cls2", heads["detection"])
    for k, (weight, bias) in enumerate(heads["refine"]):  # the background last
        background_last = [torch.cat([t[1:], t[:1]]) for t in (weight, bias)]
        put(state, f"roi_head.bbox_head.fc_refine{k + 1}", background_last)
    return {"state_dict": state, "meta": {"epoch": 50, "CLASSES": list(NAMES)}, "optimizer": {"state": {}}}


FILES = {"mist": mist_file, "oicr": oicr_file}


def file_of(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last_relu", "ceil_mode"), [("mist", False, False), ("oicr", True, True)], ids=["mist", "oicr"]
)
def test_a_published_file_scores_as_the_specification_says(vgg, name, last_relu, ceil_mode):
    heads = heads_of(name)
    config = MilConfig(detector=MIL_DETECTORS[name](), backbone="vgg16.caffe")
    detector, names = load_detector(file_of(FILES[name](vgg, heads)), config, NAMES)
    assert names == NAMES
    roundings = roundings_in(detector.body, detector.class_stream)
    generator = torch.Generator().manual_seed(2)
    views = [
        (
            torch.randn(3, 64, 61, generator=generator),
            torch.tensor([[0, 0, 61, 64], [5.3, 9.7, 40.2, 33.1], [30, 30, 31, 31]]),
        ),
        (torch.randn(3, 40, 56, generator=generator), torch.tensor([[12, 4, 56, 40], [0, 0, 20, 36.0]])),
    ]
    batch = collate(views)
    assert batch.images.shape == (2, 3, 64, 64)
    for row, (_, boxes) in enumerate(views):
        one = (batch.images[row : row + 1], batch.boxes_xyxy[row : row + 1], batch.real[row : row + 1])
        found = detector.predict(*one)
        hidden = hidden_of(batch.images[row], boxes, vgg, last_relu=last_relu, ceil_mode=ceil_mode)
        image_scores, scores, deltas = scores_of(hidden, heads, CLASSES)
        assert_near(found.image_scores, image_scores, length=roundings, magnitude=1.0)
        assert_near(found.scores[: len(boxes)], scores, length=roundings, magnitude=1.0)
        assert scores.std() > 0.01  # the comparison would notice an exchange of proposals or classes
        if name == "mist":
            assert_near(found.deltas[: len(boxes)], deltas, length=roundings)
        else:
            assert found.deltas is None
    if name == "mist":
        adversary = detector.adversary.state_dict()
        values = {key: value.unique().tolist() for key, value in adversary.items()}
        assert values == {
            "block.0.weight": [0.5],
            **{f"block.1.{kind}": [0.25] for kind in ("weight", "bias", "running_mean", "running_var")},
            "block.1.num_batches_tracked": [0],
            "block.3.weight": [0.75],
            **{f"block.4.{kind}": [0.125] for kind in ("weight", "bias", "running_mean", "running_var")},
            "block.4.num_batches_tracked": [0],
            "shortcut.weight": [1.5],
        }


def small_file(**changes):
    """The few keys by which a published MIST is told, with empty tensors; None leaves one out."""
    state = {
        "backbone.body.features.0.weight": torch.zeros(64, 3, 3, 3),
        "roi_heads.predictor.ref1.bias": torch.zeros(CLASSES + 1),
    }
    return {"model": {key: value for key, value in (state | changes).items() if value is not None}}


MIST = MilConfig(backbone="vgg16.caffe")


@pytest.mark.parametrize(
    ("content", "config", "message"),
    [
        pytest.param(
            {"features.0.weight": torch.zeros(1)}, MIST, "weights of a backbone alone belong in init", id="a-backbone"
        ),
        pytest.param([1, 2], MIST, "got list", id="no-dict"),
        pytest.param({}, MIST, "got dict", id="empty"),
        pytest.param(
            small_file(),
            MilConfig(backbone="vgg16.torchvision"),
            "expected mist on vgg16.torchvision, got mist on vgg16.caffe",
            id="another-backbone",
        ),
        pytest.param(
            small_file(),
            MilConfig(detector=OicrConfig(), backbone="vgg16.caffe"),
            "set detector=mist",
            id="another-detector",
        ),
        pytest.param(
            small_file(**{"roi_heads.predictor.ref1.bias": torch.zeros(5)}),
            MIST,
            r"expected 3 classes \(cat, cow, dog\), got 4",
            id="another-number-of-classes",
        ),
        pytest.param(
            small_file(**{"roi_heads.predictor.ref1.bias": None}), MIST, "without its first refinement", id="no-branch"
        ),
        pytest.param(
            small_file() | {"model_cdb": {"x.weight": torch.zeros(3, 3)}},
            MIST,
            r"model_cdb: did not expect x.weight of shape \[3, 3\]",
            id="another-adversary",
        ),
        pytest.param(
            small_file() | {"model_cdb": {"x.weight": torch.zeros(2, 512, 1, 1)}},
            MIST,
            "model_cdb: missing block.0.weight, block.1.bias",
            id="half-an-adversary",
        ),
    ],
)
def test_what_is_wrong_with_a_published_file_is_said(content, config, message):
    with pytest.raises(CheckpointError, match=message):
        load_detector(file_of(content), config, NAMES)


def test_missing_and_surplus_keys_of_a_published_file_are_named(monkeypatch):
    # The small backbone stands in for VGG's 550 MB: only how differences are told is looked at.
    monkeypatch.setattr("weaksam.detectors.mil.checkpoint.PUBLISHED_BACKBONE", "small")
    config = MilConfig(backbone="small", detector=MistConfig(dropblock=DropBlockConfig(enabled=False)))
    content = small_file(**{"roi_heads.unheard.of": torch.zeros(1)})
    differences = r"missing: body\.stem.*; 2 surplus: body\.conv\.0\.weight, roi_heads\.unheard\.of"
    with pytest.raises(CheckpointError, match=differences):
        load_detector(file_of(content), config, NAMES)


def test_pickled_code_is_refused(tmp_path):
    path = tmp_path / "detector.pth"
    torch.save({"model": io.StringIO}, path)
    with pytest.raises(CheckpointError, match="could run code"):
        load_detector(path, MIST)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=f"{path}: expected a detector"):
        load_detector(path, MIST)
