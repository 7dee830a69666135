"""What runs a trained detector, or a segmenter, over new pictures: a run of its own, in a folder of its own.

Its stages are index, proposals where the detector scores some, superpixels where each of them gets one class, and detections
or label maps. So it continues where it stopped, looks only at what is new when the pictures grow, and drops what cannot be
read. Its recipe is that of the run which has trained, with the new data, the trained weights and nothing to train.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipelines.recipe.keys import INDEX
from pipelines.recipe.model import Recipe, is_from_outside, label_of, load_recipe, verb_of
from pipelines.registry import product_of
from pipelines.stages.detect import scored_proposals
from pipelines.store.instances import finished_instance
from pipelines.training.trained import Trained
from weaksam.errors import ConfigError, RunError
from weaksam.io.files import join, open_fs


class Predictor(NamedTuple):
    """What runs a trained detector or segmenter over new pictures."""

    recipe: Recipe
    instance: str  # of ``detect`` or ``predict-maps``, whose rows are the predictions


def predictor_of(run_uri: str, data_uri: str, of: str = "", overrides: Sequence[str] = ()) -> Predictor:
    """Return the recipe of predictions with what a run has trained.

    Args:
        run_uri: the run, whose detector or segmenter is trained.
        data_uri: where the new pictures are.
        of: the instance of ``detect`` or ``predict-maps`` that runs it; empty = the last that the run lists, of ``detect`` of
            those that see all views.
        overrides: ``a.b=c``, over the run's recipe.

    Raises:
        ConfigError: the run predicts nothing, or needs proposals that no stage makes.
        RunError: there is no run, or what is needed of it is not finished.
    """
    file = join(run_uri, "recipe.yaml")
    fs, path = open_fs(file)
    if not fs.exists(path):
        raise RunError(f"{run_uri}: expected a run folder, as --out names it, found no recipe.yaml in it")
    trained, _ = load_recipe(file, overrides)
    name = of or _last_predictor(trained, run_uri)
    if verb_of(name) not in _PREDICT:
        raise ConfigError(f"--of: expected an instance of {' or '.join(_PREDICT)}, got {name!r}")
    proposals, superpixels = _proposals_of(trained, name), _superpixels_of(trained, name)
    settings: dict[str, Any] = {
        "stages": [INDEX, *proposals, *superpixels, name],
        **{f"data.{option}": value for option, value in _AS_PICTURES.items()},
        **{_path(instance, "splits"): [] for instance in (*proposals, *superpixels, name)},
        **_weights(trained, trained.section_of(name).model, run_uri),
    }
    if verb_of(name) == "detect":
        settings[_path(name, "within")] = ""  # which names splits of the run's own images
    for instance in proposals:
        settings |= _clue_weights(trained, instance, run_uri)
    values = [f"{path}={json.dumps(value)}" for path, value in settings.items()]
    return Predictor(load_recipe(file, [*values, *overrides], data_uri)[0], name)


def require_own_folder(out: str, run_uri: str) -> None:
    """Raise ConfigError if a folder holds a run that is not one of predictions, such as the one which has trained."""
    fs, path = open_fs(join(out, "recipe.yaml"))
    if fs.exists(path) and not load_recipe(join(out, "recipe.yaml"))[0].data.pictures_only:
        which = "the run that trained the detector" if out == run_uri else "another run"
        raise ConfigError(f"--out {out}: expected a folder for predictions, got that of {which}; name another")


_PREDICT = ("detect", "predict-maps")
# Of another data set than the one that was learnt from, whatever it is, the pictures alone.
_AS_PICTURES = {"kind": "auto", "splits": [], "train_split": "auto", "limit": 0, "pictures_only": True}


def _path(instance: str, option: str) -> str:
    """Return the path of an instance's own option in a recipe, as ``--set`` takes it."""
    return f"{instance}.{option}" if label_of(instance) else f"instances.{instance}.{option}"


def _last_predictor(recipe: Recipe, run_uri: str) -> str:
    """Return the instance that a recipe lists last of those whose rows are predictions.

    Of ``detect`` they are those that see an image as it is, in all scales.
    """
    listed = [
        name
        for name in recipe.stages
        if verb_of(name) in _PREDICT and (verb_of(name) != "detect" or recipe.of(name).detect.view == "all")
    ]
    if not listed:
        raise ConfigError(
            f"{run_uri}: expected a run that trains a detector or a segmenter and lists an instance of "
            f"{' or '.join(_PREDICT)}, its recipe has the stages {', '.join(recipe.stages)}; name one with --of"
        )
    return listed[-1]


def _proposals_of(recipe: Recipe, name: str) -> tuple[str, ...]:
    """Return the instances whose proposals the detector scores; none for a segmenter, or one that finds its boxes alone."""
    seen = recipe.of(name)
    if verb_of(recipe.section_of(name).model) != "train-mil":
        return ()
    names = scored_proposals(seen)
    outside = next(filter(is_from_outside, names), None)
    if outside is not None:
        raise ConfigError(
            f"{name} scores {outside}, proposals that were read from a file, of which there are none for new pictures; name "
            "a detector that finds its boxes alone (--of detect.final), or let it score others "
            f"(--set {_path(name, 'proposals')}=[propose])"
        )
    return names


def _superpixels_of(recipe: Recipe, name: str) -> tuple[str, ...]:
    """Return the instance by whose superpixels label maps are told, if they are."""
    if verb_of(name) != "predict-maps" or not recipe.of(name).predict_maps.superpixels:
        return ()
    return (recipe.of(name).predict_maps.superpixels,)


def _weights(recipe: Recipe, model: str, run_uri: str) -> Mapping[str, str]:
    """Return the option that names the weights of a training, unless the recipe does."""
    return {} if recipe.section_of(model).weights else {_path(model, "weights"): _trained(run_uri, model)}


def _clue_weights(recipe: Recipe, propose: str, run_uri: str) -> Mapping[str, str]:
    """Return the option that names the weights of the clues, where they are trained and the recipe does not."""
    seen = recipe.of(propose)
    if not (seen.uses_clues and seen.clues.source.trained) or seen.clues.weights:
        return {}
    return {_path(propose, "clues.weights"): _trained(run_uri, seen.propose.classifier)}


def _trained(run_uri: str, name: str) -> str:
    """Return where the weights of a finished training are."""
    trained = product_of(finished_instance(run_uri, name))
    assert isinstance(trained, Trained)
    return trained.weights_uri
