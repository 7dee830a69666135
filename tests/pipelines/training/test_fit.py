import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.engine.nodes import Node
from pipelines.engine.reach import Reach
from pipelines.engine.stage import Options
from pipelines.products.index import in_hash_order
from pipelines.recipe.config import ResourcesConfig
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.stages.train_classifier import stage as train_classifier
from pipelines.stages.train_classifier.task import (
    ClassifierTask,
    LabelledImage,
    learning_rate,
    peak_lr,
    score_classifier,
)
from pipelines.store.schemas import DROPPED, IMAGES
from pipelines.store.tables import Table
from pipelines.training import fit, worker
from pipelines.training.loop import run_training
from pipelines.training.task import Position, Share, TrainingResources
from tests.support.drawn_run import drawn_recipe, job_for, write_run
from tests.support.toy_training import ToyTask
from tests.support.voice import Recorder
from weaksam.clues.loading import classifier_to_bytes, load_classifier
from weaksam.config import ClassifierConfig, ResNetCamConfig, ShapesConfig, WeakTrConfig
from weaksam.datasets.shapes import shape_uri
from weaksam.errors import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray's own, when ray.train is imported

TINY = WeakTrConfig(
    stem="patch", patch_size=8, dim=16, depth=2, heads=2, position_grid=4, fusion="uniform", fusion_reduction=1
)
SHAPES = ShapesConfig(size=32)


def images(count=6):
    return tuple(
        LabelledImage(f"train-{n:06}", shape_uri("train", n, SHAPES), (n % 3,) if n % 4 else ()) for n in range(count)
    )


def tiny_task(name="weaktr", pictures=None, **options):
    options = {"epochs": 2, "batch_size": 4, "crop_size": 32, "augmentation": "flip", "base_lr": 0.1, **options}
    source = {"weaktr": TINY, "resnet_cam": ResNetCamConfig(backbone="mobilenet_v3_small")}[name]
    config = ClassifierConfig(**options)
    return ClassifierTask(source=source, config=config, num_classes=3, images=pictures or images(), cache_mib=16)


def run(task, folder, **resources):
    return run_training(task, storage_uri=str(folder), run_name="run", resources=lambda: TrainingResources(**resources))


# ------------------------------------------------------------------------------------------------------- the published rate


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        pytest.param(0, 1e-6, id="first"),
        pytest.param(1, 1e-6, id="second runs like the first"),
        pytest.param(2, 1e-6 + (7.5e-5 - 1e-6) / 5, id="warm-up"),
        pytest.param(5, 1e-6 + (7.5e-5 - 1e-6) * 4 / 5, id="end of the warm-up"),
        pytest.param(6, 1e-5 + 6.5e-5 * (1 + 0.9659258262890683) / 2, id="cosine at 5 of 60: 15 degrees"),
        pytest.param(31, 1e-5 + 6.5e-5 / 2, id="half of the cosine"),
        pytest.param(59, 1e-5 + 6.5e-5 * (1 - 0.9945218953682733) / 2, id="last: 174 degrees"),
    ],
)
def test_the_published_learning_rates(epoch, rate):
    assert learning_rate(ClassifierConfig(), epoch) == pytest.approx(rate, rel=1e-9)


def test_the_rate_scales_with_the_batch_and_holds_for_a_whole_epoch():
    config = ClassifierConfig(batch_size=32, base_lr=1e-3, warmup_epochs=0, epochs=10)
    assert peak_lr(config) == pytest.approx(6.25e-5)
    task = replace(tiny_task(), config=config)
    assert task.lr_factors(Position(0, 100, 0.0)) == [1]
    assert task.lr_factors(Position(7, 100, 6.0)) == task.lr_factors(Position(8, 100, 6.99))
    assert task.lr_factors(Position(7, 100, 6.0)) == pytest.approx([(1e-5 + 5.25e-5 / 2) / 6.25e-5])


# ------------------------------------------------------------------------------------------------------------------ images


def recipe(*overrides):
    return load_recipe("shapes", overrides)[0]


def row(image_id, labels, split="train", difficult=None):
    return {
        "image_id": image_id, "uri": f"/{image_id}.png", "split": split,
        "content": "", "labels": labels, "labels_difficult": labels if difficult is None else difficult,
    }  # fmt: skip


def choose(rows, recipe):
    options = train_classifier.STAGE.options(recipe, "train-classifier")
    return train_classifier.choose_images(rows, options, "train")


