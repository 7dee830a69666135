"""What every stage owes: options that say all it depends on, a key made of them alone, a product that reads what it wrote."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.product import Facts, Product
from pipelines.engine.stage import Stage
from pipelines.recipe.model import Recipe, load_recipe, verb_of
from pipelines.registry import STAGES, product_of
from pipelines.store.instances import Instance

MORE = [
    "instances={import.ss: {file: ss.mat}, import-masks.cam: {file: masks.json}, true-boxes.truth: {noise: 0.5}, "
    "superpixels: {}, train-prompts: {}, seeds: {}, train-segmenter: {}}"
]
OF_VERB = {"import": "import.ss", "import-masks": "import-masks.cam", "true-boxes": "true-boxes.truth"}
OF_VERB |= {  # not listed by the recipe
    verb: verb
    for verb in ("true-masks", "segment", "superpixels", "train-prompts", "seeds", "train-segmenter", "predict-maps")
}


def recipe_with(*settings: str) -> Recipe:
    return load_recipe("shapes", [*MORE, *settings], "shapes:")[0]


def instance_of(recipe: Recipe, verb: str) -> str:
    return OF_VERB.get(verb) or next(name for name in recipe.stages if verb_of(name) == verb)


def method(verb: str, *settings: str) -> dict[str, Any]:
    recipe = recipe_with(*settings)
    name = instance_of(recipe, verb)
    return dict(STAGES[verb].method(STAGES[verb].options(recipe.of(name), name)))


@pytest.mark.parametrize("verb", STAGES)
def test_it_is_named_explained_and_has_a_product(verb: str) -> None:
    stage = STAGES[verb]
    assert isinstance(stage, Stage)
    assert stage.verb == verb
    assert stage.help.split("\n\n")[0].endswith((".", "?"))
    assert issubclass(stage.product, Product)
    assert issubclass(stage.product.facts_type, Facts)


@pytest.mark.parametrize("verb", STAGES)
def test_its_options_are_a_frozen_dataclass_and_name_what_is_read(verb: str) -> None:
    recipe, stage = recipe_with(), STAGES[verb]
    name = instance_of(recipe, verb)
    options = stage.options(recipe.of(name), name)
    assert is_dataclass(options)
    with pytest.raises(FrozenInstanceError):
        setattr(options, fields(options)[0].name, None)
    known = {*recipe.stages, *recipe.instances}
    assert set(stage.reads(options)) <= known - {name}
    assert isinstance(stage.is_idle(recipe.of(name), name), bool)
    assert isinstance(stage.describe(options), str)


@pytest.mark.parametrize("verb", STAGES)
def test_its_key_is_plain_and_knows_neither_resources_nor_looks(verb: str) -> None:
    before = method(verb)
    assert json.loads(json.dumps(before)) == before
    assert method(verb, "resources.cpus=1", "resources.here=true", "resources.cache_mib=7") == before
    if verb != "report":
        assert method(verb, "report.gallery_images=1", "report.title=x") == before


@pytest.mark.parametrize("verb", STAGES)
def test_an_unfinished_product_has_no_facts_and_no_rows(tmp_path: Path, verb: str) -> None:
    product = product_of(Instance(str(tmp_path), f"{verb}.x", "k"))
    assert not product.is_finished
    assert product.facts == STAGES[verb].product.facts_type()
    if product.schema is not None:
        assert list(product.table.iter_rows()) == []


@pytest.mark.parametrize("verb", STAGES)
def test_facts_come_back_as_they_were_written(tmp_path: Path, verb: str) -> None:
    instance = Instance(str(tmp_path), f"{verb}.x", "k")
    facts = STAGES[verb].product.facts_type(text="done")
    instance.begin({})
    instance.finish(facts.to_plain())
    assert product_of(instance).facts == facts
