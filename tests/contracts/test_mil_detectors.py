"""What every detector of MIL_DETECTORS owes its callers, on the small backbone."""

import io
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from tests.support.tolerances import assert_near, near, roundings_in
from weaksam.config import DropBlockConfig, MilConfig, MistConfig, OicrConfig, Weights
from weaksam.datasets.shapes import CLASS_NAMES, data_set_seed, draw
from weaksam.detectors.loading import build_detector, detector_to_bytes, load_detector
from weaksam.detectors.mil import MIL_DETECTORS
from weaksam.detectors.mil.samples import collate, training_sample
from weaksam.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.parametrize("name", MIL_DETECTORS)
CLASSES = 3
COUNTS = (0, 1, 5, 300)


def config_of(name, **options):
    own = {"detector": MIL_DETECTORS[name](), "backbone": "small", "init": Weights("builtin:stem"), "freeze_stages": 1}
    return MilConfig(**(own | options))


def detector_of(name, **options):
    """A detector whose predictors are large enough to tell proposals apart."""
    torch.manual_seed(0)
    detector = build_detector(config_of(name, **options), CLASSES)
    torch.manual_seed(1)  # an adversary has drawn weights, too
    for layer in (detector.class_stream, detector.detection_stream, *detector.refinements, *detector.box_branches):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return detector


def random_boxes(generator, count, *, side=64):
    corner = torch.rand(count, 2, generator=generator) * (side - 16)
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 12], dim=1)


def batch_of(counts, *, seed=0):
    """Random images of 64 pixels with as many proposals, and random labels; every image but the second has a class."""
    generator = torch.Generator().manual_seed(seed)
    batch = collate([(torch.randn(3, 64, 64, generator=generator), random_boxes(generator, n)) for n in counts])
    labels = torch.rand(len(counts), CLASSES, generator=generator) < 0.5
    labels[:, 0] = True
    labels[1:2] = False
    return (*batch, labels)


def parts_of(name):
    return [
        "image",
        *(f"{kind}{k}" for k in (1, 2, 3) for kind in (("refine", "box") if name == "mist" else ("refine",))),
    ]


def test_images_of_0_1_5_and_300_proposals_score_in_a_batch_as_alone(name):
    detector = detector_of(name).eval()
    images, boxes, real, _ = batch_of(COUNTS)
    boxes[~real] = 1e5  # what stands in the padding must not matter
    with torch.no_grad():
        together = detector(images, boxes, real)
        for row, count in enumerate(COUNTS):
            alone = detector(images[row : row + 1], boxes[row : row + 1, :count], real[row : row + 1, :count])
            for batched, single in zip(
                (together.class_logits, together.detection_logits, *together.refined_logits, *together.deltas),
                (alone.class_logits, alone.detection_logits, *alone.refined_logits, *alone.deltas),
                strict=True,
            ):
                assert_near(batched[row, :count], single[0], length=roundings_in(detector))
                assert not batched[row, count:].any()


def test_the_loss_of_a_batch_is_the_mean_of_its_images(name):
    detector = detector_of(name).eval()
    images, boxes, real, labels = batch_of(COUNTS)
    together = detector.training_losses(images, boxes, real, labels)
    assert list(together) == parts_of(name)
    alone = [
        detector.training_losses(images[r : r + 1], boxes[r : r + 1, :n], real[r : r + 1, :n], labels[r : r + 1])
        for r, n in enumerate(COUNTS)
    ]
    for part, value in together.items():
        mean = sum(losses[part] for losses in alone) / len(COUNTS)
        assert_near(value, mean, length=roundings_in(detector))
    assert all(value == 0 for value in alone[0].values())  # no proposals
    assert alone[1]["image"] > 0  # no class: it learns that there is none, and nothing of proposals
    assert all(value == 0 for part, value in alone[1].items() if part != "image")
    assert all(value > 0 for value in alone[3].values())


def test_the_gradient_reaches_whatever_is_not_frozen(name):
    detector = detector_of(name).train()
    sum(detector.training_losses(*batch_of(COUNTS)).values()).backward()
    for key, parameter in detector.named_parameters():
        if not key.startswith("adversary."):
            assert (parameter.grad is not None) == parameter.requires_grad, key
            assert parameter.grad is None or parameter.grad.isfinite().all(), key
    frozen = {key for key, parameter in detector.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"body.stem.layers.{i}.{kind}" for i in (0, 1, 3, 4) for kind in ("weight", "bias")} - {
        "body.stem.layers.0.bias", "body.stem.layers.3.bias"  # convolutions before a batch norm have none
    }  # fmt: skip


def test_on_efficientnet_lite_of_imagenet_a_step_lowers_the_loss(name):
    detector = detector_of(
        name, backbone="efficientnet_lite0", init=Weights("builtin:efficientnet_lite0"), freeze_stages=2, dropout=0.0
    ).train()
    batch = batch_of((5, 12))
    trained = [p for key, p in detector.named_parameters() if p.requires_grad and not key.startswith("adversary.")]
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        loss = sum(detector.training_losses(*batch).values())
        losses.append(float(loss.detach()))
        grads = torch.autograd.grad(loss, trained)
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        assert norm.isfinite()
        with torch.no_grad():
            for parameter, grad in zip(trained, grads, strict=True):
                parameter -= 1e-3 * grad / norm
    assert losses[1] < losses[0]