def test_only_labelled_images_of_the_training_split_are_learned_from():
    rows = [row("a", [0]), row("b", None), row("c", []), row("d", None, "val")]
    training, held_out, unknown = choose(rows, recipe())
    assert training == (LabelledImage("a", "/a.png", (0,)), LabelledImage("c", "/c.png", ()))
    assert (held_out, unknown) == ((), 1)


def test_difficult_objects_count_as_the_recipe_says():
    rows = [row("a", [0], difficult=[0, 1])]
    assert choose(rows, recipe())[0][0].labels == (0,)
    assert choose(rows, recipe("data.include_difficult=true"))[0][0].labels == (0, 1)


def test_best_map_holds_one_image_in_ten_out_whatever_their_order():
    rows = [row(f"image-{n}", [0]) for n in range(25)]
    best = recipe("classifier.select=best-map")
    training, held_out, _ = choose(rows, best)
    assert (len(training), len(held_out)) == (23, 2)
    assert not set(training) & set(held_out)
    assert set(choose(rows[::-1], best)[1]) == set(held_out)


@pytest.mark.parametrize(
    ("rows", "override", "message"),
    [
        pytest.param([], "name=x", "no image has labels", id="no image"),
        pytest.param([row("a", None)], "name=x", "no image has labels", id="no label"),
        pytest.param([row("a", [0], "val")], "name=x", "granted to split 'train'", id="another split"),
        pytest.param([row("a", [0])], "classifier.select=best-map", "only 1 have labels", id="too few to hold out"),
    ],
)
def test_nothing_to_learn_from_is_an_error(rows, override, message):
    with pytest.raises(DataError, match=message):
        choose(rows, recipe(override))


def test_a_sample_depends_on_epoch_and_index_alone():
    first, second = tiny_task().build_dataset(), tiny_task(pictures=images()[::-1]).build_dataset()
    view, target = first.load(2, 5)
    assert torch.equal(view, second.load(3, 5)[0])  # the same image elsewhere in the list
    assert torch.equal(view, first.load(2, 5)[0])
    assert not torch.equal(view, first.load(2, 6)[0])
    assert (view.shape, target.tolist()) == ((3, 32, 32), [0, 0, 1])
    views, targets = first.collate([first.load(0, 0), first.load(1, 0)])
    assert (views.shape, targets.tolist()) == ((2, 3, 32, 32), [[0, 0, 0], [0, 1, 0]])


# --------------------------------------------------------------------------------------------------------------- resources


def chosen(config, batch, *sizes):
    """Sizes for a cluster of nodes with so many CPUs and GPUs."""
    found = [Node(node_id=str(n), address="10.0.0.1", cpus=cpus, gpus=gpus) for n, (cpus, gpus) in enumerate(sizes)]
    cpus, gpus = (sum(part) for part in zip(*sizes, strict=True))
    reached = Reach(cpus=min(cpus, config.cpus or cpus), gpus=gpus, least_cpus=min(node.cpus for node in found))
    return fit.choose_resources(config, batch, reached, found)


@pytest.mark.parametrize(
    ("batch", "sizes", "expected"),
    [
        pytest.param(32, [(2, 0)], (1, False, 2, 0), id="two cores"),
        pytest.param(32, [(64, 0)], (1, False, 16, 0), id="more cores than threads are good for"),
        pytest.param(32, [(4, 0), (8, 0)], (1, False, 8, 0), id="no more threads than a node has"),
        pytest.param(64, [(32, 4)], (4, True, 8, 7), id="a worker per GPU"),
        pytest.param(64, [(32, 4), (4, 4)], (8, True, 1, 0), id="as many CPUs as the smallest node has for each GPU"),
        pytest.param(64, [(36, 3)], (2, True, 12, 11), id="as many GPUs as share the batch evenly"),
        pytest.param(64, [(0, 1)], (1, True, 1, 0), id="a node without CPUs"),
    ],
)
def test_workers_are_chosen_for_the_machine(batch, sizes, expected):
    sized = chosen(ResourcesConfig(), batch, *sizes)
    assert (sized.workers, sized.use_gpu, sized.threads, sized.loaders) == expected
    assert sized.least == 1


def test_workers_named_in_the_recipe_are_taken():
    named = ResourcesConfig(train_workers=2, loader_workers=3, images_per_pass=5)
    sized = chosen(named, 64, (8, 1))
    assert (sized.workers, sized.least, sized.use_gpu, sized.threads) == (2, 2, True, 8)  # a second GPU is waited for
    assert (sized.loaders, sized.images_per_pass) == (3, 5)


