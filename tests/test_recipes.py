"""Every recipe that ships, loaded and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import recipes
from pipelines.recipe.keys import to_plain
from pipelines.recipe.model import Recipe, load_recipe, shipped_recipes, verb_of
from pipelines.recipe.yaml_text import render
from pipelines.registry import STAGES, active
from pipelines.runner import Run
from weaksam.clues.weaktr import WeakTr
from weaksam.config import WeakTrConfig, Weights
from weaksam.proposals.peaks import find_peaks

FOLDER = Path(recipes.__file__).parent
WHOLE = [name for name in shipped_recipes() if not name.startswith("presets/")]
PRESETS = [name for name in shipped_recipes() if name.startswith("presets/")]


def test_the_recipes_that_are_promised_are_there() -> None:
    assert {"shapes", "voc07", "voc12", "coco14", "coco17"} <= set(WHOLE)
    assert {"presets/paper", "presets/official", "presets/nightly"} <= set(PRESETS)
    files = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.y*ml")}
    assert {name for name in files if not name.startswith(("sweeps/", "tables/"))} == {*WHOLE, *PRESETS, "standard"}


@pytest.mark.parametrize("name", WHOLE)
def test_a_recipe_loads_and_survives_printing(name: str, tmp_path: Path) -> None:
    recipe, origins = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    (tmp_path / "again.yaml").write_text(render(recipe, origins))
    assert load_recipe(str(tmp_path / "again.yaml"))[0] == recipe


@pytest.mark.parametrize("name", WHOLE)
def test_the_stages_of_a_recipe_exist_and_stand_in_an_order_that_works(name: str) -> None:
    recipe, _ = load_recipe(name)
    assert len(set(recipe.stages)) == len(recipe.stages)
    for position, instance in enumerate(recipe.stages):
        assert instance.partition(".")[0] in STAGES
        assert set(Run(recipe, "/run").needed_for(instance)) <= set(recipe.stages[: position + 1])


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_merges_into_every_recipe_and_all_of_it_arrives(name: str, preset: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"base": [f"{name}.yaml", f"{preset}.yaml"]}))
    recipe, origins = load_recipe(str(mine))

    def leaves(value: object, path: str = "") -> dict[str, object]:
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for n, part in value.items() for k, v in leaves(part, f"{path}.{n}" if path else n).items()}

    merged = leaves(to_plain(recipe))
    content = yaml.safe_load((FOLDER / f"{preset}.yaml").read_text())
    content.pop("base", None)
    wanted = leaves(content)
    assert wanted
    assert {path: merged[path] for path in wanted} == wanted
    assert {origins[path] for path in wanted} == {f"{preset.partition('/')[2]}.yaml"}


@pytest.mark.parametrize("name", WHOLE)
def test_the_networks_of_a_recipe_can_be_built(name: str) -> None:
    recipe, _ = load_recipe(name, ["retrain.init="])  # no weights are fetched
    for instance in recipe.stages:
        if verb_of(instance) == "retrain":
            STAGES["retrain"].check(STAGES["retrain"].options(recipe.of(instance), instance))


def test_coco17_shows_each_image_as_often_as_coco14() -> None:
    coco14, coco17 = load_recipe("coco14")[0], load_recipe("coco17")[0]
    assert (coco17.data.kind, coco17.data.train_split, coco17.data.splits) == (
        "coco",
        "train2017",
        ("train2017", "val2017"),
    )
    assert {verb.partition(".")[0] for verb in coco17.stages} >= {"propose", "train-mil", "detect", "label", "retrain"}
    for was, now in ((coco14.mil, coco17.mil), (coco14.retrain, coco17.retrain)):
        assert now.batch_size == was.batch_size
        expected = [steps * 118_287 / 82_783 for steps in (was.steps, *was.milestones)]
        assert [now.steps, *now.milestones] == pytest.approx(expected, abs=50)  # rounded to hundreds
    drop = coco17.retrain.detector.drop
    assert (drop.start_step, drop.tau_cls, drop.tau_reg) == (14_300, 5.0, 4.0)


@pytest.mark.parametrize("name", WHOLE)
def test_a_night_with_pinned_clue_weights_trains_nothing_that_it_was_not_asked_for(name: str, tmp_path: Path) -> None:
    pinned = {"uri": "s3://mine/classifier.safetensors", "sha256": "ab" * 32}
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"base": [f"{name}.yaml", "presets/nightly.yaml"], "clues": {"weights": pinned}}))
    recipe, _ = load_recipe(str(mine))
    assert recipe.clues.weights == Weights(**pinned)
    assert "train-classifier" not in active(recipe)
    assert {recipe.classifier.train_again, recipe.mil.train_again, recipe.retrain.train_again} == {"asked"}


def test_the_demo_downloads_nothing() -> None:
    recipe, _ = load_recipe("shapes")
    assert recipe.data.kind == "shapes"
    assert (recipe.sam.name, recipe.sam.weights, recipe.clues.weights) == ("builtin", Weights(), Weights())
    assert recipe.clues.source.init == Weights("builtin:stem")


def of_preset(preset: str, tmp_path: Path) -> Recipe:
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"base": ["voc07.yaml", f"presets/{preset}.yaml"]}))
    return load_recipe(str(mine))[0]


def test_the_papers_peaks_are_more_than_half_a_kernel_apart(tmp_path: Path) -> None:
    drawn = torch.zeros(1, 200, 200)
    drawn[0, 100, 50] = drawn[0, 100, 114] = 1  # 64 apart, half of the paper's 128
    for preset, expected in (("paper", [[50, 100]]), ("official", [[50, 100], [114, 100]])):
        peaks = of_preset(preset, tmp_path).prompts.peaks
        (found,) = find_peaks(drawn, peaks, kernel=peaks.kernel_cross)
        assert found.points_xy.tolist() == expected
    paper = of_preset("paper", tmp_path).prompts.peaks
    assert (paper.kernel_cam, paper.kernel_cross, paper.max_candidates) == (128, 128, 0)


def test_whose_cross_attention_the_presets_take(tmp_path: Path) -> None:
    cam = of_preset("paper", tmp_path).clues.cam
    assert cam.cross_layers == ()  # all, which of WeakTr's are twelve
    maps = WeakTr(WeakTrConfig(), 1).activation_maps(torch.zeros(1, 3, 16, 16), [0], ["cross"], cam.cross_layers)
    assert maps["cross"].shape[2] == 12 * 6
    official = of_preset("official", tmp_path).clues.cam
    assert (official.cross_layers, official.autocast_fp16) == ((9, 10), True)