@pytest.mark.parametrize("counts", [(0,), (0, 0)])
def test_a_batch_without_any_proposal_has_a_loss_of_0(name, counts):
    detector = detector_of(name).train()
    losses = detector.training_losses(*batch_of(counts))
    sum(losses.values()).backward()
    assert all(value == 0 for value in losses.values())
    found = detector.predict(*batch_of((0,))[:3])
    assert found.scores.shape == (0, CLASSES)
    assert found.image_scores.tolist() == [0, 0, 0]


def test_identical_boxes_score_alike_and_train(name):
    detector = detector_of(name).train()
    images, boxes, real, labels = batch_of((7,))
    boxes[:] = boxes[:, :1]
    losses = detector.training_losses(images, boxes, real, labels)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in detector.detector_parameters())
    scores = detector.predict(images, boxes, real).scores
    assert scores.shape == (7, CLASSES)
    assert_near(scores, scores[:1].expand(7, -1), length=roundings_in(detector))  # rows of a product round apart


def test_bf16_autocast_is_finite_and_near_float32(name):
    detector = detector_of(name).eval()
    batch = batch_of(COUNTS)
    exact = detector.training_losses(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector.training_losses(*batch)
        scores = detector.predict(batch[0][3:], batch[1][3:], batch[2][3:]).scores
    sum(losses.values()).backward()
    assert {value.dtype for value in losses.values()} == {scores.dtype} == {torch.float32}
    assert scores.isfinite().all()
    assert all(p.grad.isfinite().all() for p in detector.detector_parameters())
    assert_near(losses["image"], exact["image"], dtype=torch.bfloat16)  # sums are kept in float32
    detector.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(value.isfinite() for value in detector.training_losses(*batch).values())


def test_prediction_leaves_the_mode_and_the_random_state_as_they_are(name):
    detector = detector_of(name).train()
    batch = batch_of((5,))[:3]
    state = torch.random.get_rng_state()
    first, second = detector.predict(*batch), detector.predict(*batch)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.scores, second.scores)
    assert detector.training
    assert detector.body.fc.training
    assert ((first.scores >= 0) & (first.scores <= 1)).all()
    assert ((first.image_scores >= 0) & (first.image_scores <= 1)).all()


@pytest.mark.slow
def test_a_few_steps_lower_the_loss_on_two_drawings(name):
    config = config_of(name, lr=1e-3, dropout=0.0, scales=(96,), lighting=0.0, bias_lr_factor=1.0)
    torch.manual_seed(0)
    detector = build_detector(config, len(CLASS_NAMES)).train()
    views, labels = [], torch.zeros(2, len(CLASS_NAMES), dtype=torch.bool)
    for row in range(2):
        drawing = draw(data_set_seed(0, "train", row), 96)
        boxes = random_boxes(torch.Generator().manual_seed(row), 20, side=96).numpy()
        views.append(training_sample(drawing.image, boxes, config, detector.body, seed=row))
        labels[row, row] = True
    batch = (*collate(views), labels)
    optimizer = torch.optim.Adam(detector.parameter_groups(config))
    history = []
    for _ in range(12):
        losses = detector.training_losses(*batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses["image"].item())
    assert history[-1] < 0.5 * history[0]


def test_a_file_gives_back_the_same_detector(name, tmp_path):
    detector = detector_of(name).eval()
    content = detector_to_bytes(detector, ("cat", "cow", "dog"))
    (tmp_path / "d.safetensors").write_bytes(content)
    for source in (tmp_path / "d.safetensors", str(tmp_path / "d.safetensors"), io.BytesIO(content)):
        loaded, names = load_detector(source, config_of(name))
        assert names == ("cat", "cow", "dog")
        assert not loaded.training
        state = loaded.state_dict()
        assert list(state) == list(detector.state_dict())
        assert all(torch.equal(value, state[key]) for key, value in detector.state_dict().items())
        batch = batch_of((5,))[:3]
        assert torch.equal(loaded.predict(*batch).scores, detector.predict(*batch).scores)
    with safe_open(tmp_path / "d.safetensors", framework="pt") as file:
        described = json.loads(file.metadata()["detector"])
    assert (described["detector"], described["backbone"]) == (name, "small")
    assert described["config"]["freeze_stages"] == 1