def test_a_range_of_workers_may_be_named():
    ranged = ResourcesConfig(least_train_workers=2, most_train_workers=7, wait_for_workers=60)
    sized = chosen(ranged, 8, (8, 0), (8, 0))
    assert (sized.workers, sized.least, sized.threads, sized.cpus, sized.wait_s) == (4, 2, 4, 4, 60)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        pytest.param({"train_workers": 3}, r"resources\.train_workers: .*divides the batch of 8, got 3", id="exactly"),
        pytest.param(
            {"least_train_workers": 5, "most_train_workers": 7},
            r"resources\.least_train_workers: .*divides the batch of 8, got 5 to 7",
            id="a range",
        ),
    ],
)
def test_workers_that_cannot_share_the_batch_are_refused(named, message):
    with pytest.raises(ConfigError, match=message):
        chosen(ResourcesConfig(**named), 8, (8, 0))


@pytest.mark.parametrize(
    "named",
    [
        {"train_workers": 2, "least_train_workers": 1},
        {"train_workers": 2, "most_train_workers": 2},
        {"least_train_workers": 3, "most_train_workers": 2},
    ],
)
def test_sizes_that_contradict_each_other_are_refused(named):
    with pytest.raises(ConfigError, match="train_workers: expected"):
        ResourcesConfig(**named)


# ---------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", ["weaktr", "resnet_cam"])
def test_every_clue_network_trains_and_comes_back_from_its_file(name, tmp_path):
    task = tiny_task(name)
    result = run(task, tmp_path)
    assert result.steps_done == 3
    network = task.build_model()
    network.load_state_dict(result.model)
    (tmp_path / "c.safetensors").write_bytes(classifier_to_bytes(network, ["a", "b", "c"]))
    again = load_classifier(tmp_path / "c.safetensors")
    assert again.class_names == ("a", "b", "c")
    scores = [score_classifier(n, images(), 32) for n in (network, again.network)]
    assert scores[0].images == 6
    assert np.array_equal(scores[0].per_class, scores[1].per_class)


def test_the_held_out_images_judge_the_weights(tmp_path):
    task = replace(tiny_task(), validation=images(8)[6:])
    result = run(task, tmp_path)
    assert result.best is not None
    assert 0 <= result.best["score"] <= 1
    assert run(tiny_task(), tmp_path / "last").best is None


def test_scoring_leaves_unreadable_images_out(tmp_path):
    (tmp_path / "empty.png").touch()
    network = tiny_task().build_model()
    broken = (LabelledImage("empty", str(tmp_path / "empty.png"), (0,)), LabelledImage("no", "/nowhere.png", (1,)))
    assert score_classifier(network, images() + broken, 32).images == 6
    assert score_classifier(network, broken, 32).images == 0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_the_scoring_and_get_the_score_of_one(tmp_path, world):
    network = tiny_task().build_model()
    judged = (*images(4), LabelledImage("no", "/nowhere.png", (1,)), *images(7)[4:])
    alone = score_classifier(network, judged, 32)
    parts = {}
    for rank in range(world):  # what each worker would send

        def send(mine, rank=rank):
            parts[rank] = mine
            raise InterruptedError

        with pytest.raises(InterruptedError):
            score_classifier(network, judged, 32, Share(rank, world, send))
    assert sum(map(len, parts.values())) == len(judged)
    for rank in range(world):
        shared = score_classifier(
            network, judged, 32, Share(rank, world, lambda _mine: [parts[n] for n in range(world)])
        )
        assert (shared.images, shared.mean_ap) == (alone.images, alone.mean_ap)
        assert np.array_equal(shared.per_class, alone.per_class)


# ---------------------------------------------------------------------------------------------------------------- the stage


STAGE_OVERRIDES = (
    "data.shapes.train=14", "data.shapes.val=2", "data.shapes.size=32",
    "clues.source={stem: patch, patch_size: 8, dim: 16, depth: 1, heads: 2, position_grid: 4, fusion_reduction: 1}",
    "clues.source.init=''", "classifier.crop_size=32", "classifier.epochs=2", "classifier.batch_size=4",
    "classifier.select=best-map",
)  # fmt: skip


