import io
import math
from collections import OrderedDict
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from tests.support.tolerances import assert_near, near, rounding, roundings_in
from weaksam.config import DetectConfig, FasterRcnnConfig, RetrainConfig, RoiDropConfig
from weaksam.datasets.shapes import data_set_seed, draw
from weaksam.detectors.loading import detector_to_bytes, load_retrained
from weaksam.detectors.retrained.base import Targets
from weaksam.detectors.retrained.faster_rcnn import FasterRcnn
from weaksam.errors import ConfigError
from weaksam.losses import history
from weaksam.networks.small_stem import load_builtin_classifier
from weaksam.pseudo_labels.thresholds import knee, outlier_fence

CLASSES = 3
OFF = RoiDropConfig()
# Proposals that all become regions, so that nothing about the regions is random.
ALL_REGIONS = {"proposals_before_nms": (300, 300), "proposals": 700, "rois": 2000, "foreground_share": 1.0}


def config_of(drop=OFF, test=None, **options):
    own = {
        "anchor_sides": (16, 32, 64), "pyramid_dim": 32, "head_dim": 32, "proposals_before_nms": (100, 100),
        "proposals": 60, "rois": 32, "drop": drop,
    }  # fmt: skip
    passes = DetectConfig(**({"scales": (96,), "score_threshold": 0.05, "nms_iou": 0.5} | (test or {})))
    return RetrainConfig(backbone="small", freeze_stages=0, detector=FasterRcnnConfig(**(own | options)), test=passes)


def detector_of(drop=OFF, test=None, **options):
    """A detector whose predictions are large enough to tell regions and proposals apart."""
    torch.manual_seed(0)
    detector = FasterRcnn(config_of(drop, test, **options), CLASSES)
    predictor = detector.roi_heads.box_predictor
    for layer, std in ((predictor.cls_score, 0.7), (predictor.bbox_pred, 0.1), (detector.rpn.head.cls_logits, 0.1)):
        nn.init.normal_(layer.weight, std=std)
    return detector


def boxes_of(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def targets_of(*rows):
    """Targets from (class index, box) pairs."""
    return Targets(boxes_of(*[box for _, box in rows]), torch.tensor([k for k, _ in rows], dtype=torch.int64))


TWO = targets_of((2, [8, 8, 44, 40]), (0, [30, 50, 94, 90]))
ONE = targets_of((1, [20, 16, 52, 46]))
NONE = targets_of()


def batch_of(*targets, height=96, width=128, seed=1):
    """Noise of that size; the second view is smaller than the padded batch."""
    images = torch.randn(len(targets), 3, height, width, generator=torch.Generator().manual_seed(seed))
    sizes = [[height, width], [height - 20, width - 40], [height, width]][: len(targets)]
    for image, (h, w) in zip(images, sizes, strict=True):
        image[:, h:], image[:, :, w:] = 0, 0
    return images, torch.tensor(sizes), list(targets)


def losses_of(detector, batch, *, step=0, seed=5):
    torch.manual_seed(seed)
    return detector.train().training_losses(*batch, step=step)


# -------------------------------------------------------------------------------------------------- against torchvision


class BackboneOfTorchvision(nn.Module):
    """Ours, as torchvision's model wants it."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector
        self.out_channels = detector.options.pyramid_dim

    def forward(self, images):
        maps = self.detector.backbone(images)
        return self.detector.pyramid(OrderedDict((str(k), m) for k, m in enumerate(maps)))


class AsTheyAre(nn.Module):
    def forward(self, images, targets):
        batch, sizes = images
        return detection.image_list.ImageList(batch, [(h, w) for h, w in sizes.tolist()]), targets


def of_torchvision(detector):
    """torchvision's model around the very layers of ours."""
    own, test = detector.options, detector.config.test
    model = detection.FasterRCNN(
        BackboneOfTorchvision(detector),
        rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in own.anchor_sides), (own.anchor_ratios,) * 3),
        rpn_head=detector.rpn.head,
        rpn_pre_nms_top_n_train=own.proposals_before_nms[0], rpn_pre_nms_top_n_test=own.proposals_before_nms[1],
        rpn_post_nms_top_n_train=own.proposals, rpn_post_nms_top_n_test=own.proposals,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, 2),
        box_head=detector.roi_heads.box_head, box_predictor=detector.roi_heads.box_predictor,
        box_batch_size_per_image=own.rois, box_positive_fraction=own.foreground_share,
        box_score_thresh=test.score_threshold, box_nms_thresh=test.nms_iou, box_detections_per_img=test.max_detections,
    )  # fmt: skip
    model.transform = AsTheyAre()
    model.check_targets = lambda *_: None
    return model


