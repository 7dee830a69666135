"""Objectives that know no true box: all that a weakly-supervised project has."""

from __future__ import annotations

from functools import partial

from pipelines.evaluate.agreement import AGREEMENT, classification_map, image_labels
from pipelines.recipe.model import Recipe
from pipelines.variants.objectives.base import (
    NO_IMAGES,
    TRAINING_IMAGES,
    EarlyDetections,
    Objective,
    Part,
    Reading,
    Splits,
    Values,
    splits_of_detections,
)

RANK = "rank"
RANKED = ("classification_map", "agreement")  # what RANK combines


def _read(figure: str, reading: Reading) -> Values:
    return {split: measured.get(figure) for split, measured in reading.metrics()[AGREEMENT].items()}


def _read_label_agreement(reading: Reading) -> Values:
    (measured,) = reading.metrics()[AGREEMENT].values()
    return {TRAINING_IMAGES: measured["label_agreement"]}


def _early_classification_map(seen: EarlyDetections) -> float | None:
    from weaksam.datasets import open_dataset

    labels = image_labels(open_dataset(seen.recipe.data), seen.split)
    return classification_map({image.image_id: image.detections for image in seen.images}, labels)


def _limits(recipe: Recipe, instance: str, part: Part) -> Splits:
    """Of reported images only what needs no teacher is asked for."""
    options = recipe.of(instance).evaluate
    teacher = splits_of_detections(recipe, options.teacher) if part == "select" else {}
    return {**splits_of_detections(recipe, options.of), **teacher}


CLASSIFICATION_MAP = Objective(
    what="classification mAP of the retrained detector's image scores",
    instance="evaluate.agreement",
    read=partial(_read, "classification_map"),
    label_free=True,
    seeded=True,
    early=_early_classification_map,
    limits=_limits,
)
AGREEMENT_OF_DETECTORS = Objective(
    what="agreement of teacher and student under mirroring and scaling",
    instance="evaluate.agreement",
    read=partial(_read, "agreement"),
    label_free=True,
    seeded=True,
    limits=_limits,
)
LABEL_AGREEMENT = Objective(
    what="agreement of the pseudo labels of an image and of its mirror image",
    instance="evaluate.label-agreement",
    read=_read_label_agreement,
    label_free=True,
    parts=(TRAINING_IMAGES, NO_IMAGES),  # it is no figure of quality, and not reported
)
MEAN_RANK = Objective(
    what="mean of the ranks of " + " and ".join(RANKED) + " among all trials",
    instance="evaluate.agreement",
    read=lambda _reading: {},
    label_free=True,
    seeded=True,
    among_trials=True,
    limits=_limits,
)
