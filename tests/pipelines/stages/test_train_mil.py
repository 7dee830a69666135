"""``train-mil``: what it learns from, at which rates, on how many workers, and what is left of it after a kill."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.recipe.model import load_recipe
from pipelines.stages.train_mil.stage import STAGE, choose_images
from pipelines.stages.train_mil.task import MilTask
from pipelines.store.instances import current_instance
from pipelines.store.schemas import IMAGES, PROPOSALS, proposals_to_row, with_class_names
from pipelines.store.tables import Table
from pipelines.training.checkpoints import read_scalars
from pipelines.training.images import LabelledImage
from pipelines.training.loop import run_training
from pipelines.training.schedules import warmed_up
from pipelines.training.task import Position, TrainingResources
from tests.support.driver import Driver
from tests.support.patience import PATIENCE_S
from tests.support.sets import FROM_NOTHING
from tests.support.tolerances import near, roundings_in
from tests.support.two_workers import train_two
from weaksam.config import DropBlockConfig, MilConfig, MistConfig, OicrConfig, ShapesConfig, Weights
from weaksam.datasets.shapes import Shapes
from weaksam.detectors.loading import load_detector
from weaksam.errors import ConfigError, DataError
from weaksam.structures import Proposals

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray's own, when ray.train is imported

STILL = MistConfig(dropblock=DropBlockConfig(enabled=False))
SMALL = MilConfig(
    backbone="small", init=Weights("builtin:stem"), freeze_stages=0, scales=(48, 64), min_box_side=4, batch_size=4, steps=8,
    lr=1e-3, warmup_steps=0, dropout=0.0, detector=STILL,
)  # fmt: skip


def drawn_task(folder, config=SMALL, count=8):
    """A task on drawn images with 3, 12, 21, … random proposals, from the grid and from "fine" in turn."""
    dataset = Shapes(ShapesConfig(size=64, train=count))
    records = dataset.records("train")
    generator = np.random.default_rng(5)
    rows = []
    for n, record in enumerate(records):
        number = 3 + 9 * n
        corners = generator.uniform(0, 40, (number, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(6, 23, (number, 2))], 1).astype(np.float32)
        proposals = Proposals(
            size_hw=(64, 64),
            boxes_xyxy=boxes,
            source=[("grid", "fine")[m % 2] for m in range(number)],
            prompt_index=np.zeros(number, np.int32),
            mask_index=np.zeros(number, np.int8),
            predicted_iou=np.ones(number, np.float32),
            discarded={},
            prompts=[],
        )
        rows.append(proposals_to_row(record.image_id, FROM_NOTHING, proposals))
    table = Table(str(folder / "proposals"), with_class_names(PROPOSALS, dataset.class_names))
    table.write_rows(rows, "part-0")
    return MilTask(
        config=config,
        num_classes=len(dataset.class_names),
        images=tuple(LabelledImage(record.image_id, record.uri, record.labels) for record in records),
        proposals=(table,),
        cache_mib=16,
    )


def run(task, folder, **resources):
    return run_training(task, storage_uri=str(folder), run_name="run", resources=lambda: TrainingResources(**resources))


# --------------------------------------------------------------------------------------------------- what is learnt from


ROWS = [
    {"image_id": "a", "uri": "a.jpg", "split": "train", "content": "", "labels": [1], "labels_difficult": [0, 1]},
    {"image_id": "b", "uri": "b.jpg", "split": "train", "content": "", "labels": [], "labels_difficult": [2]},
    {"image_id": "c", "uri": "c.jpg", "split": "train", "content": "", "labels": None, "labels_difficult": None},
    {"image_id": "d", "uri": "d.jpg", "split": "train", "content": "", "labels": [0], "labels_difficult": [0]},
    {"image_id": "e", "uri": "e.jpg", "split": "val", "content": "", "labels": [0], "labels_difficult": [0]},
]


def options(*settings):
    return STAGE.options(load_recipe("shapes", settings)[0], "train-mil")


def test_labelled_images_with_proposals_are_learnt_from_and_the_others_counted():
    images, left_out = choose_images(ROWS, {"a", "b", "c", "e"}, options(), "train")
    assert images == (LabelledImage("a", "a.jpg", (1,)),)
    assert left_out == {"with unknown labels": 1, "without any class": 1, "without proposals": 1}
    difficult = options("data.include_difficult=true")
    images, left_out = choose_images(ROWS, {"a", "b", "c", "d"}, difficult, "train")
    assert [(image.image_id, image.labels) for image in images] == [("a", (0, 1)), ("b", (2,)), ("d", (0,))]
    assert left_out == {"with unknown labels": 1}


@pytest.mark.parametrize(
    ("split", "proposed", "why"),
    [
        ("train", set(), "1 with unknown labels, 1 without any class, 2 without proposals"),
        ("nowhere", {"a"}, "the split is empty"),
    ],
)
def test_nothing_to_learn_from_is_an_error_that_says_why(split, proposed, why):
    with pytest.raises(DataError, match=why):
        choose_images(ROWS, proposed, options(), split)


def test_a_sample_is_a_view_of_its_image_with_the_proposals_in_it(tmp_path):
    task = drawn_task(tmp_path)
    images = task.build_dataset()
    view, boxes, labels = images.load(2, epoch=3)
    assert view.shape in ((3, 48, 48), (3, 64, 64))
    assert boxes.shape == (21, 4)  # 3 + 9 · 2
    assert boxes.min() >= 0
    assert boxes.max() <= view.shape[-1]
    assert labels.dtype == torch.bool
    assert labels.nonzero().flatten().tolist() == list(task.images[2].labels)
    again, other = images.load(2, epoch=3), images.load(2, epoch=4)
    assert torch.equal(view, again[0])
    assert torch.equal(boxes, again[1])
    assert view.shape != other[0].shape or not torch.equal(view, other[0])


def test_a_large_jpeg_gives_the_proposals_of_the_whole_picture(tmp_path):
    task = drawn_task(tmp_path, count=1)
    picture = Image.fromarray(np.full((512, 528, 3), 90, np.uint8))
    picture.save(tmp_path / "a.jpg")  # is decoded at an eighth of its size
    picture.save(tmp_path / "a.png")

    def loaded(name):
        images = (task.images[0]._replace(uri=str(tmp_path / name)),)
        return replace(task, images=images).build_dataset().load(0, epoch=0)

    (view, boxes, _), (whole, expected, _) = loaded("a.jpg"), loaded("a.png")
    assert view.shape == whole.shape
    assert len(boxes) == 3
    torch.testing.assert_close(boxes, expected, atol=1e-3, rtol=0)


def test_a_pass_pads_its_images_and_proposals(tmp_path):
    images = drawn_task(tmp_path).build_dataset()
    samples = [images.load(index, epoch=0) for index in (0, 2)]
    pixels, boxes, real, labels = images.collate(samples)
    assert pixels.shape[:2] == (2, 3)
    assert boxes.shape == (2, 21, 4)
    assert real.sum(1).tolist() == [3, 21]
    assert labels.shape == (2, 6)


def test_only_the_sources_of_the_recipe_are_read(tmp_path):
    task = drawn_task(tmp_path)
    for sources, number in {(): 21, ("grid",): 11, ("fine",): 10, ("fine", "grid"): 21}.items():
        narrowed = replace(task, config=replace(SMALL, proposal_sources=sources)).build_dataset()
        assert len(narrowed.load(2, epoch=0)[1]) == number


def test_a_source_that_no_proposals_have_is_refused_before_anything_runs():
    def options(*overrides):
        recipe = load_recipe("shapes", overrides)[0]
        return STAGE.options(recipe.of("train-mil"), "train-mil").mil

    assert options("mil.proposal_sources=[grid, whole-image]").proposal_sources == ("grid", "whole-image")
    with pytest.raises(
        ConfigError, match=r"mil\.proposal_sources: expected some of .*, got 'gird'; did you mean grid\?"
    ):
        options("mil.proposal_sources=[fine, gird]")
    imported = options("mil.proposal_sources=[gird]", "mil.proposals=import.theirs", "instances={import.theirs: {}}")
    assert imported.proposal_sources == ("gird",)


# ------------------------------------------------------------------------------------------------------------------ rates


@pytest.mark.parametrize(
    ("step", "detector", "adversary"),
    [(0, 0.5, 0.5), (100, 0.75, 0.6), (200, 1, 0.7), (600, 1, 1), (667, 0.1, 3), (890, 0.01, 9)],
)
def test_the_detectors_rate_falls_and_its_adversarys_grows(tmp_path, step, detector, adversary):
    # Milestones at .667 and .89 of 1,000 steps; the adversary warms up over 500 steps.
    config = replace(SMALL, detector=MistConfig(), steps=1000, warmup_steps=200, warmup_factor=0.5)
    assert drawn_task(tmp_path, config).lr_factors(Position(step, 1000, 0.0)) == pytest.approx((detector, adversary))


@pytest.mark.parametrize(("step", "factor"), [(0, 0.25), (1, 0.4375), (4, 1.0), (9, 1.0)])
def test_a_warm_up_is_linear(step, factor):
    assert warmed_up(step, 4, 0.25) == factor
    assert warmed_up(step, 0, 0.25) == 1.0


def test_without_an_adversary_there_is_one_optimiser(tmp_path):
    for config in (SMALL, replace(SMALL, detector=OicrConfig())):
        task = drawn_task(tmp_path / config.detector.name, config)
        assert len(task.build_optimizers(task.build_model())) == 1
        assert len(task.lr_factors(Position(0, 8, 0.0))) == 1
    task = drawn_task(tmp_path / "both", replace(SMALL, detector=MistConfig()))
    assert len(task.build_optimizers(task.build_model())) == 2


# --------------------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
@pytest.mark.parametrize("detector", [STILL, OicrConfig()], ids=["mist", "oicr"])
def test_a_detector_learns_the_labels_of_its_images(tmp_path, detector):
    result = run(drawn_task(tmp_path, replace(SMALL, detector=detector, steps=60)), tmp_path)
    image_losses = [row.losses["image"] for row in result.scalars]
    assert sum(image_losses[-10:]) < 0.7 * sum(image_losses[:10])
    assert result.text == "steps planned 60 = done 60 · checkpoint read back"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(tmp_path):
    config = replace(SMALL, detector=MistConfig(), dropout=0.5)
    one, two = (run(drawn_task(tmp_path / name, config), tmp_path / name).model for name in ("a", "b"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.long
def test_two_workers_lose_what_one_loses_over_50_steps(tmp_path):
    # Not Adam: it does not see a gradient's scale, so one that is wrong by the number of workers would pass; and at rates
    # that learn as fast as these it turns rounding into 1 % of the loss within 50 steps, on one worker in two passes, too.
    configs = {"mist": replace(SMALL, optimizer="sgd", lr=1e-2, steps=50)}
    configs["oicr"] = replace(configs["mist"], detector=OicrConfig(), lr=1e-3)
    tasks = {name: drawn_task(tmp_path / name, config) for name, config in configs.items()}
    train_two(tasks, str(tmp_path / "pair"))
    for name, task in tasks.items():
        alone = run(task, tmp_path / name).scalars
        pair = read_scalars(str(tmp_path / "pair" / name))
        assert [row.step for row in pair] == [row.step for row in alone] == list(range(1, 51))
        assert alone[-1].loss < 0.9 * alone[0].loss
        length = 50 * roundings_in(task.build_model())
        assert [row.loss for row in pair] == near([row.loss for row in alone], length=length)


KILLED = [
    "data.shapes.train=12", "data.shapes.val=0", "data.shapes.test=0", "data.shapes.size=64",
    "propose.method=selective-search", "selective_search.min_side=4", "selective_search.resize_width=0",
    "selective_search.max_boxes=300", "mil.backbone=small", "mil.init=builtin:stem",
    "mil.freeze_stages=0", "mil.scales=[64]", "mil.min_box_side=4", "mil.batch_size=4", "mil.steps=100", "mil.dropout=0.0",
    "mil.detector.dropblock.enabled=false", "resources.cpus=2", "resources.segment_actors=1", "resources.train_workers=2",
]  # fmt: skip


@pytest.mark.ray
@pytest.mark.long
def test_a_killed_worker_and_then_a_killed_driver_cost_no_step(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "driver.log"

    def train_mil() -> Driver:
        return Driver(log, "train-mil", "grid", out, KILLED)

    def steps() -> int:
        files = sorted(out.glob("train-mil/*/checkpoints/*/step-*.pt"))
        return int(files[-1].stem.partition("-")[2]) if files else 0

    with train_mil() as driver:
        driver.wait_until(steps)
        worker = driver.process("ray::RayTrainWorker")
        assert worker is not None
        worker.kill()
        before = steps()
        driver.wait_until(lambda: not worker.is_running() and steps() > before)
        driver.kill()
    assert steps() < 100
    with train_mil() as driver:
        driver.wait(PATIENCE_S)
    printed = log.read_text()
    assert driver.returncode == 0, printed
    assert "steps planned 100 = done 100 · checkpoint read back" in printed
    instance = current_instance(str(out), "train-mil")
    assert instance is not None
    manifest = instance.manifest()
    assert manifest is not None
    assert manifest["steps"]["planned"] == manifest["steps"]["done"] == 100
    assert 0 < manifest["steps"]["resumed_at"] < 100
    rows = read_scalars(f"{instance.folder}/checkpoints/{instance.key}")
    assert [row.step for row in rows] == list(range(1, 101))
    images = current_instance(str(out), "index").table(IMAGES)
    detector, class_names = load_detector(f"{instance.folder}/detector.safetensors", load_recipe("grid", KILLED)[0].mil)
    assert class_names == images.class_names()
    assert all(torch.isfinite(parameter).all() for parameter in detector.parameters())