def test_losses_without_drop_are_those_of_torchvision():
    detector = detector_of(beta=1 / 9)
    batch = batch_of(TWO, ONE, NONE)
    ours = losses_of(detector, batch).losses
    model = of_torchvision(detector).train()
    images, sizes, targets = batch
    truth = [{"boxes": t.boxes_xyxy, "labels": t.class_index + 1} for t in targets]
    torch.manual_seed(5)
    features = model.backbone(images)
    views, _ = model.transform((images, sizes), None)
    proposals, theirs = model.rpn(views, features, truth)
    theirs |= model.roi_heads(features, proposals, views.image_sizes, truth)[1]
    names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    assert list(ours) == ["rpn_objectness", "rpn_box", "class", "box"]
    for value, name in zip(ours.values(), names, strict=True):
        assert value > 0.001
        assert_near(value, theirs[name], length=roundings_in(detector))
    own = torch.autograd.grad(sum(ours.values()), list(detector.parameters()))
    other = torch.autograd.grad(sum(theirs.values()), list(detector.parameters()))
    for a, b in zip(own, other, strict=True):
        assert_near(a, b, length=2 * roundings_in(detector))  # there and back


def test_predictions_are_those_of_torchvision():
    detector = detector_of(test={"score_threshold": 0.1, "nms_iou": 0.4, "max_detections": 12})
    images, sizes, _ = batch_of(TWO, ONE)
    found = detector.predict(images, sizes)
    model = of_torchvision(detector).eval()
    views, _ = model.transform((images, sizes), None)
    with torch.no_grad():
        features = model.backbone(images)
        expected, _ = model.roi_heads(features, model.rpn(views, features)[0], views.image_sizes)
    for view, theirs in zip(found, expected, strict=True):
        assert view.class_index.tolist() == (theirs["labels"] - 1).tolist()
        assert_near(view.boxes_xyxy, theirs["boxes"], length=roundings_in(detector))
        assert_near(view.score, theirs["scores"], length=roundings_in(detector))


def test_a_beta_of_0_is_l1_in_both_stages():
    batch = batch_of(TWO, ONE)
    smooth, plain = (losses_of(detector_of(beta=beta, **ALL_REGIONS), batch).losses for beta in (1 / 9, 0.0))
    assert plain["class"] == smooth["class"]
    regions = detector_of(**ALL_REGIONS).roi_losses(*batch, seed=0, rois=2000, foreground_share=1.0)
    assert_near(plain["box"], regions.loss_reg.sum() / len(regions.loss_reg), length=len(regions.loss_reg))
    # Smooth-L1 lies at most beta / 2 under L1, per coordinate; half of the 256 anchors per image are foreground at most.
    assert 0 < plain["rpn_box"] - smooth["rpn_box"] <= 4 * 0.5 / 18
    assert 0 < plain["box"] - smooth["box"] <= 4 / 18


# ------------------------------------------------------------------------------------------------------------ regions


def overlap(a, b):
    """IoU of two boxes, the slow way."""
    sides = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    inner = sides[0] * sides[1]
    return inner / (sum(areas) - inner)


def test_a_region_is_to_find_the_first_of_the_boxes_that_overlap_it_most():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(12, 2, generator=generator) * torch.tensor([80.0, 60.0])
    boxes = torch.cat([corners, corners + 14 + 34 * torch.rand(12, 2, generator=generator)], dim=1)
    many = Targets(torch.cat([boxes, boxes[:4]]), torch.arange(16) % CLASSES)  # four are there twice
    detector = detector_of(proposals_before_nms=(1000, 1000), proposals=1500)
    found = detector.roi_losses(*batch_of(many, ONE), seed=0, rois=300)
    assert found.foreground.sum() > 30
    assert (~found.foreground).sum() > 30
    for k in range(len(found.boxes_xyxy)):
        truth = (many, ONE)[int(found.image_index[k])].boxes_xyxy.tolist()
        ious = [overlap(found.boxes_xyxy[k].tolist(), box) for box in truth]
        if abs(max(ious) - 0.5) > 1e-5:  # or rounding decides
            assert found.foreground[k] == (max(ious) > 0.5)
        expected = ious.index(max(ious)) if found.foreground[k] else -1
        assert found.target_index[k] == expected


