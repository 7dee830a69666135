"""Objectives of detections: of the retrained detector, of the weakly-supervised one, and of what needs no localisation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pipelines.evaluate.detections import DETECTOR, WHOLE_IMAGE
from pipelines.recipe.model import Recipe
from pipelines.variants.objectives.base import (
    EarlyDetections,
    Objective,
    Part,
    Reading,
    Splits,
    Values,
    splits_of_detections,
)

FINAL, MIL = "evaluate.final", "evaluate.mil"
_RETRAINED, _WEAK = "the retrained detector", "the weakly-supervised detector"


def _read(row: str, figure: str, reading: Reading) -> Values:
    return {split: _of_row(row, figure, measured) for split, measured in reading.metrics()["detections"].items()}


def _of_row(row: str, figure: str, measured: Mapping[str, Any]) -> float | None:
    """Return a figure of one of the detectors that were measured; None where there are no true boxes."""
    found: Mapping[str, Any] = next((other for other in measured["rows"] if other["name"] == row), {})
    value = found.get(figure)
    return None if value is None else float(value)


def _early(figure: str, seen: EarlyDetections) -> float | None:
    from pipelines.evaluate.detections import measure
    from weaksam.datasets import open_dataset

    truth = open_dataset(seen.recipe.data).ground_truth
    measured = measure(seen.images, seen.class_names, truth, seen.recipe.evaluate)
    return _of_row(DETECTOR, figure, measured[seen.split]) if seen.split in measured else None


def _limits(recipe: Recipe, instance: str, _part: Part) -> Splits:
    return splits_of_detections(recipe, recipe.of(instance).evaluate.of)


def _detected(
    figure: str, what: str, *, instance: str = FINAL, row: str = DETECTOR, more_is_better: bool = True
) -> Objective:
    detector = _RETRAINED if instance == FINAL else _WEAK
    return Objective(
        what=f"{what} of {'the whole image as the only box' if row == WHOLE_IMAGE else detector}",
        instance=instance,
        read=partial(_read, row, figure),
        more_is_better=more_is_better,
        seeded=instance == FINAL,
        early=partial(_early, figure) if instance == FINAL and row == DETECTOR else None,
        limits=_limits,
    )


AP50_AREA = _detected("ap50_area", "AP50")
AP50_ELEVEN_POINT = _detected("ap50_eleven_point", "VOC's 11-point AP50")
COCO_AP = _detected("coco_ap", "COCO AP")
COCO_AP50 = _detected("coco_ap50", "COCO AP50")
COCO_AP75 = _detected("coco_ap75", "COCO AP75")
CORLOC = _detected("corloc", "CorLoc")
PART = _detected("part", "share of top detections that are a part of an object", more_is_better=False)
WHOLE_IMAGE_AP50 = _detected("ap50_eleven_point", "VOC's 11-point AP50", row=WHOLE_IMAGE)
WHOLE_IMAGE_CORLOC = _detected("corloc", "CorLoc", row=WHOLE_IMAGE)
MIL_AP50 = _detected("ap50_area", "AP50", instance=MIL)
MIL_CORLOC = _detected("corloc", "CorLoc", instance=MIL)