@pytest.mark.ray
def test_the_stage_trains_writes_a_classifier_and_is_finished(tmp_path, ray_cluster):
    voice = Recorder()
    shapes, _ = load_recipe("shapes", [*STAGE_OVERRIDES, "resources.train_workers=1"], data_uri="shapes:")
    manifest = Run(shapes, str(tmp_path)).bring(["train-classifier"], Options(), voice)["train-classifier"]
    assert manifest["steps"] == {"planned": 7, "done": 7, "resumed_at": 0}
    assert manifest["images"] == {"images": 13, "done": 13, "dropped": 0, "before": 0, "duplicates": 0}
    assert "steps planned 7 = done 7 · checkpoint read back" in voice.text
    assert "1 worker(s)" in voice.text
    label, last = voice.steps_shown[-1]
    assert (label, last.done, last.planned, last.left_s) == ("train-classifier", 7, 7, 0.0)
    assert last.loss > 0
    assert last.images_per_s > 0
    folder = next(p for p in (tmp_path / "train-classifier").iterdir() if p.is_dir())
    classifier = load_classifier(folder / "classifier.safetensors")
    assert classifier.network.num_classes == len(classifier.class_names) == 6
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["training_map_images"] == 13
    assert metrics["best"]["step"] in range(1, 8)
    again = Run(shapes, str(tmp_path)).bring(["train-classifier"], Options(), voice)["train-classifier"]
    assert again == manifest


def test_unreadable_training_images_are_dropped_with_a_reason(tmp_path):
    shapes, _ = load_recipe("shapes", [*STAGE_OVERRIDES, "resources.here=true"], data_uri="shapes:")
    index = Run(shapes, str(tmp_path)).bring(["index"], Options())["index"]
    folder = next(p for p in (tmp_path / "index").iterdir() if p.is_dir())
    table = Table(str(folder), IMAGES)
    rows = table.read().to_pylist()
    bad = next(r for r in rows if r["image_id"] == in_hash_order([r["image_id"] for r in rows[:14]])[5])
    bad["uri"] = str(tmp_path / "nowhere.png")
    whole = table.read()
    table.remove_all()
    table.write_part(whole.from_pylist(rows, schema=whole.schema), "part-0")
    assert index["labels_granted_to"] == "train"
    options = Options(max_dropped="10%")
    done = Run(shapes, str(tmp_path)).bring(["train-classifier"], options)
    assert done["train-classifier"]["images"] == {"images": 13, "done": 12, "dropped": 1, "before": 0, "duplicates": 0}
    trained = next(p for p in (tmp_path / "train-classifier").iterdir() if p.is_dir())
    dropped = Table(str(trained / "_dropped"), DROPPED).read().to_pylist()
    assert [(d["image_id"], d["reason"], d["stage"]) for d in dropped] == [
        (bad["image_id"], "missing", "train-classifier")
    ]


def test_a_recipe_that_cannot_train_says_so():
    with pytest.raises(ConfigError, match="classifier"):
        load_recipe("shapes", ["classifier.epochs=0"])


def test_a_training_does_not_wait_for_the_actors_of_other_stages(tmp_path, monkeypatch):
    wanted = []

    def reach(resources, voice):
        wanted.append(resources.least_actors)
        return Reach(cpus=1, gpus=0, least_cpus=1)

    monkeypatch.setattr(fit, "reach", reach)
    write_run(str(tmp_path))
    recipe = drawn_recipe(resources=ResourcesConfig(here=True, cpus=1, least_actors=4))
    fit.fit(job_for(recipe, str(tmp_path), "train-mil", ("index",)), ToyTask(), left_out={})
    assert wanted == [0]


def test_a_training_without_a_step_left_needs_no_workers(tmp_path, monkeypatch):
    """It was killed once its last checkpoint was written: what is left is to write and score what it learnt."""
    write_run(str(tmp_path))
    job = job_for(
        drawn_recipe(resources=ResourcesConfig(here=True, cpus=1)), str(tmp_path), "train-mil", ("index",), Recorder()
    )
    fit.fit(job, ToyTask(), left_out={})
    monkeypatch.setattr(fit, "reach", lambda _resources, _voice: pytest.fail("waits for workers"))
    again = fit.fit(job, ToyTask(), left_out={"without boxes": 3})
    assert (again.facts.steps.done, again.facts.steps.resumed_at) == (6, 6)
    said = "  10 images{}; 6 steps of 5"
    assert job.voice.lines == [
        said.format(""),
        "  in this process, 1 thread(s)",
        said.format(", 3 without boxes left out"),
    ]


def test_the_manifest_says_the_memory_of_a_gpu_where_it_was_measured(tmp_path, monkeypatch):
    def told(run):
        write_run(str(run))
        recipe = drawn_recipe(resources=ResourcesConfig(here=True, cpus=1))
        job = job_for(recipe, str(run), "train-mil", ("index",))
        return fit.fit(job, ToyTask(), left_out={}).facts.to_plain()

    assert "gpu_memory_mib" not in told(tmp_path / "cpu")
    monkeypatch.setattr(worker, "peak_mib", lambda _device: 812.34)
    assert told(tmp_path / "gpu")["gpu_memory_mib"] == 812.3
