"""Objectives of label maps: those that the segmenter predicts, the seeds that it learnt from, and what needs no method.

Seeds are of the training images alone. Figures of them by true maps are reported and never chosen by: what they would choose,
nobody could who has image labels only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pipelines.evaluate.label_maps import BACKGROUND, LARGEST_CLASS, MAPS
from pipelines.recipe.model import Recipe, verb_of
from pipelines.variants.objectives.base import NO_IMAGES, TRAINING_IMAGES, Objective, Part, Reading, Splits, Values

PREDICTED = "evaluate.maps"
PIXELS, COARSE, FINE = "evaluate.pixels", "evaluate.coarse", "evaluate.fine"


def _read(row: str, figure: str, reading: Reading) -> Values:
    return {split: _of(measured, row, figure) for split, measured in reading.metrics()["label_maps"].items()}


def _read_seeds(figure: str, reading: Reading) -> Values:
    (measured,) = reading.metrics()["label_maps"].values()
    return {TRAINING_IMAGES: _of(measured, MAPS, figure)}


def _of(measured: Mapping[str, Any], row: str, figure: str) -> float | None:
    """Return a figure of one row; None where there are no true maps."""
    return next((found[figure] for found in measured["rows"] if found["name"] == row), None)


def _limits(recipe: Recipe, instance: str, _part: Part) -> Splits:
    of = recipe.of(instance).evaluate.of
    return {"predict_maps.splits": recipe.of(of).predict_maps.splits} if verb_of(of) == "predict-maps" else {}


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


MEAN_IOU = _predicted("mean_iou", "mean IoU of the segmenter's label maps")
BOUNDARY_IOU = _predicted("boundary_iou", "boundary IoU of the segmenter's label maps")
BACKGROUND_IOU = _predicted("mean_iou", "mean IoU of background alone", BACKGROUND)
LARGEST_CLASS_IOU = _predicted("mean_iou", "mean IoU of images filled with their largest true class", LARGEST_CLASS)
PIXEL_IOU = _seeds("mean_iou", "mean IoU of seeds whose pixels each take their own class", PIXELS)
COARSE_IOU = _seeds("mean_iou", "mean IoU of the coarse seeds", COARSE)
FINE_IOU = _seeds("mean_iou", "mean IoU of the fine seeds", FINE)
FINE_BOUNDARY_IOU = _seeds("boundary_iou", "boundary IoU of the fine seeds", FINE)
