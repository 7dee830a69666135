"""The stages by verb, in the order in which they usually run, and what an instance of any of them left behind."""

from __future__ import annotations

from typing import Any

from pipelines.engine.product import Product
from pipelines.engine.stage import Stage
from pipelines.recipe.keys import with_weights
from pipelines.recipe.model import Recipe, verb_of
from pipelines.store.instances import Instance
from weaksam.errors import ConfigError
from weaksam.registry import Registry

STAGES: Registry[Stage[Any]] = Registry(
    "weaksam.stages",
    {
        "index": "pipelines.stages.index:STAGE",
        "import": "pipelines.exchange.imports:STAGE",
        "import-masks": "pipelines.exchange.import_masks:STAGE",
        "true-boxes": "pipelines.exchange.true_boxes:STAGE",
        "true-masks": "pipelines.exchange.true_masks:STAGE",
        "train-classifier": "pipelines.stages.train_classifier.stage:STAGE",
        "propose": "pipelines.stages.propose.stage:STAGE",
        "train-mil": "pipelines.stages.train_mil.stage:STAGE",
        "detect": "pipelines.stages.detect:STAGE",
        "label": "pipelines.stages.label:STAGE",
        "segment": "pipelines.stages.segment:STAGE",
        "superpixels": "pipelines.stages.superpixels:STAGE",
        "retrain": "pipelines.stages.retrain.stage:STAGE",
        "train-prompts": "pipelines.stages.train_prompts.stage:STAGE",
        "seeds": "pipelines.stages.seeds.stage:STAGE",
        "train-segmenter": "pipelines.stages.train_segmenter.stage:STAGE",
        "predict-maps": "pipelines.stages.predict_maps:STAGE",
        "evaluate": "pipelines.evaluate.stage:STAGE",
        "analyse": "pipelines.analyse.stage:STAGE",
        "report": "pipelines.report.stage:STAGE",
    },
)


def stage_of(name: str) -> Stage[Any]:
    """Return the stage of an instance ``verb[.label]``; raise ConfigError when there is no such verb."""
    verb = verb_of(name)
    if verb not in STAGES:
        raise ConfigError(f"stages: expected one of {', '.join(STAGES)} (with .label), got {name!r}")
    return STAGES[verb]


def asked_of(recipe: Recipe, name: str) -> tuple[Stage[Any], Any]:
    """Return the stage of an instance and the options that a recipe gives it, its weights looked for where the recipe says."""
    stage = stage_of(name)
    options = stage.options(recipe.of(name), name)
    return stage, with_weights(options, lambda weights: weights.placed(recipe.weights))


def active(recipe: Recipe) -> tuple[str, ...]:
    """Return the instances that a recipe lists, without those that have nothing to do."""
    return tuple(name for name in recipe.stages if not stage_of(name).is_idle(recipe.of(name), name))


def product_of(instance: Instance) -> Product[Any]:
    """Return what an instance left behind; raise ConfigError when there is no such verb."""
    return stage_of(instance.name).product(instance)
