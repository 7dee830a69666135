"""Objectives of pseudo labels, on two halves of the training images: there are no others that have pseudo labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.variants.objectives.base import Objective, Part, Reading, Values

HALVES = ("half of the training images", "the other half of the training images")  # to select on, and to report on


def _read(figure: str, reading: Reading) -> Values:
    return {HALVES[0]: _of_half(figure, reading, "select"), HALVES[1]: _of_half(figure, reading, "report")}


def _of_half(figure: str, reading: Reading, part: Part) -> float | None:
    """Return precision, recall or F1 of one half of the pseudo labels."""
    from pipelines.evaluate.pseudo_labels import measure
    from weaksam.datasets import open_dataset

    table = PseudoLabelTable(reading.instance)
    half = (image for image in table.images() if half_of(image.image_id) == part)
    measured = measure(half, table.class_names, open_dataset(reading.run.recipe.data).ground_truth)
    rows_of_splits = [of_split["rows"] for of_split in measured.values() if of_split["rows"]]
    return _figures(rows_of_splits[0][0])[figure] if rows_of_splits else None


def _figures(at_half: Mapping[str, Any]) -> dict[str, float]:
    """Return precision, recall and F1 at IoU .5."""
    precision, recall = at_half["precision"] or 0.0, at_half["recall"] or 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def half_of(image_id: str) -> Part:
    """Return the part that a training image belongs to, always the same."""
    return "select" if hashlib.sha256(image_id.encode()).digest()[0] % 2 == 0 else "report"


def _pseudo(figure: str, what: str) -> Objective:
    return Objective(
        what=f"{what} of the pseudo boxes at IoU .5", instance="label", read=partial(_read, figure), parts=HALVES
    )


PRECISION = _pseudo("precision", "precision")
RECALL = _pseudo("recall", "recall")
F1 = _pseudo("f1", "F1")
