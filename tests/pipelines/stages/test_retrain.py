"""``retrain``: what it learns from, at which rates, on how many workers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.products.index import Picture
from pipelines.products.pseudo_labels import PseudoLabelledImage
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.stages.retrain.stage import choose_images
from pipelines.stages.retrain.task import BoxedImage, RetrainTask
from pipelines.training.checkpoints import read_scalars
from pipelines.training.loop import run_training
from pipelines.training.task import Position, TrainingResources
from tests.support.tolerances import near, roundings_in
from tests.support.two_workers import train_two
from weaksam.config import (
    DinoConfig,
    FasterRcnnConfig,
    QueryDropConfig,
    RetrainConfig,
    RetrainedDetectConfig,
    RoiDropConfig,
    ShapesConfig,
    Weights,
)
from weaksam.datasets.shapes import Shapes
from weaksam.detectors.retrained.samples import least_side
from weaksam.errors import DataError
from weaksam.io.images import decode_at_least
from weaksam.structures import BOXES, IMAGE_LABELS, PseudoGroundTruth

SMALL = RetrainConfig(
    backbone="small", init=Weights("builtin:stem"), freeze_stages=0, scales=(48, 64), batch_size=4, steps=8, lr=0.01,
    warmup_steps=0,
    detector=FasterRcnnConfig(
        anchor_sides=(12, 24, 48), pyramid_dim=16, head_dim=32, proposals_before_nms=(100, 100), proposals=50, rois=32
    ),
    test=RetrainedDetectConfig(scales=(64,), flip=False),
)  # fmt: skip
TINY_DINO = DinoConfig(
    levels=2, dim=32, heads=4, points=2, encoder_layers=1, decoder_layers=2, feedforward_dim=32, queries=10,
    denoising_queries=4,
)  # fmt: skip
DINO = replace(SMALL, detector=TINY_DINO, optimizer="adamw", lr=3e-3, max_grad_norm=0.1)


def boxed(record, truth):
    number = len(truth.boxes_xyxy)
    scores = np.ones(number, np.float32)
    boxes = PseudoGroundTruth(
        boxes_xyxy=truth.boxes_xyxy, class_index=truth.class_index, score=scores, score_normalised=scores
    )
    return BoxedImage(record.image_id, record.uri, "", boxes)


def drawn_task(config=SMALL, count=8):
    dataset = Shapes(ShapesConfig(size=64, train=count))
    truth = dataset.ground_truth("train")
    images = tuple(boxed(record, truth[record.image_id]) for record in dataset.records("train"))
    return RetrainTask(config=config, num_classes=len(dataset.class_names), images=images, cache_mib=16)


def run(task, folder, **resources):
    return run_training(task, storage_uri=str(folder), run_name="run", resources=lambda: TrainingResources(**resources))


# --------------------------------------------------------------------------------------------------- what is learnt from


def row(image_id, *boxes, supervision=IMAGE_LABELS):
    truth = PseudoGroundTruth(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        class_index=np.arange(len(boxes)),
        score=np.full(len(boxes), 0.5, np.float32),
        score_normalised=np.ones(len(boxes), np.float32),
    )
    return PseudoLabelledImage(image_id=image_id, split="train", size_hw=(20, 20), truth=truth, supervision=supervision)


def keys(*items):
    run = Run(load_recipe("shapes-tuning", items)[0], "/run")
    return [run.instance(name).key for name in ("retrain", "detect.final")]


@pytest.mark.long
@pytest.mark.parametrize(
    ("detector", "drop"),
    [
        ("faster_rcnn", {"tau_cls": 2.0, "tau_reg": "auto", "start_step": 7, "rule": "all"}),
        ("dino", {"percentile": 50.0, "scope": "all"}),
    ],
)
def test_thresholds_make_another_detector_only_where_the_drop_is_on(detector, drop):
    def with_drop(enabled):
        items = [f"retrain.detector.drop.{name}={value}" for name, value in {**drop, "enabled": enabled}.items()]
        return keys(f"retrain.detector={detector}", *items)

    off = keys(f"retrain.detector={detector}", "retrain.detector.drop.enabled=false")
    on = keys(f"retrain.detector={detector}", "retrain.detector.drop.enabled=true")
    assert with_drop("false") == off
    assert with_drop("true")[0] not in (on[0], off[0])
    assert on[0] != off[0]


def pictures(*image_ids):
    return {image_id: Picture(f"{image_id}.jpg", f"content of {image_id}") for image_id in image_ids}


def test_images_with_boxes_are_learnt_from_and_the_others_counted():
    rows = [row("a", (0, 0, 9, 9), (0, 0, 4, 9)), row("b"), row("c", (0, 0, 4, 9)), row("gone", (0, 0, 9, 9))]
    images, left_out, supervision = choose_images(rows, pictures("a", "b", "c"), 5)
    assert [image[:3] for image in images] == [("a", "a.jpg", "content of a")]
    assert images[0].truth.boxes_xyxy.tolist() == [[0, 0, 9, 9]]
    assert images[0].truth.class_index.tolist() == [0]
    assert left_out == {"not indexed": 1, "without boxes": 2}
    assert supervision == IMAGE_LABELS


def test_images_come_in_the_order_of_the_index_whatever_that_of_the_rows():
    rows = [row(image_id, (0, 0, 9, 9)) for image_id in "cab"]
    for these in (rows, rows[::-1]):
        images, _, _ = choose_images(these, pictures("b", "c", "a"), 1)
        assert [image.image_id for image in images] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], r"got none \(the table is empty\)"),
        ([row("a"), row("b")], r"got none \(2 without boxes\)"),
        (
            [row("a", (0, 0, 9, 9)), row("b", (0, 0, 9, 9), supervision=BOXES)],
            "got those of boxes and of image-labels",
        ),
    ],
    ids=["empty", "no-boxes", "mixed"],
)
def test_boxes_of_one_supervision_are_needed(rows, why):
    with pytest.raises(DataError, match=why):
        choose_images(rows, pictures("a", "b"), 1)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.5), (1, 0.75), (2, 1), (4, 1), (5, 0.1), (8, 0.01)])
def test_the_rate_warms_up_and_falls_at_the_milestones(step, factor):
    for milestones in ((0.5, 0.8), (5, 8)):
        config = replace(SMALL, steps=10, warmup_steps=2, warmup_factor=0.5, milestones=milestones)
        assert drawn_task(config).lr_factors(Position(step, 10, 0.0)) == pytest.approx((factor,))


def test_the_backbone_learns_at_its_own_rate():
    task = drawn_task(replace(SMALL, backbone_lr_factor=0.1, weight_decay=0.02))
    model = task.build_model()
    (optimizer,) = task.build_optimizers(model)
    rest, backbone = optimizer.param_groups
    assert (rest["lr"], backbone["lr"]) == (0.01, pytest.approx(0.001))
    assert rest["weight_decay"] == backbone["weight_decay"] == 0.02
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.backbone.parameters()}
    assert len(rest["params"]) + len(backbone["params"]) == len(list(model.parameters()))


def test_a_view_is_decided_by_epoch_and_image_alone():
    images = drawn_task().build_dataset()
    (view, targets), again, other = images.load(2, epoch=3), images.load(2, epoch=3), images.load(2, epoch=4)
    assert torch.equal(view, again[0])
    assert torch.equal(targets.boxes_xyxy, again[1].boxes_xyxy)
    assert view.shape != other[0].shape or not torch.equal(view, other[0])


def test_a_large_jpeg_gives_the_boxes_and_nearly_the_view_of_the_whole_picture(tmp_path):
    boxes = row("a", (100, 40, 301, 460), (0, 0, 528, 512)).truth
    rows, columns = np.mgrid[:512, :528]
    smooth = Image.fromarray(np.stack([rows // 3, columns // 3, 255 - columns // 3], axis=-1).astype(np.uint8))
    smooth.save(tmp_path / "a.jpg", quality=98, subsampling=0)  # is decoded at an eighth of its size
    smooth.save(tmp_path / "a.png")

    def loaded(name):
        image = BoxedImage("a", str(tmp_path / name), "", boxes)
        return RetrainTask(config=SMALL, num_classes=2, images=(image,)).build_dataset().load(0, epoch=0)

    (view, targets), (whole, expected) = loaded("a.jpg"), loaded("a.png")
    assert view.shape == whole.shape
    assert (view - whole)[:, :-1, :-1].abs().max() < 0.1  # in deviations; the last cells are of parts of blocks
    torch.testing.assert_close(targets.boxes_xyxy, expected.boxes_xyxy, atol=1e-3, rtol=0)
    assert decode_at_least((tmp_path / "a.jpg").read_bytes(), least_side(SMALL))[0].shape == (64, 66, 3)


# --------------------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
@pytest.mark.parametrize("config", [SMALL, DINO], ids=["faster_rcnn", "dino"])
def test_a_detector_learns_and_the_same_seed_gives_the_same_bits(tmp_path, config):
    task = drawn_task(replace(config, steps=30))
    one, two = (run(task, tmp_path / name) for name in ("a", "b"))
    losses = [line.loss for line in one.scalars]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert one.model.keys() == two.model.keys()
    assert all(torch.equal(one.model[name], two.model[name]) for name in one.model)
    assert {"foreground", "background", "dropped_foreground", "dropped_background"} <= set(one.scalars[0].counts)
    assert all(line.counts["dropped_foreground"] == 0 for line in one.scalars)


DROPPING = {
    "faster_rcnn": replace(
        SMALL, detector=replace(SMALL.detector, drop=RoiDropConfig(enabled=True, tau_reg=0.01, start_step=3))
    ),
    "dino": replace(
        DINO, detector=replace(DINO.detector, drop=QueryDropConfig(enabled=True, percentile=50.0, start_step=3))
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DROPPING))
def test_a_loss_drop_starts_at_its_step_and_is_counted(tmp_path, name):
    rows = run(drawn_task(DROPPING[name]), tmp_path / "on").scalars
    off = run(drawn_task({"faster_rcnn": SMALL, "dino": DINO}[name]), tmp_path / "off").scalars
    assert [row.counts["dropped_foreground"] > 0 for row in rows] == [False] * 3 + [True] * 5
    assert [one.loss == other.loss for one, other in zip(rows, off, strict=True)][:4] == [True, True, True, False]


@pytest.mark.slow
def test_two_workers_lose_what_one_loses_where_the_loss_does_not_hang_on_a_draw(tmp_path):
    # Faster R-CNN samples its regions from the worker's own random stream; DINO without denoising draws nothing.
    config = replace(DINO, detector=replace(DINO.detector, denoising_queries=0), optimizer="sgd", lr=1e-4, steps=10)
    task = drawn_task(config)
    train_two({"dino": task}, str(tmp_path / "pair"))
    alone = run(task, tmp_path).scalars
    pair = read_scalars(str(tmp_path / "pair" / "dino"))
    assert [line.step for line in pair] == list(range(1, 11))
    length = 10 * roundings_in(task.build_model())
    assert [line.loss for line in pair] == near([line.loss for line in alone], length=length)
