"""The key of each analysis changes with what its own numbers depend on, and with nothing else."""

import shutil

import pytest

from pipelines.analyse import stage as analyse
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS

SHAPES = ("data.shapes.train=3", "data.shapes.val=2", "data.shapes.test=0", "data.shapes.size=32")
ANALYSES = ("analyse.prompts", "analyse.similarity", "analyse.noise")


def keys(*settings):
    run = Run(load_recipe("shapes", [*SHAPES, *settings])[0], "/run")
    return {name: run.instance(name).key for name in ANALYSES}


def changed(*settings):
    before, after = keys(), keys(*settings)
    return {name.partition(".")[2] for name in ANALYSES if before[name] != after[name]}


@pytest.mark.parametrize(
    ("setting", "analyses"),
    [
        ("analyse.max_images=7", {"prompts"}),
        ("analyse.random_seeds=[5]", {"prompts"}),
        ("analyse.similarity_images=7", {"similarity"}),
        ("analyse.noise_images=7", {"noise"}),
        ("analyse.split=val", {"prompts", "similarity"}),
        ("evaluate.iou_thresholds=[0.6]", {"prompts"}),
        ("evaluate.include_difficult=false", {"prompts"}),
        ("evaluate.voc_style=chainer", set()),
        ("evaluate.voc_levels=exact", set()),
        ("detect.score_threshold=0.2", {"noise"}),
        ("detect.max_side=100", {"similarity", "noise"}),
        ("data.stated_size=ignore", {"prompts", "noise"}),
    ],
)
def test_an_option_changes_the_keys_of_the_analyses_that_read_it(setting, analyses):
    assert changed(setting) == analyses


def test_where_the_weights_of_sam_lie_is_in_no_key(tmp_path):
    copied = shutil.copy(BUILTIN_WEIGHTS["sam"].path, tmp_path / "sam.safetensors")
    assert changed(f"sam.weights={copied}") == set()


def test_a_given_detector_is_in_the_key_by_what_it_holds_and_not_by_where_it_lies(tmp_path):
    here, there = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    here.write_bytes(b"weights")
    there.write_bytes(b"weights")
    first = keys(f"mil.weights={here}")
    assert keys(f"mil.weights={there}") == first
    there.write_bytes(b"others")
    assert keys(f"mil.weights={there}")["analyse.similarity"] != first["analyse.similarity"]


def test_the_method_of_an_analysis_is_told_without_reading_weights():
    recipe = load_recipe("shapes", [*SHAPES, "mil.weights=/nowhere/detector.safetensors"])[0]
    for name in ANALYSES:
        assert analyse.STAGE.method(analyse.STAGE.options(recipe.of(name), name))
