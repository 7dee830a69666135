"""The objective of the classifier whose activation maps are clues."""

from __future__ import annotations

from pipelines.variants.objectives.base import Objective, Reading, Values


def _read(reading: Reading) -> Values:
    return {split: measured["mean_ap"] for split, measured in reading.metrics()["classifier"].items()}


MEAN_AP = Objective(
    what="mean average precision of the classifier's scores of images",
    instance="evaluate.classifier",
    read=_read,
    label_free=True,
)
