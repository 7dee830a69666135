"""Objectives of masks: those that the retrained detector finds, and the pseudo masks that it learnt from."""

from __future__ import annotations

from functools import partial

from pipelines.evaluate.detected_masks import BOXES, MASKS
from pipelines.evaluate.pseudo_masks import SEGMENTED
from pipelines.recipe.model import Recipe
from pipelines.variants.objectives.base import (
    Objective,
    Part,
    Reading,
    Splits,
    Values,
    figure_of,
    splits_of_detections,
)
from pipelines.variants.objectives.detections import FINAL

SEGMENT = "evaluate.segment"


def _detected(row: str, figure: str, reading: Reading) -> Values:
    splits = reading.metrics()["detections"].items()
    return {split: figure_of(measured.get("masks") or {"rows": []}, row, figure) for split, measured in splits}


def _pseudo(figure: str, reading: Reading) -> Values:
    return {
        split: figure_of(measured, SEGMENTED, figure) for split, measured in reading.metrics()["pseudo_masks"].items()
    }


def _limits(recipe: Recipe, instance: str, _part: Part) -> Splits:
    return splits_of_detections(recipe, recipe.of(instance).evaluate.of)


def _of_detector(figure: str, what: str, row: str = MASKS) -> Objective:
    return Objective(what=what, instance=FINAL, read=partial(_detected, row, figure), seeded=True, limits=_limits)


def _of_pseudo_masks(figure: str, what: str) -> Objective:
    return Objective(what=f"{what} of the pseudo masks", instance=SEGMENT, read=partial(_pseudo, figure))


AP = _of_detector("ap", "COCO AP of masks")
AP25, AP50, AP70, AP75 = (_of_detector(f"ap{iou}", f"AP of masks at IoU .{iou}") for iou in (25, 50, 70, 75))
FILLED_AP50 = _of_detector("ap50", "AP of filled boxes at IoU .50 with masks", BOXES)
PSEUDO_IOU = _of_pseudo_masks("iou", "mean best IoU")
PSEUDO_BOUNDARY_F = _of_pseudo_masks("boundary_f", "boundary F")