def test_files_that_do_not_fit_are_refused(name, tmp_path):
    content = detector_to_bytes(detector_of(name), ("cat", "cow", "dog"))
    other = next(key for key in MIL_DETECTORS if key != name)
    with pytest.raises(CheckpointError, match=f"expected {name} on vgg16.torchvision, got {name} on small"):
        load_detector(io.BytesIO(content), config_of(name, backbone="vgg16.torchvision", init=Weights()))
    with pytest.raises(CheckpointError, match=f"expected {other} on small, got {name} on small"):
        load_detector(io.BytesIO(content), config_of(other))
    with pytest.raises(CheckpointError, match="a damaged safetensors file"):
        load_detector(io.BytesIO(content[:-8]), config_of(name))
    with pytest.raises(CheckpointError, match="no '__metadata__'"):
        load_detector(io.BytesIO(save({"a": torch.zeros(1)})), config_of(name))
    with safe_open(_written(tmp_path, content), framework="pt") as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys() if key != "class_stream.bias"}  # noqa: SIM118
    with pytest.raises(CheckpointError, match=r"1 missing: class_stream.bias"):
        load_detector(io.BytesIO(save(state, metadata)), config_of(name))
    state |= {"class_stream.bias": torch.zeros(9), "unheard.of": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 surplus: unheard.of; 1 of another shape: class_stream.bias \(9,\)"):
        load_detector(io.BytesIO(save(state, metadata)), config_of(name))


def _written(folder, content):
    (folder / "file").write_bytes(content)
    return folder / "file"


@pytest.mark.parametrize("refine_lr_factor", [1.0, 10.0])
def test_every_learning_parameter_is_in_one_group(name, refine_lr_factor):
    config = config_of(name, lr=2.0, weight_decay=0.25, bias_lr_factor=3.0, refine_lr_factor=refine_lr_factor)
    detector = build_detector(config, CLASSES)
    groups = detector.parameter_groups(config)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, detector.detector_parameters()))
    assert len(set(grouped)) == len(grouped)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rates[id(detector.class_stream.weight)] == (2.0, 0.25)
    assert rates[id(detector.class_stream.bias)] == (6.0, 0.0)
    branch = detector.refinements[1]
    own = [(2.0, 0.25), (6.0, 0.0)] if refine_lr_factor == 1 else [(20.0, 0.25), (20.0, 0.25)]
    assert [rates[id(branch.weight)], rates[id(branch.bias)]] == own
    assert not {id(p) for p in detector.parameters() if not p.requires_grad} & set(rates)
    assert not set(map(id, detector.adversary_parameters())) & set(rates)


def losses_with(name, **options):
    """Losses of the same weights on the same images under other options of the mining."""
    detector = detector_of(name, **options).eval()
    return {key: value.item() for key, value in detector.training_losses(*batch_of((40, 40, 40))).items()}


def test_the_options_of_a_detector_reach_its_losses(name):
    default = losses_with(name)
    if name == "mist":
        off = DropBlockConfig(enabled=False)
        weighted = losses_with(name, detector=MistConfig(first_branch_weight=1.5, dropblock=off))
        assert weighted == near(default | {"refine1": default["refine1"] / 2, "box1": default["box1"] / 2}, length=40)
        changed = [MistConfig(share=0.0), MistConfig(max_overlap=1.0), MistConfig(min_iou=0.1)]
        assert all(losses_with(name, detector=options)["refine1"] != default["refine1"] for options in changed)
    else:
        changed = [
            OicrConfig(assign="top1"), OicrConfig(near_top=0.2), OicrConfig(near_top=0.2, nms_iou=0.0),
            OicrConfig(min_iou=0.1), OicrConfig(ignore_below=0.3),
        ]  # fmt: skip
        values = [losses_with(name, detector=options)["refine1"] for options in changed]
        assert len({default["refine1"], *values}) == 6
        with pytest.raises(ConfigError, match=r"ignore_below: expected 0 with assign=top1, got 0.1"):
            OicrConfig(assign="top1", ignore_below=0.1)


def test_the_image_loss_is_that_of_the_detector(name):
    """One proposal: its score is its softmax over classes alone; the classes are 0 and not 1, 2."""
    detector = detector_of(name).eval()
    images, boxes, real, labels = batch_of((1,))
    labels = torch.tensor([[True, False, False]])
    with torch.no_grad():
        p = detector(images, boxes, real).class_logits[0, 0].softmax(dim=0)
        found = detector.training_losses(images, boxes, real, labels)["image"]
    if name == "mist":  # the mean over background, which is absent, and three classes
        expected = -((1 - p[0]).log() + p[1].log() + (1 - p[2]).log() + (1 - p[3]).log()) / 4
    else:  # the sum
        expected = -(p[0].log() + (1 - p[1]).log() + (1 - p[2]).log())
    assert_near(found, expected, length=8)


def test_scores_are_the_mean_of_the_branches(name):
    detector = detector_of(name).eval()
    images, boxes, real, _ = batch_of((4,))
    found, logits = detector.predict(images, boxes, real), detector(images, boxes, real)
    softmaxes = [branch[0].softmax(dim=1)[:, 1:] for branch in logits.refined_logits]
    assert_near(found.scores, sum(softmaxes) / 3, length=8)
    if name == "mist":
        assert_near(found.deltas, sum(branch[0, :, 1:] for branch in logits.deltas) / 3, length=3)
    else:
        assert found.deltas is None
