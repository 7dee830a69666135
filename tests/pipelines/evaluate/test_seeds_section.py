"""The section of seeds: of each image all that its seeds were made of, in one row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.evaluate.sections import seeds as section
from pipelines.evaluate.sections.seeds import SECTION
from pipelines.page.render import render_section
from pipelines.page.section import View
from pipelines.page.shown_run import ShownRun
from pipelines.recipe.config import SeedStageConfig
from pipelines.recipe.model import Recipe
from pipelines.registry import asked_of
from pipelines.report import stage as report
from pipelines.stages.seeds.heat_maps import decides_maps, heat_maps
from pipelines.store.files import write_bytes
from tests.support.drawn_run import drawn_recipe, job_for, with_instances, write_run
from tests.support.full_run import write_superpixels
from tests.support.label_maps import shifted, write_seeds
from tests.support.page import gone, text_of
from tests.support.sets import instance_of
from tests.support.small_clip import tiny_clip, write_tiny_clip
from weaksam.config import AffinityConfig, ClipConfig, PromptLayoutConfig, Weights
from weaksam.datasets.shapes import Shapes
from weaksam.segmentation.prompted import PromptedClip, prompts_to_bytes

SEEDS = ("seeds.pixels", "seeds.coarse", "seeds.fine")
LAYOUT = PromptLayoutConfig(length=4)


def recipe_of(folder: Path) -> Recipe:
    clip = ClipConfig(weights=Weights(str(folder / "clip.safetensors")), background=("ground", "blob"))
    recipe = drawn_recipe(clip=clip, seeds=SeedStageConfig(affinity=AffinityConfig(layers=2)))
    return with_instances(
        recipe,
        seeds_pixels={"superpixels": ""},
        seeds_coarse={"background_power": 0.5},
        seeds_fine={"model": "train-prompts.maps"},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ShownRun:
    """Three tables of seeds, two of the same maps; the second prompts are not there."""
    folder = tmp_path_factory.mktemp("seeds")
    run_uri, dataset = str(folder / "run"), write_run(str(folder / "run"))
    for pixels, name in enumerate(SEEDS):
        write_seeds(run_uri, name, shifted(dataset, "train", pixels), dataset.class_names)
    write_superpixels(run_uri, dataset)
    write_tiny_clip(folder)
    recipe = recipe_of(folder)
    torch.manual_seed(0)
    prompted = PromptedClip(tiny_clip(), dataset.class_names, recipe.clip, LAYOUT)
    prompts = instance_of(run_uri, "train-prompts")
    prompts.begin({})
    write_bytes(prompts.file("prompts.safetensors"), prompts_to_bytes(prompted, dataset.class_names, recipe.clip))
    prompts.finish({"text": "steps 0"})
    return report.shown_run(job_for(recipe, run_uri, "report", ("index", "superpixels", "train-prompts", *SEEDS)))


def view_of(run: ShownRun) -> View:
    view = section.view(run)
    assert view is not None
    return view


def labels_of(image_id: str) -> list[int]:
    records = {record.image_id: record for record in Shapes(drawn_recipe().data.shapes).records("train")}
    return list(records[image_id].labels or ())


def test_a_row_has_the_maps_of_each_class_the_superpixels_all_seeds_and_the_truth(run: ShownRun) -> None:
    view = view_of(run)
    assert len(view["entries"]) == 6
    for entry in view["entries"]:
        image, *drawn = [picture.caption for picture in entry["pictures"]]
        classes = [f"{Shapes.class_names[c]}, pixels and coarse map" for c in labels_of(entry["image_id"])[:4]]
        assert image == "image"
        assert drawn[: len(classes)] == classes
        superpixels, *maps = drawn[len(classes) :]
        assert superpixels.startswith("superpixels: ")
        assert maps == ["pixels", "coarse", "fine", "true"]
    assert view["without_heat_maps"] == {"fine": "train-prompts.maps is not finished; bring it up to date first"}
    text = text_of(render_section(SECTION, view))
    assert "the maps of the classes that the image shows" in text
    assert "No heat maps of fine: train-prompts.maps is not finished" in text


def test_maps_are_of_the_classes_that_the_image_shows_and_reach_from_0_to_1(run: ShownRun) -> None:
    images = {image_id: run.read_image(image_id) for image_id in ("train-00000", "train-00003")}
    found = heat_maps(run, asked_of(run.recipe, "seeds.coarse")[1], images)
    assert {image_id: sorted(maps) for image_id, maps in found.items()} == {i: sorted(labels_of(i)) for i in images}
    for heat in (heat for maps in found.values() for heat in maps.values()):
        assert heat.shape == (8, 8)
        assert (heat.min(), heat.max()) in ((0.0, 1.0), (0.0, 0.0))
    assert max(heat.max() for maps in found.values() for heat in maps.values()) == 1


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"background_power": 2.0, "superpixels": "", "max_inside": 0.5}, True),
        ({"model": "train-prompts.maps"}, False),
        ({"scale": 2.0}, False),
        ({"affinity": {"enabled": False}}, False),
        ({"clip": {"background": ["ground"]}}, False),
    ],
)
def test_what_is_painted_of_the_maps_makes_no_others(tmp_path: Path, options: dict[str, object], same: bool) -> None:
    recipe = with_instances(recipe_of(tmp_path), seeds_other=options)
    one, other = (decides_maps(asked_of(recipe, name)[1]) for name in ("seeds.pixels", "seeds.other"))
    assert (one == other) == same


def test_without_masks_and_prompts_seeds_are_shown_alone(run: ShownRun) -> None:
    products = {name: of for name, of in run.products.items() if name not in ("superpixels", "train-prompts")}
    view = view_of(replace(run, products=products))
    for entry in view["entries"]:
        assert [picture.caption for picture in entry["pictures"]] == ["image", "pixels", "coarse", "fine", "true"]
    assert list(view["without_heat_maps"]) == ["pixels and coarse", "fine"]
    text = text_of(render_section(SECTION, view))
    assert "Images by chance, in a row each: the seeds; the true map." in text


def test_an_image_that_cannot_be_read_any_more_leaves_its_reason(run: ShownRun) -> None:
    text = text_of(render_section(SECTION, view_of(replace(run, read_image=gone))))
    assert text.count("The image cannot be read again: missing: deleted") == 6
