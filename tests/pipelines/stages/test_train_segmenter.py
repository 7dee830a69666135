"""``train-segmenter``: what it learns from, at which rates, and that it learns; ``predict-maps`` on what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.engine.stage import Options
from pipelines.products.index import Picture
from pipelines.products.label_maps import LabelMapTable
from pipelines.products.superpixels import SuperpixelTable
from pipelines.recipe.config import PredictMapsStageConfig, ResourcesConfig, TrainSegmenterConfig
from pipelines.recipe.keys import Input
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.registry import product_of
from pipelines.runner import Run
from pipelines.stages.train_segmenter.stage import choose_images
from pipelines.stages.train_segmenter.task import MappedImage, SegmenterTask
from pipelines.store.schemas import LABEL_MAPS, label_map_to_row, with_class_names
from pipelines.store.tables import Table
from pipelines.training.task import Position
from pipelines.training.trained import Trained
from tests.support.drawn_run import SHAPES, drawn_recipe, job_for, work
from tests.support.full_run import write_superpixels
from tests.support.label_maps import shifted
from tests.support.mapped_run import TRUTH, write_mapped_run
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.config import DeepLabConfig, Mask2FormerSegmenterConfig, SegmenterConfig
from weaksam.config.weights import NO_WEIGHTS, Weights
from weaksam.datasets.shapes import Shapes
from weaksam.errors import ConfigError, DataError
from weaksam.masks_np import decode_rles
from weaksam.segmentation.segmenters.loading import build_segmenter, segmenter_to_bytes
from weaksam.structures import IMAGE_LABELS, MASKS

TOY = TrainSegmenterConfig(
    learn_from=Input(TRUTH), network=DeepLabConfig(dim=32, fine_dim=16, dropout=0.0), side=64, crop_side=64,
    resize=(1.0, 1.0), colour_jitter=False, steps=3, batch_size=4, lr=3e-3, warmup_steps=0,
)  # fmt: skip
TOY_QUERIES = Mask2FormerSegmenterConfig(
    dim=32, heads=4, encoder_layers=1, encoder_feedforward_dim=32, decoder_layers=2, feedforward_dim=32, queries=10, points=256
)  # fmt: skip


def recipe_of(segmenter: TrainSegmenterConfig, **changes: Any) -> Recipe:
    return drawn_recipe(segmenter=segmenter, resources=ResourcesConfig(here=True, cpus=1), **changes)


def trained(run: str, segmenter: TrainSegmenterConfig) -> dict[str, Any]:
    """Train on the maps of the run, and return what the manifest says."""
    job = job_for(recipe_of(segmenter), run, "train-segmenter", ("index", TRUTH), splits=("train",))
    job.instance.begin({})
    facts = work(job)
    job.instance.finish(facts)
    return facts


# --- what is learnt from


def row(image_id: str, supervision: str = IMAGE_LABELS) -> dict[str, str]:
    return {"image_id": image_id, "supervision": supervision}


def pictures(*image_ids: str) -> dict[str, Picture]:
    return {image_id: Picture(f"{image_id}.jpg", f"content of {image_id}") for image_id in image_ids}


def test_images_with_maps_are_learnt_from_in_the_order_of_the_index_and_the_others_counted() -> None:
    for rows in ([row("a"), row("c"), row("held out")], [row("held out"), row("c"), row("a")]):
        images, left_out, supervision = choose_images(rows, pictures("c", "b", "a"))
        assert images == (MappedImage("c", "c.jpg", "content of c"), MappedImage("a", "a.jpg", "content of a"))
        assert left_out == {"without a label map": 1}
        assert supervision == IMAGE_LABELS


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], r"got none \(2 without a label map\)"),
        ([row("held out")], r"got none \(2 without a label map\)"),
        ([row("a"), row("b", MASKS)], "got those of image-labels and of masks"),
    ],
    ids=["empty", "none of these", "mixed"],
)
def test_maps_of_one_supervision_are_needed(rows: list[dict[str, str]], why: str) -> None:
    with pytest.raises(DataError, match=why):
        choose_images(rows, pictures("a", "b"))


# --- the task


def task_of(folder: Path, config: SegmenterConfig = TOY) -> SegmenterTask:
    dataset, table = Shapes(SHAPES), Table(str(folder / "maps"), LABEL_MAPS)
    rows = [label_map_to_row(name, "", found, supervision=MASKS) for name, found in shifted(dataset, "train", 0)]
    table.write_rows(rows, "part-0")
    images = tuple(MappedImage(record.image_id, record.uri, "") for record in dataset.records("train"))
    return SegmenterTask(
        config=config, num_classes=len(dataset.class_names), images=images, label_maps=table, cache_mib=16
    )


@pytest.mark.parametrize(("step", "factor"), [(0, 0.5), (1, 0.75 * 0.9**0.5), (2, 0.8**0.5), (9, 0.1**0.5)])
def test_the_rate_warms_up_and_falls_with_what_is_left(tmp_path: Path, step: int, factor: float) -> None:
    config = replace(TOY, steps=10, warmup_steps=2, warmup_factor=0.5, power=0.5)
    assert task_of(tmp_path, config).lr_factors(Position(step, 10, 0.0)) == pytest.approx((factor,))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_backbone_learns_at_its_own_rate(tmp_path: Path, optimizer: Any) -> None:
    task = task_of(tmp_path, replace(TOY, optimizer=optimizer, backbone_lr_factor=0.1, weight_decay=0.02))
    model = task.build_model()
    (made,) = task.build_optimizers(model)
    rest, backbone = made.param_groups
    assert (rest["lr"], backbone["lr"]) == (3e-3, pytest.approx(3e-4))
    assert rest["weight_decay"] == backbone["weight_decay"] == 0.02
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.backbone.parameters()}


def test_norms_and_embeddings_of_mask2former_do_not_decay(tmp_path: Path) -> None:
    task = task_of(tmp_path, replace(TOY, network=TOY_QUERIES, weight_decay=0.05))
    model = task.build_model()
    still = [p for group in model.parameter_groups(task.config) if not group["weight_decay"] for p in group["params"]]
    named = {id(p): name for name, p in model.named_parameters()}
    assert {"norm", "embed"} <= {word for p in still for word in ("norm", "embed") if word in named[id(p)]}
    assert task.pass_statistics == ("segmenter.network.name",)


def test_a_view_is_decided_by_epoch_and_image_alone(tmp_path: Path) -> None:
    images = task_of(tmp_path, replace(TOY, resize=(0.5, 2.0))).build_dataset()
    (view, labels), again, (other, _) = images.load(2, epoch=3), images.load(2, epoch=3), images.load(2, epoch=4)
    assert torch.equal(view, again[0])
    assert torch.equal(labels, again[1])
    assert not torch.equal(view, other)


# --- training


def test_what_it_leaves_repeats_the_supervision_of_the_maps_and_is_predicted_with(tmp_path: Path) -> None:
    run = str(tmp_path)
    write_mapped_run(run)
    facts = trained(run, TOY)
    assert facts["supervision"] == MASKS
    assert facts["steps"] == {"planned": 3, "done": 3, "resumed_at": 0}
    assert facts["images"]["done"] == 6
    model = product_of(instance_of(run, "train-segmenter"))
    assert isinstance(model, Trained)
    assert list(model.scalars()[0].losses) == ["pixels"]
    job = job_for(recipe_of(TOY), run, "predict-maps", ("index", "train-segmenter"), splits=("val",))
    predicted = work(job)
    assert (predicted["images"]["done"], predicted["supervision"]) == (4, MASKS)
    rows = list(LabelMapTable(job.instance).images())
    assert [(found.split, found.supervision, found.label_map.shape) for found in rows] == [("val", MASKS, (64, 64))] * 4
    assert LabelMapTable(job.instance).class_names == Shapes.class_names


def test_a_map_that_does_not_read_costs_its_image_alone(tmp_path: Path) -> None:
    run = str(tmp_path)
    dataset = write_mapped_run(run)
    image_ids = [record.image_id for record in dataset.records("train")]
    rows = [
        {**label_map_to_row(name, FROM_NOTHING, np.zeros((64, 64), np.uint8), supervision=MASKS), **more}
        for name, more in ((image_ids[0], {"label_map": b"no PNG"}), (image_ids[1], {}))
    ]
    rows.append(label_map_to_row(image_ids[2], FROM_NOTHING, np.zeros((9, 9), np.uint8), supervision=MASKS))
    instance = instance_of(run, TRUTH, "damaged")
    instance.begin({})
    instance.table(with_class_names(LABEL_MAPS, dataset.class_names)).write_rows(rows, "part-0")
    instance.finish({"supervision": MASKS})
    job = job_for(recipe_of(TOY), run, "train-segmenter", ("index",), splits=("train",))
    facts = work(replace(job, inputs={**job.inputs, TRUTH: product_of(instance)}))
    assert (facts["images"]["done"], facts["images"]["dropped"]) == (1, 2)
    assert facts["left_out"] == {"without a label map": 3}
    dropped = {row["image_id"]: row["reason"] for row in job.instance.dropped.iter_rows()}
    assert dropped == {image_ids[0]: "unreadable label map", image_ids[2]: "label map of another size"}


def test_maps_of_other_classes_are_refused(tmp_path: Path) -> None:
    run = str(tmp_path)
    write_mapped_run(run)
    instance = instance_of(run, TRUTH, "other")
    instance.begin({})
    rows = [label_map_to_row("train-00000", FROM_NOTHING, np.zeros((64, 64), np.uint8), supervision=MASKS)]
    instance.table(with_class_names(LABEL_MAPS, ("cat",))).write_rows(rows, "part-0")
    job = job_for(recipe_of(TOY), run, "train-segmenter", ("index",), splits=("train",))
    with pytest.raises(DataError, match=r"expected label maps of the classes .*, got cat"):
        work(replace(job, inputs={**job.inputs, TRUTH: product_of(instance)}))


@pytest.mark.slow
@pytest.mark.parametrize("network", [TOY.network, TOY_QUERIES], ids=["deeplab", "mask2former"])
def test_it_learns_what_background_alone_does_not_know(tmp_path: Path, network: Any) -> None:
    run = str(tmp_path)
    truth = dict(shifted(write_mapped_run(run), "train", 0))
    trained(run, replace(TOY, network=network, steps=200, max_grad_norm=0.1))
    model = product_of(instance_of(run, "train-segmenter"))
    assert isinstance(model, Trained)
    losses = [line.loss for line in model.scalars()]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    recipe = recipe_of(TOY, predict_maps=PredictMapsStageConfig(flip=True, scales=(1.0, 1.5)))
    recipe = recipe.model_copy(update={"segmenter": replace(TOY, network=network)})
    job = job_for(recipe, run, "predict-maps", ("index", "train-segmenter"), splits=("train",))
    work(job)
    found = {one.image_id: one.label_map for one in LabelMapTable(job.instance).images()}
    right = np.mean([found[image_id] == truth[image_id] for image_id in truth])
    background = np.mean([truth[image_id] == 0 for image_id in truth])
    assert right > background + 0.03


# --- through the runner: one segmenter learns from what another one predicts


STAGES = [
    "data.shapes.train=3", "data.shapes.val=2", "data.shapes.test=0", "data.shapes.size=64",
    "resources.here=true", "resources.cpus=1",
    "segmenter.network.dim=16", "segmenter.network.fine_dim=16", "segmenter.side=64", "segmenter.crop_side=64",
    "segmenter.steps=2", "segmenter.batch_size=2", "train-segmenter.first.steps=3",
    "predict-maps.first.model=train-segmenter.first",
    "segmenter.learn_from=predict-maps.first", "predict-maps.second.model=train-segmenter",
]  # fmt: skip


def self_training(weights: str, *more: str) -> Recipe:
    return load_recipe("grid", [*STAGES, f"train-segmenter.first.weights={weights}", *more], "shapes:")[0]


@pytest.fixture
def weights(tmp_path: Path) -> str:
    config = replace(TOY, network=DeepLabConfig(dim=16, fine_dim=16), init=NO_WEIGHTS)
    torch.manual_seed(0)
    file = tmp_path / "first.safetensors"
    file.write_bytes(segmenter_to_bytes(build_segmenter(config, len(Shapes.class_names)), Shapes.class_names, MASKS))
    return str(file)


def restless(folder: Path) -> str:
    """Write a segmenter that has learnt nothing and says another class every few pixels."""
    torch.manual_seed(0)
    segmenter = build_segmenter(replace(TOY, network=DeepLabConfig(dim=16, fine_dim=16)), len(Shapes.class_names))
    weight, bias = list(segmenter.parameters())[-2:]  # of the layer that says the classes
    with torch.no_grad():
        weight.sub_(weight.mean(dim=1, keepdim=True)).mul_(1000)
        bias.zero_()
    file = folder / "restless.safetensors"
    file.write_bytes(segmenter_to_bytes(segmenter, Shapes.class_names, MASKS))
    return str(file)


def test_weights_that_are_given_teach_another_segmenter(tmp_path: Path, weights: str) -> None:
    run = Run(self_training(weights), str(tmp_path / "run"))
    manifests = run.bring(["predict-maps.second"], Options())
    assert set(manifests) == {"index", "predict-maps.first", "train-segmenter", "predict-maps.second"}
    assert {m["supervision"] for name, m in manifests.items() if name != "index"} == {MASKS}
    assert manifests["predict-maps.first"]["images"]["done"] == 5
    assert manifests["train-segmenter"]["images"]["images"] == 3  # of the split with labels
    again = Run(self_training(weights), str(tmp_path / "run"))
    assert again.resolve("predict-maps.second").instance.manifest() == manifests["predict-maps.second"]


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_the_maps_are_the_same(tmp_path: Path, weights: str) -> None:
    maps = []
    for name, more in (("here", ()), ("ray", ("resources.here=false", "resources.rows_per_task=2"))):
        run = Run(self_training(weights, *more), str(tmp_path / name))
        run.bring(["train-segmenter"], Options())
        table = LabelMapTable(run.instance("predict-maps.first"))
        maps.append({image.image_id: image.label_map for image in table.images()})
    here, on_ray = maps
    assert here.keys() == on_ray.keys()
    assert np.mean([here[image_id] != on_ray[image_id] for image_id in here]) < 0.01  # threads may round otherwise


def test_what_changes_a_map_makes_another_key_and_nothing_else_does(tmp_path: Path, weights: str) -> None:
    def key(*more: str, of: str = "predict-maps.first") -> str:
        return Run(self_training(weights, *more), str(tmp_path / "run")).instance(of).key

    Run(self_training(weights), str(tmp_path / "run")).bring(["index"], Options())
    same = ("predict-maps.first.splits=[val]", "segmenter.lr=0.5", "resources.cpus=2", "segmenter.train_again=asked")
    assert {key(setting) for setting in same} == {key()}
    assert key("predict-maps.first.max_inside=0.5") == key()  # which says nothing without superpixels
    others = ("predict-maps.first.flip=true", "predict-maps.first.scales=[2.0]", "train-segmenter.first.side=32")
    assert len({key(), *map(key, others)}) == 4
    assert key("segmenter.lr=0.5", of="train-segmenter") != key(of="train-segmenter")
    assert key("segmenter.train_again=asked", of="train-segmenter") == key(of="train-segmenter")


def test_superpixels_are_asked_for_on_all_images_that_are_predicted(tmp_path: Path, weights: str) -> None:
    def key(*more: str) -> str:
        run = Run(self_training(weights, "predict-maps.first.superpixels=superpixels", *more), str(tmp_path / "run"))
        return run.instance("predict-maps.first").key

    why = r"predict-maps\.first: expected superpixels to be of train, val, it is of train; .*superpixels\.splits=\[train,val\]"
    with pytest.raises(DataError, match=why):
        key()
    of_all = key("superpixels.splits=[train,val]")
    assert key("predict-maps.first.splits=[train]") == of_all
    others = ("superpixels.points_per_side=4", "predict-maps.first.max_inside=0.5", "predict-maps.first.superpixels=''")
    assert len({of_all, *(key("superpixels.splits=[train,val]", setting) for setting in others)}) == 4


def test_each_superpixel_gets_one_class(tmp_path: Path) -> None:
    run, without = str(tmp_path / "run"), str(tmp_path / "without")
    write_superpixels(run, write_mapped_run(run))
    write_mapped_run(without)
    segmenter = replace(TOY, network=DeepLabConfig(dim=16, fine_dim=16), weights=Weights(restless(tmp_path)))
    recipe = recipe_of(segmenter, predict_maps=PredictMapsStageConfig(superpixels=Input("superpixels")))
    job = job_for(recipe, run, "predict-maps", ("index", "superpixels"), splits=("train", "val"))
    facts = work(job)
    assert facts["images"]["done"] == 6
    assert "4 without a row of superpixels left out" in facts["text"]
    found = {one.image_id: one.label_map for one in LabelMapTable(job.instance).images()}
    plain_job = job_for(recipe_of(segmenter), without, "predict-maps", ("index",), splits=("train", "val"))
    work(plain_job)
    plain = {one.image_id: one.label_map for one in LabelMapTable(plain_job.instance).images()}
    seen = split = 0
    for image in SuperpixelTable(instance_of(run, "superpixels")).images():
        masks = decode_rles(image.masks.mask_rle, (64, 64))
        for mask in masks:
            alone = mask & (masks.sum(axis=0) == 1)
            assert len(np.unique(found[image.image_id][alone])) <= 1
            seen += alone.any()
            split += len(np.unique(plain[image.image_id][alone])) > 1
    assert seen > 6
    assert split  # without superpixels some hold several classes


def test_half_precision_is_refused_where_it_finds_something_else(weights: str) -> None:
    recipe = self_training(weights, "segmenter.network={name: mask2former}", "predict-maps.second.precision=fast")
    with pytest.raises(ConfigError, match=r"predict_maps\.precision: expected exact or tf32 with mask2former"):
        Run(recipe, "/run").instance("predict-maps.second")