def test_the_loss_that_the_drop_judges_boxes_by_is_the_sum_of_weighted_differences():
    detector = detector_of(beta=1.0, **ALL_REGIONS)  # whatever the box loss is
    nn.init.zeros_(detector.roi_heads.box_predictor.bbox_pred.weight)
    nn.init.zeros_(detector.roi_heads.box_predictor.bbox_pred.bias)
    found = detector.roi_losses(*batch_of(TWO), seed=0, rois=2000, foreground_share=1.0)
    assert found.foreground.sum() > 5
    for k in found.foreground.nonzero()[:, 0]:
        x1, y1, x2, y2 = found.boxes_xyxy[k].tolist()
        tx1, ty1, tx2, ty2 = TWO.boxes_xyxy[found.target_index[k]].tolist()
        width, height, wanted_w, wanted_h = x2 - x1, y2 - y1, tx2 - tx1, ty2 - ty1
        expected = 10 * abs((tx1 + tx2 - x1 - x2) / 2 / width) + 10 * abs((ty1 + ty2 - y1 - y2) / 2 / height)
        expected += 5 * abs(math.log(wanted_w / width)) + 5 * abs(math.log(wanted_h / height))
        # A corner as far from the origin as the image is wide, in tenths of a region's sides.
        magnitude = 10 * 128 * (1 / width + 1 / height)
        assert found.loss_reg[k].item() == near(expected, length=4, magnitude=magnitude)
    assert not found.loss_reg[~found.foreground].any()


