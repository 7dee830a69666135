"""Objectives of label maps: those that the segmenter predicts, the seeds that it learnt from, and what needs no method.

Seeds are of the training images alone. Figures of them by true maps are reported and never chosen by: what they would choose,
nobody could who has image labels only. Two figures know no true map, and may be chosen by (``segmentation/agreement``).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from pipelines.evaluate.label_maps import BACKGROUND, BOUND, LARGEST_CLASS, MAPS
from pipelines.products.label_maps import SeedTable
from pipelines.recipe.model import Recipe, verb_of
from pipelines.variants.objectives.base import (
    NO_IMAGES,
    TRAINING_IMAGES,
    Objective,
    Part,
    Reading,
    Splits,
    Values,
    figure_of,
)
from weaksam.errors import ConfigError

PREDICTED = "evaluate.maps"
PIXELS, COARSE, FINE = "evaluate.pixels", "evaluate.coarse", "evaluate.fine"
CHOSEN = "seeds.coarse"  # whose settings are chosen without labels


def _read(row: str, figure: str, reading: Reading) -> Values:
    return {split: figure_of(measured, row, figure) for split, measured in reading.metrics()["label_maps"].items()}


def _read_seeds(figure: str, reading: Reading) -> Values:
    (measured,) = reading.metrics()["label_maps"].values()
    return {TRAINING_IMAGES: figure_of(measured, MAPS, figure)}


def _read_label_free(figure: Literal["agreement", "clip_score"], reading: Reading) -> Values:
    return {TRAINING_IMAGES: getattr(SeedTable(reading.instance).facts, figure)}


def _limits(recipe: Recipe, instance: str, _part: Part) -> Splits:
    of = recipe.of(instance).evaluate.of
    if instance == PREDICTED and verb_of(of) == "seeds":  # by whose mean IoU nothing is chosen: see ``_seeds``
        raise ConfigError(
            f"recipe {recipe.name}: {instance}.of: expected predict-maps, got {of}; coarse_seed_miou and the like tell of seeds"
        )
    return {"predict_maps.splits": recipe.of(of).predict_maps.splits} if verb_of(of) == "predict-maps" else {}


def _must_be_measured(recipe: Recipe, instance: str, _part: Part) -> Splits:
    """Refuse a recipe that makes seeds without measuring them; their splits are no matter."""
    if not recipe.of(instance).seeds.measure_agreement:
        raise ConfigError(
            f"recipe {recipe.name}: seeds.measure_agreement: expected true for label-free figures of {instance}, got false; "
            "--set seeds.measure_agreement=true"
        )
    return {}


def _predicted(figure: str, what: str, row: str = MAPS) -> Objective:
    return Objective(
        what=what, instance=PREDICTED, read=partial(_read, row, figure), seeded=row == MAPS, limits=_limits
    )


def _seeds(figure: str, what: str, instance: str) -> Objective:
    return Objective(
        what=what,
        instance=instance,
        read=partial(_read_seeds, figure),
        seeded=True,
        parts=(NO_IMAGES, TRAINING_IMAGES),
    )


def _label_free(figure: Literal["agreement", "clip_score"], what: str) -> Objective:
    return Objective(
        what=what,
        instance=CHOSEN,
        read=partial(_read_label_free, figure),
        label_free=True,
        seeded=True,
        parts=(TRAINING_IMAGES, NO_IMAGES),  # it is no figure of quality, and not reported
        limits=_must_be_measured,
    )


MEAN_IOU = _predicted("mean_iou", "mean IoU of the segmenter's label maps")
BOUNDARY_IOU = _predicted("boundary_iou", "boundary IoU of the segmenter's label maps")
BACKGROUND_IOU = _predicted("mean_iou", "mean IoU of background alone", BACKGROUND)
LARGEST_CLASS_IOU = _predicted("mean_iou", "mean IoU of images filled with their largest true class", LARGEST_CLASS)
BOUND_IOU = _predicted("mean_iou", "mean IoU of superpixels that each have the class that most of them truly is", BOUND)
PIXEL_IOU = _seeds("mean_iou", "mean IoU of seeds whose pixels each take their own class", PIXELS)
COARSE_IOU = _seeds("mean_iou", "mean IoU of the coarse seeds", COARSE)
FINE_IOU = _seeds("mean_iou", "mean IoU of the fine seeds", FINE)
FINE_BOUNDARY_IOU = _seeds("boundary_iou", "boundary IoU of the fine seeds", FINE)
AGREEMENT_OF_SEEDS = _label_free(
    "agreement", "agreement of the coarse seeds of an image, of its mirror image and of a smaller one"
)
CLIP_SCORE = _label_free("clip_score", "CLIP's probability of a class in what its coarse seed shows of the image")
