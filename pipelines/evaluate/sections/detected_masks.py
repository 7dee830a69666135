"""Masks that a detector found, as pictures: of the images that they fit worst, and of some by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluate.sections.examples import Groups, Row, examples
from pipelines.page import pictures
from pipelines.page.pictures import Fitted, Picture
from pipelines.page.shown_run import ShownRun
from pipelines.products.detections import DetectionTable
from pipelines.store.schemas import detections_from_row
from weaksam.datasets.ground_truth import true_objects


def mask_examples(run: ShownRun, table: DetectionTable, split: str, measured: Mapping[str, Any]) -> Groups:
    """Return images with their detections and their true masks; ``measured`` is what ``MaskMeasures`` says of the split."""
    truth, least = run.true_masks(split), run.recipe.report.detection_score

    def draw(row: Row, size_hw: tuple[int, int], shown: Fitted, said: str) -> list[Picture]:
        found = detections_from_row(dict(row))
        drawn = [pictures.detections(shown, found, table.class_names, name=f"detected{said}", min_score=least)]
        if row["image_id"] in truth:
            known = true_objects(truth, row["image_id"], size_hw)
            drawn.append(pictures.true_masks(shown, known, table.class_names))
        return drawn

    return examples(run, table.table, split, measured["worst"], draw)