def test_the_noise_analysis_samples_50_regions_of_which_at_most_45_are_foreground():
    detector = detector_of(proposals_before_nms=(500, 500), proposals=400).train()
    batch = batch_of(TWO, NONE)
    crowded = Targets(torch.cat([TWO.boxes_xyxy] * 40), torch.cat([TWO.class_index] * 40))
    state = torch.random.get_rng_state()
    found = detector.roi_losses(batch[0], batch[1], [crowded, NONE], seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert detector.training
    assert detector.rpn.training
    assert found.image_index.bincount().tolist() == [50, 50]
    assert found.foreground[:50].sum() == 45
    assert not found.foreground[50:].any()
    assert (found.target_index[50:] == -1).all()
    assert not found.loss_cls.requires_grad
    again, other = (detector.roi_losses(batch[0], batch[1], [crowded, NONE], seed=seed) for seed in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert not torch.equal(found.boxes_xyxy, other.boxes_xyxy)


def test_identical_nested_and_tied_boxes_train():
    nested = targets_of((0, [10, 10, 42, 42]), (1, [10, 10, 42, 42]), (2, [16, 16, 36, 36]), (1, [42, 10, 74, 42]))
    detector = detector_of(**ALL_REGIONS)
    batch = batch_of(nested)
    losses = losses_of(detector, batch).losses
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in detector.parameters())
    found = detector.roi_losses(*batch, seed=0, rois=2000, foreground_share=1.0)
    assert set(found.target_index.tolist()) == {-1, 0, 2, 3}  # of the identical ones the first


# ------------------------------------------------------------------------------------------------------------ RoI drop


@cache
def regions_of_two_and_one():
    """The losses of all regions of a batch; nothing about them is random."""
    return detector_of(**ALL_REGIONS).roi_losses(*batch_of(TWO, ONE), seed=0, rois=2000, foreground_share=1.0)


def thresholds():
    """Two that each divide the foreground, where rounding moves no loss across."""
    found = regions_of_two_and_one()
    return {
        "tau_cls": between(found.loss_cls, found.foreground),
        "tau_reg": between(found.loss_reg, found.foreground),
    }


def between(losses, foreground):
    """In the middle of the widest gap around three tenths of the foreground, and in none of the other losses' way."""
    ordered = losses.sort().values
    share = losses[foreground].quantile(torch.tensor([0.2, 0.4]))
    ordered = ordered[(ordered >= share[0]) & (ordered <= share[1])]
    gaps = ordered.diff()
    widest = int(gaps.argmax())
    assert gaps[widest] > rounding(torch.float32, roundings_in(detector_of()), ordered[widest].item())
    return ordered[widest : widest + 2].mean().item()


@pytest.mark.parametrize("droppable", ["all", "foreground"])
@pytest.mark.parametrize("rule", ["any", "all"])
@pytest.mark.parametrize("normaliser", ["sampled", "kept"])
def test_the_losses_are_sums_over_the_regions_kept(rule, droppable, normaliser):
    drop = RoiDropConfig(
        enabled=True, start_step=3, rule=rule, droppable=droppable, normaliser=normaliser, **thresholds()
    )
    found = regions_of_two_and_one()
    kept_cls = kept_reg = 0.0
    kept, dropped = 0, {"foreground": 0, "background": 0}
    for loss_cls, loss_reg, foreground in zip(
        found.loss_cls.tolist(), found.loss_reg.tolist(), found.foreground.tolist(), strict=True
    ):
        above = [loss_cls > drop.tau_cls, foreground and loss_reg > drop.tau_reg]
        goes = (any(above) if rule == "any" else all(above)) and (foreground or droppable == "all")
        dropped["foreground" if foreground else "background"] += goes
        if not goes:
            kept, kept_cls, kept_reg = kept + 1, kept_cls + loss_cls, kept_reg + loss_reg
    assert dropped["foreground"] > 0
    assert (dropped["background"] > 0) == ((rule, droppable) == ("any", "all"))
    share = kept if normaliser == "kept" else len(found.loss_cls)
    detector = detector_of(drop, **ALL_REGIONS)
    out = losses_of(detector, batch_of(TWO, ONE), step=3)
    assert out.losses["class"].item() == near(kept_cls / share, length=len(found.loss_cls))
    assert out.losses["box"].item() == near(kept_reg / share, length=len(found.loss_cls))
    assert out.counts["foreground"] == found.foreground.sum() / 2  # per image
    assert out.counts["background"] == (~found.foreground).sum() / 2
    for kind, number in dropped.items():
        assert out.counts[f"dropped_{kind}"] == number / 2
    early = losses_of(detector, batch_of(TWO, ONE), step=2)
    assert list(early.counts) == list(out.counts)
    assert not any(value for name, value in early.counts.items() if name.startswith("dropped"))


@pytest.mark.parametrize(
    "drop",
    [
        RoiDropConfig(enabled=True, start_step=1, tau_cls=0.0, tau_reg=0.0),
        RoiDropConfig(enabled=True, start_step=0, tau_cls=math.inf, tau_reg=math.inf),
        RoiDropConfig(enabled=True, start_step=0, tau_cls=math.inf, tau_reg=math.inf, normaliser="kept"),
        RoiDropConfig(enabled=True, start_step=0, tau_cls=100.0, tau_reg=100.0, variant="percentile"),
        RoiDropConfig(start_step=0, tau_cls=0.0, tau_reg=0.0),
    ],
    ids=["before its first step", "infinite thresholds", "infinite, by those kept", "percentile 100", "not enabled"],
)
def test_a_drop_that_drops_nothing_is_bit_for_bit_none(drop):
    plain, other = detector_of(), detector_of(drop)
    expected, found = (losses_of(detector, batch_of(TWO, ONE, NONE)) for detector in (plain, other))
    assert list(found.counts) == list(expected.counts)
    for ours, theirs in ((found.losses, expected.losses), (found.counts, expected.counts)):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    for out in (expected, found):
        sum(out.losses.values()).backward()
    for a, b in zip(other.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def prediction_gradients(detector, batch):
    """Gradients of the logits and deltas of all regions."""
    kept = []
    predictor = detector.roi_heads.box_predictor
    handle = predictor.register_forward_hook(lambda _module, _inputs, outputs: kept.extend(outputs))
    losses = losses_of(detector, batch).losses
    handle.remove()
    return torch.autograd.grad(losses["class"] + losses["box"], kept)


def test_dropped_regions_have_no_gradient_and_those_kept_their_own():
    batch = batch_of(TWO, ONE)
    drop = RoiDropConfig(enabled=True, start_step=0, **thresholds())
    plain, found = (prediction_gradients(detector_of(d, **ALL_REGIONS), batch) for d in (OFF, drop))
    regions = regions_of_two_and_one()
    goes = (regions.loss_cls > drop.tau_cls) | (regions.loss_reg > drop.tau_reg)
    assert 0 < goes.sum() < len(goes)
    for before, after in zip(plain, found, strict=True):
        assert before[goes].any()
        assert not after[goes].any()
        assert torch.equal(after[~goes], before[~goes])


def test_without_a_region_left_both_losses_are_0_and_differentiable():
    drop = RoiDropConfig(enabled=True, start_step=0, tau_cls=0.0, tau_reg=0.0, normaliser="kept")
    detector = detector_of(drop)
    out = losses_of(detector, batch_of(TWO, ONE))
    (out.losses["class"] + out.losses["box"]).backward()
    assert (out.losses["class"], out.losses["box"]) == (0, 0)
    assert out.counts["dropped_foreground"] == out.counts["foreground"] > 0
    assert not detector.roi_heads.box_predictor.cls_score.weight.grad.any()


# ------------------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("targets", [(NONE,), (NONE, NONE)])
def test_a_batch_without_boxes_teaches_that_there_is_nothing(targets):
    detector = detector_of()
    out = losses_of(detector, batch_of(*targets))
    sum(out.losses.values()).backward()
    assert (out.losses["box"], out.losses["rpn_box"], out.counts["foreground"]) == (0, 0, 0)
    assert out.losses["class"] > 0
    assert out.losses["rpn_objectness"] > 0
    assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_the_same_seed_gives_the_same_loss_and_another_one_another():
    detector = detector_of()
    first, second, other = (losses_of(detector, batch_of(TWO, ONE), seed=seed).losses for seed in (5, 5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["class"] != other["class"]


def test_bf16_autocast_is_finite_and_near_float32():
    detector = detector_of(**ALL_REGIONS)
    batch = batch_of(TWO, ONE, NONE)
    exact = losses_of(detector, batch).losses
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(detector, batch).losses
        found = detector.predict(*batch[:2])
        regions = detector.roi_losses(*batch, seed=0)
    sum(losses.values()).backward()
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert_near(value, exact[name], length=4, dtype=torch.bfloat16)  # backbone, pyramid, head, predictor
    assert {t.dtype for view in found for t in (view.boxes_xyxy, view.score)} == {torch.float32}
    assert {regions.loss_cls.dtype, regions.loss_reg.dtype, regions.boxes_xyxy.dtype} == {torch.float32}
    # Of the boxes, of which a true one is always a region, none is rounded to the 8 bits of bf16.
    assert any((TWO.boxes_xyxy[0] == box).all() for box in regions.boxes_xyxy)
    assert not torch.equal(regions.boxes_xyxy, regions.boxes_xyxy.bfloat16().float())
    assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_predictions_obey_the_config_and_leave_mode_and_random_state():
    detector = detector_of(test={"score_threshold": 0.2, "max_detections": 7}).train()
    state = torch.random.get_rng_state()
    images, sizes, _ = batch_of(TWO, ONE)
    found = detector.predict(images, sizes)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert detector.training
    assert not detector.backbone.stem.training  # its batch norms are at rest whatever the mode
    for view, (height, width) in zip(found, sizes.tolist(), strict=True):
        assert 0 < len(view.score) <= 7
        assert view.class_index.dtype == torch.int64
        assert ((view.class_index >= 0) & (view.class_index < CLASSES)).all()
        assert (view.score > 0.2).all()
        assert (view.score.diff() <= 0).all()
        assert (view.boxes_xyxy >= 0).all()
        assert (view.boxes_xyxy <= torch.tensor([width, height, width, height])).all()
    none = detector_of(test={"score_threshold": 1.0}).predict(images, sizes)
    assert [view.boxes_xyxy.shape for view in none] == [(0, 4), (0, 4)]


@pytest.mark.parametrize(
    "layer",
    [
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    ],
)
def test_no_threshold_hides_what_is_no_number(layer):
    detector = detector_of()
    torch.nn.init.constant_(detector.get_submodule(layer).bias, torch.nan)
    images, sizes, _ = batch_of(TWO)
    with pytest.raises(ConfigError, match=r"retrain\.test\.precision: expected finite numbers"):
        detector.predict(images, sizes)


def test_losses_are_there_in_evaluation_mode_too():
    detector = detector_of()
    expected = losses_of(detector, batch_of(TWO)).losses
    torch.manual_seed(5)
    found = detector.eval().training_losses(*batch_of(TWO), step=0).losses
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not detector.rpn.training


@cache
def trained_on_one_drawing():
    """A detector that has seen one drawing again and again, and the drawing."""
    torch.manual_seed(0)
    drawing = draw(data_set_seed(0, "train", 3), 96)
    detector = FasterRcnn(config_of(foreground_share=0.5), 1 + int(drawing.class_index.max()))
    detector.backbone.init_from(load_builtin_classifier().state_dict(), "builtin")
    image = detector.backbone.pixels.normalise(drawing.image)
    targets = Targets(torch.from_numpy(drawing.boxes_xyxy), torch.from_numpy(drawing.class_index))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=45)
    for _ in range(60):
        out = detector.train().training_losses(image[None], torch.tensor([[96, 96]]), [targets], step=0)
        optimizer.zero_grad()
        sum(out.losses.values()).backward()
        optimizer.step()
        schedule.step()
    return detector, image, targets


def best_of(found, class_index, truth):
    """The box of this class that overlaps ``truth`` most, of those that are likelier than not."""
    rows = found.boxes_xyxy[(found.class_index == class_index) & (found.score > 0.5)].tolist()
    return max(rows, key=lambda box: overlap(truth, box))


# How well it learns hangs on the processor: 60 steps enlarge what rounding does. That it finds each object does not.


@pytest.mark.slow
def test_a_few_steps_teach_it_one_drawing():
    detector, image, targets = trained_on_one_drawing()
    (found,) = detector.predict(image[None], torch.tensor([[96, 96]]))
    for truth, class_index in zip(targets.boxes_xyxy.tolist(), targets.class_index, strict=True):
        assert overlap(truth, best_of(found, class_index, truth)) > 0.5


@pytest.mark.slow
def test_the_objects_found_in_a_view_are_found_in_its_padding_too():
    """At the edge of a view convolutions see padding instead of an edge: boxes there do move a little."""
    detector, image, targets = trained_on_one_drawing()
    (alone,) = detector.predict(image[None], torch.tensor([[96, 96]]))
    padded = torch.zeros(2, 3, 160, 224)
    padded[0, :, :96, :96] = image
    padded[1] = torch.randn(3, 160, 224, generator=torch.Generator().manual_seed(0))
    beside = detector.predict(padded, torch.tensor([[96, 96], [160, 224]]))[0]
    for truth, class_index in zip(targets.boxes_xyxy.tolist(), targets.class_index, strict=True):
        one, other = (best_of(found, class_index, truth) for found in (alone, beside))
        assert min(overlap(truth, one), overlap(truth, other), overlap(one, other)) > 0.5


def test_anchor_sides_are_one_per_pyramid_level():
    with pytest.raises(
        ConfigError, match=r"anchor_sides: expected 3 sides, one per pyramid level of small, got '5: \(32, "
    ):
        detector_of(anchor_sides=FasterRcnnConfig().anchor_sides)


def test_the_published_detector_has_anchors_at_the_strides_of_five_levels():
    own = FasterRcnnConfig(pyramid_dim=16, head_dim=16, proposals_before_nms=(50, 50), proposals=20, rois=16)
    torch.manual_seed(0)
    detector = FasterRcnn(RetrainConfig(detector=own, freeze_stages=2), 20)
    images, sizes, targets = batch_of(TWO, height=96, width=160)
    views, features = detector._features(images, sizes)
    assert [tuple(m.shape[1:]) for m in features.values()] == [
        (16, 24, 40), (16, 12, 20), (16, 6, 10), (16, 3, 5), (16, 2, 3)
    ]  # fmt: skip
    (anchors,) = detector.rpn.anchor_generator(views, list(features.values()))
    assert len(anchors) == 3 * (24 * 40 + 12 * 20 + 6 * 10 + 3 * 5 + 2 * 3)
    coarsest = anchors[-18:].view(2, 3, 3, 4)  # rows, columns, ratios
    centres = (coarsest[..., :2] + coarsest[..., 2:]) / 2
    assert centres[0, :, 0, 0].tolist() == [0, 64, 128]
    assert centres[:, 0, 0, 1].tolist() == [0, 64]
    assert (coarsest[0, 0, 1, 2:] - coarsest[0, 0, 1, :2]).tolist() == [512, 512]
    out = losses_of(detector, (images, sizes, targets))
    sum(out.losses.values()).backward()
    learnt = {name.split(".")[1] for name, p in detector.backbone.network.named_parameters("x") if p.grad is not None}
    assert learnt == {"layer2", "layer3", "layer4"}


# ------------------------------------------------------------------------------------------ thresholds left to the losses

AUTO = RoiDropConfig(enabled=True, tau_cls="auto", tau_reg="auto", start_step=2)


def test_open_thresholds_are_chosen_from_the_losses_before_the_drop_begins(monkeypatch):
    monkeypatch.setattr(history, "FEWEST", 20)
    batch = batch_of(TWO, ONE)
    plain, auto = detector_of(**ALL_REGIONS), detector_of(AUTO, **ALL_REGIONS)
    seen = []
    for step in (0, 1):
        expected, found = losses_of(plain, batch, step=step, seed=step), losses_of(auto, batch, step=step, seed=step)
        for name, value in expected.losses.items():
            assert torch.equal(found.losses[name], value)
        assert auto.chosen_thresholds() == {}
        seen.append(int(auto.loss_history.seen))
    assert seen == [seen[0], 2 * seen[0]]
    found = losses_of(auto, batch, step=2, seed=2)
    remembered = auto.loss_history.losses[: int(auto.loss_history.seen)].numpy()
    assert len(remembered) == 3 * seen[0]
    tau_cls, tau_reg = knee(remembered[:, 0]), outlier_fence(remembered[:, 1])
    assert auto.chosen_thresholds() == near({"tau_cls": tau_cls, "tau_reg": tau_reg})
    assert 0 < found.counts["dropped_foreground"] < found.counts["foreground"]
    # The same as a drop with these numbers.
    numbers = detector_of(auto.drop_in_numbers(), **ALL_REGIONS)
    for name, value in losses_of(numbers, batch, step=2, seed=2).losses.items():
        assert torch.equal(found.losses[name], value)


def test_one_threshold_may_be_open_and_the_other_not(monkeypatch):
    monkeypatch.setattr(history, "FEWEST", 20)
    detector = detector_of(replace(AUTO, tau_reg=7.0, start_step=0), **ALL_REGIONS)
    assert detector.drop_in_numbers() == replace(AUTO, tau_cls=math.inf, tau_reg=7.0, start_step=0)
    for step in range(3):
        losses_of(detector, batch_of(TWO, ONE), step=step)
    assert set(detector.chosen_thresholds()) == {"tau_cls"}
    assert detector.drop_in_numbers().tau_reg == 7.0


def test_what_the_losses_were_is_in_a_checkpoint_and_not_in_the_weights_that_are_kept(tmp_path):
    detector = detector_of(AUTO)
    losses_of(detector, batch_of(TWO))
    assert {name for name in detector.state_dict() if "loss_history" in name} == {
        "loss_history.losses", "loss_history.seen", "loss_history.thresholds",
    }  # fmt: skip
    detector.loss_history = None
    data = detector_to_bytes(detector, ("a", "b", "c"))
    loaded, _, _ = load_retrained(io.BytesIO(data), detector.config)
    assert loaded.state_dict().keys() == detector.state_dict().keys()


def test_open_thresholds_are_losses_not_percentiles():
    with pytest.raises(ConfigError, match=r"tau_cls: expected a number with variant=percentile, got 'auto'"):
        RoiDropConfig(tau_cls="auto", variant="percentile")
    with pytest.raises(ConfigError, match=r"tau_reg: expected 0 or more, or auto, got -1"):
        RoiDropConfig(tau_reg=-1)
