"""Precisions in recipes: each changes the keys of what it computes, and those that do not go together are refused."""

from __future__ import annotations

import pytest

from pipelines.recipe.keys import method_of
from pipelines.recipe.model import load_recipe
from pipelines.stages.detect import STAGE as DETECT
from pipelines.stages.propose.stage import STAGE as PROPOSE
from weaksam.errors import ConfigError


def propose(*settings: str, recipe: str = "shapes") -> object:
    return method_of(PROPOSE.options(load_recipe(recipe, settings)[0], "propose"))


def detect(name: str, *settings: str) -> object:
    recipe, _ = load_recipe("shapes", settings)
    return method_of(DETECT.options(recipe.of(name), name))


def test_proposals_of_another_precision_have_another_key() -> None:
    tf32 = ("sam.precision=tf32", "clues.cam.precision=tf32")
    settings = ((), ("sam.precision=fast",), ("clues.cam.precision=fast",), tf32)
    methods = [propose(*of_one) for of_one in settings]
    assert all(methods.count(method) == 1 for method in methods)


def test_one_network_alone_is_not_switched_to_tf32_where_a_process_may_hold_both() -> None:
    for setting in ("sam.precision=tf32", "clues.cam.precision=tf32"):
        with pytest.raises(ConfigError, match=r"sam.precision: expected tf32 for clues.cam.precision as well"):
            propose(setting)
    propose("sam.precision=tf32", recipe="grid")  # there is no clue network


@pytest.mark.parametrize("name", ["detect.mil", "detect.final"])
def test_detections_of_another_precision_have_another_key(name: str) -> None:
    methods = [detect(name, f"{name}.precision={wanted}") for wanted in ("exact", "tf32", "fast")]
    assert all(methods.count(method) == 1 for method in methods)


def test_a_dino_that_is_to_detect_in_half_precision_is_refused_before_anything_runs() -> None:
    detect("detect.final", "retrain.detector.name=dino", "detect.final.precision=tf32")
    with pytest.raises(ConfigError, match=r"test.precision: expected exact or tf32 with dino"):
        detect("detect.final", "retrain.detector.name=dino", "detect.final.precision=fast")
