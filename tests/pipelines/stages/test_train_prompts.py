"""Prompts learn: what of, in which order, at which rate, and what the stage leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipelines.engine.stage import Options
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.stages.train_prompts.stage import TrainedPrompts
from pipelines.stages.train_prompts.task import PromptTask, ViewBatch, classes_of, learning_rate
from pipelines.store.schemas import LABEL_MAPS, label_map_to_row
from pipelines.store.tables import Rows, Table
from pipelines.training.images import LabelledImage
from pipelines.training.task import Position
from tests.support.small_clip import tiny_clip, write_tiny_clip
from weaksam.config import ClipConfig, PromptLayoutConfig, PromptTrainingConfig, Weights
from weaksam.datasets.shapes import CLASS_NAMES
from weaksam.errors import ConfigError, DataError, WeaksamError
from weaksam.losses.prompts import activation_loss
from weaksam.networks.clip.softmax_cam import found_maps
from weaksam.segmentation.prompted import load_prompts

BACKGROUND = ("ground", "blob")
OBJECTIVES = ("contrastive", "bce", "activation", "pixel-cross-entropy")


def recipe_of(folder: Path, *more: str) -> Recipe:
    settings = [
        "data.shapes.train=6",
        "data.shapes.val=2",
        "data.shapes.size=64",
        "resources.here=true",
        "resources.cpus=1",
        f"clip.weights.uri={write_tiny_clip(folder)}",
        "clip.background=[ground, blob]",
        "train_prompts={steps: 3, warmup_steps: 1, batch_size: 4, long_side: [48, 64], crop_size: 32}",
        "train_prompts.layout.length=4",
    ]
    return load_recipe("grid", ["data.uri='shapes:'", *settings, *more])[0]


def task_of(
    folder: Path, images: tuple[LabelledImage, ...] = (), seeds: Rows | None = None, **options: object
) -> PromptTask:
    config = PromptTrainingConfig(
        layout=PromptLayoutConfig(length=4),
        long_side=(48, 64),
        crop_size=32,
        batch_size=2,
        **options,  # type: ignore[arg-type]
    )
    clip = ClipConfig(weights=Weights(str(write_tiny_clip(folder))), background=BACKGROUND)
    return PromptTask(clip=clip, config=config, class_names=CLASS_NAMES, images=images, seeds=seeds)


def test_the_rate_waits_and_then_falls_along_a_cosine_that_may_end_later() -> None:
    config = PromptTrainingConfig(steps=10, warmup_steps=2, lr=1.0, warmup_lr=0.1)
    assert [learning_rate(config, step) for step in (0, 1, 2)] == [0.1, 0.1, 1.0]
    assert learning_rate(config, 6) == pytest.approx(0.5)
    assert learning_rate(config, 10) == pytest.approx(0.0)
    longer = PromptTrainingConfig(steps=10, schedule_steps=18, warmup_steps=2, lr=1.0)
    assert learning_rate(longer, 10) == pytest.approx(0.5)


def test_classes_of_label_maps_are_those_that_they_hold() -> None:
    seeds = torch.tensor([[[0, 1], [255, 3]], [[0, 0], [0, 0]], [[255, 255], [255, 2]]], dtype=torch.uint8)
    assert classes_of(seeds, 3).tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    assert classes_of(torch.full((1, 1, 1), 254, dtype=torch.uint8), 254)[0, 253].item() is True


def test_maps_are_asked_of_the_classes_of_views_or_of_whole_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 32, 32)
    positive = torch.zeros(2, len(CLASS_NAMES), dtype=torch.bool)
    positive[0, :2] = positive[1, 3] = True
    seeds = torch.zeros(2, 32, 32, dtype=torch.uint8)
    seeds[0, :8] = 1
    for pairs, present in (("view", classes_of(seeds, len(CLASS_NAMES))), ("image", positive)):
        task = task_of(tmp_path, objective="activation", pairs=pairs)
        model = task.build_model()
        said = task.losses(model, ViewBatch(pixels, positive, seeds), Position(0, 1, 0.0), 0).losses
        maps = found_maps(model.clip, pixels, present, model.texts(), differentiable=True).maps
        assert len(maps) == present.sum()
        expected = activation_loss(maps, seeds, *present.nonzero(as_tuple=True))
        assert {name: value.item() for name, value in said.items()} == {
            "object": pytest.approx(expected.object.item()),
            "background": pytest.approx(expected.background.item()),
        }


def test_pixels_are_asked_of_the_maps_of_the_classes_of_their_seeds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels, seeds = torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.uint8)
    seeds[0, :8], seeds[0, 8:12], seeds[1] = 1, 4, 255
    task = task_of(tmp_path, objective="pixel-cross-entropy")
    model = task.build_model()
    nothing = torch.zeros(2, len(CLASS_NAMES), dtype=torch.bool)
    said = task.losses(model, ViewBatch(pixels, nothing, seeds), Position(0, 1, 0.0), 0).losses
    held = classes_of(seeds, len(CLASS_NAMES))
    first, last = F.interpolate(
        found_maps(model.clip, pixels, held, model.texts()).maps[None], (32, 32), mode="bilinear"
    )[0]
    of_pixels = torch.stack([torch.zeros(32, 32), first, last]).log_softmax(dim=0)
    expected = -(of_pixels[1, :8].sum() + of_pixels[2, 8:12].sum() + of_pixels[0, 12:].sum()) / 1024
    assert {name: value.item() for name, value in said.items()} == {"pixels": pytest.approx(expected.item() / 2)}


def test_only_losses_of_single_images_may_be_taken_in_parts(tmp_path: Path) -> None:
    whole = [bool(task_of(tmp_path, objective=objective).pass_statistics) for objective in OBJECTIVES]
    assert dict(zip(OBJECTIVES, whole, strict=True)) == {
        "contrastive": True, "bce": False, "activation": True, "pixel-cross-entropy": False,
    }  # fmt: skip


@pytest.mark.parametrize(("objective", "falls_by"), [("contrastive", 0.1), ("bce", 0.01)])
def test_the_loss_of_classes_falls_on_what_it_is_taught(tmp_path: Path, objective: str, falls_by: float) -> None:
    task = task_of(tmp_path, lr=0.1, objective=objective)
    torch.manual_seed(0)
    model = task.build_model()
    (optimizer,) = task.build_optimizers(model)
    positive = torch.zeros(2, len(CLASS_NAMES), dtype=torch.bool)
    positive[0, 1] = positive[1, 4] = True
    batch = ViewBatch(torch.randn(2, 3, 32, 32), positive, torch.zeros(2, 0, 0, dtype=torch.uint8))
    losses = []
    for step in range(30):
        loss = task.losses(model, batch, Position(step, 30, 0.0), 0).losses[objective]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[-2] < losses[0] - falls_by


def test_tuned_blocks_learn_at_a_rate_of_their_own(tmp_path: Path) -> None:
    task = task_of(tmp_path, lr=0.5, tuned_blocks=2, tower_lr_factor=0.1)
    model = task.build_model()
    (optimizer,) = task.build_optimizers(model)
    contexts, blocks = optimizer.param_groups
    assert [contexts["lr"], blocks["lr"]] == [0.5, pytest.approx(0.05)]
    assert [parameter.shape for parameter in contexts["params"]] == [model.prompts.context.shape]
    assert (
        len(blocks["params"]) == 2 * 12
    )  # two norms, attention's two and the perceptron's two layers: weight and bias each
    frozen = task_of(tmp_path)
    assert len(frozen.build_optimizers(frozen.build_model())[0].param_groups) == 1


def test_maps_are_taught_to_a_frozen_tower_alone() -> None:
    with pytest.raises(
        ConfigError, match=r"tuned_blocks: expected 0 with the objective activation, .* frozen tower, got 1"
    ):
        PromptTrainingConfig(objective="activation", tuned_blocks=1)


def test_a_view_that_is_no_multiple_of_a_patch_is_refused(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    wrong = PromptTask(**{**vars(task), "config": PromptTrainingConfig(crop_size=36)})
    with pytest.raises(ConfigError, match="crop_size: expected a multiple of 8, CLIP's patch, got 36"):
        wrong.build_model()


def test_views_hold_their_classes_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))
    label_map = np.zeros((64, 64), np.uint8)
    label_map[:, 32:] = 3
    seeds = Table(str(tmp_path / "seeds"), LABEL_MAPS)
    seeds.write_rows([label_map_to_row("a", "i", label_map, supervision="image-labels")], "part-0")
    image = LabelledImage("a", "shapes:train/0?size=64&seed=0", (2, 4), "c")
    dataset = task_of(tmp_path, (image,), seeds, objective="activation").build_dataset()
    batch = dataset.collate([dataset.load(0, 0), dataset.load(0, 1)])
    assert batch.pixels.shape == (2, 3, 32, 32)
    assert batch.positive.nonzero().tolist() == [[0, 2], [0, 4], [1, 2], [1, 4]]
    assert batch.seeds.shape == (2, 32, 32)
    assert set(batch.seeds.unique().tolist()) <= {0, 3}


def test_an_objective_and_what_is_learnt_from_go_together(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"learn_from.*: expected an instance of seeds, with objective activation, got ''"
    ):
        recipe_of(tmp_path, "train_prompts.objective=activation")
    with pytest.raises(ConfigError, match=r"learn_from.*: expected none, for labels alone are learnt"):
        recipe_of(tmp_path, "train_prompts.learn_from=seeds")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        pytest.param("train_prompts.crop_size=36", "crop_size: expected a multiple of 8", id="views"),
        pytest.param("clip.background=[zyxel]", "zyxel", id="words"),
    ],
)
def test_what_clip_cannot_do_is_said_before_others_work_for_it(tmp_path: Path, setting: str, told: str) -> None:
    run = Run(recipe_of(tmp_path, setting, "superpixels.points_per_side=4"), str(tmp_path / "run"))
    with pytest.raises(WeaksamError, match=told):
        run.bring(["seeds"], Options())
    assert not (tmp_path / "run" / "superpixels").exists()


def test_images_that_all_have_every_class_teach_no_difference(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "labels.csv").write_text("path,labels\na.png,cat\nb.png,cat\n")
    recipe = recipe_of(tmp_path, f"data.uri={tmp_path / 'photos'}", "data.kind=auto")
    with pytest.raises(DataError, match=r"2 that have all of cat; set train_prompts.objective: bce"):
        Run(recipe, str(tmp_path / "run")).bring(["train-prompts"], Options())


@pytest.mark.slow
def test_a_run_leaves_prompts_for_its_clip(tmp_path: Path) -> None:
    run = Run(recipe_of(tmp_path), str(tmp_path / "run"))
    manifest = run.bring(["train-prompts"], Options())["train-prompts"]
    assert manifest["steps"] == {"planned": 3, "done": 3, "resumed_at": 0}
    assert manifest["supervision"] == "image-labels"
    trained = TrainedPrompts(run.instance("train-prompts"))
    prompted, names = load_prompts(Path(trained.weights_uri), tiny_clip())
    assert names == CLASS_NAMES
    assert prompted.prompts.context.shape == (4, 64)
    sizes = [path.stat().st_size for path in (tmp_path / "run").rglob("checkpoints/**/*") if path.is_file()]
    assert max(sizes) < 100_000  # contexts, and not the CLIP that they are taught to
