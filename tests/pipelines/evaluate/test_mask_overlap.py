"""The average best overlap of proposals' masks: by hand, and of a run that keeps its masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.engine.stage import Options
from pipelines.evaluate.proposals import measure
from pipelines.products.measured import Evaluation
from pipelines.products.proposal_boxes import ImageBoxes
from pipelines.recipe.config import EvaluateConfig
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from tests.support.voice import Recorder
from weaksam.masks_np import encode_rle
from weaksam.structures import GroundTruth

SIZE = (8, 8)


def drawn(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def truth(*masks: np.ndarray | None) -> GroundTruth:
    none = np.zeros(len(masks), np.bool_)
    return GroundTruth(
        boxes_xyxy=np.tile(np.float32([0, 0, 8, 8]), (len(masks), 1)),
        class_index=np.arange(len(masks)) % 2,
        difficult=none,
        crowd=none,
        size_hw=SIZE,
        mask_rle=[None if mask is None else encode_rle(mask) for mask in masks],
    )


def image(image_id: str, *masks: np.ndarray) -> ImageBoxes:
    return ImageBoxes(
        image_id=image_id,
        split="train",
        size_hw=SIZE,
        boxes_xyxy=np.tile(np.float32([0, 0, 8, 8]), (len(masks), 1)),
        source=["grid"] * len(masks),
        points=Counter(),
        mask_rle=[encode_rle(mask) for mask in masks],
    )


def test_each_object_takes_the_mask_that_fits_it_best_whatever_the_boxes_say() -> None:
    images = [image("a", drawn(0, 0, 4, 4), drawn(0, 0, 4, 2)), image("b"), image("c", drawn(0, 0, 8, 8))]
    known = {
        "a": truth(drawn(0, 0, 4, 1), drawn(0, 0, 4, 4)),  # best: half of the second mask; all of the first
        "b": truth(drawn(0, 0, 4, 4)),  # no proposals
        "c": truth(None),  # an object with a box alone
    }
    (measured,) = measure(images, {"grid"}, lambda _: known, EvaluateConfig(), ("x", "y")).values()
    assert measured["mask_overlap"]["classes"] == {"x": 0.25, "y": 1.0}
    assert measured["mask_overlap"]["mean"] == 0.625


def test_difficult_objects_count_where_recall_counts_them() -> None:
    both = replace(truth(drawn(0, 0, 4, 4), drawn(6, 6, 8, 8)), difficult=np.array([False, True]))
    for include, mean in ((True, 0.5), (False, 1.0)):
        config = EvaluateConfig(include_difficult=include)
        (measured,) = measure(
            [image("a", drawn(0, 0, 4, 4))], {"grid"}, lambda _: {"a": both}, config, ("x", "y")
        ).values()
        assert measured["mask_overlap"]["mean"] == mean


def test_without_true_masks_there_is_no_overlap_and_without_being_asked_no_figure() -> None:
    boxes_alone = replace(truth(None), mask_rle=None)
    images = [image("a", drawn(0, 0, 4, 4))]
    (measured,) = measure(images, {"grid"}, lambda _: {"a": boxes_alone}, EvaluateConfig(), ("x", "y")).values()
    assert measured["mask_overlap"] == {"mean": None, "classes": {"x": None, "y": None}}
    (measured,) = measure(images, {"grid"}, lambda _: {"a": boxes_alone}, EvaluateConfig()).values()
    assert "mask_overlap" not in measured


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_a_run_measures_it_where_masks_are_kept(tmp_path: Path, kept: bool) -> None:
    settings = [
        "data.shapes.train=3", "data.shapes.val=2", "data.shapes.size=64", "prompts.points_per_side=3", "resources.here=true",
        "resources.cpus=1", f"proposals.keep_masks={str(kept).lower()}",
    ]  # fmt: skip
    recipe, _ = load_recipe("grid", settings, "shapes:")
    voice, run = Recorder(), Run(recipe, str(tmp_path / "run"))
    run.bring(["index", "propose", "evaluate.proposals", "report"], Options(), voice)
    for measured in Evaluation(run.instance("evaluate.proposals")).read()["splits"].values():
        assert ("mask_overlap" in measured) is kept
        assert not kept or 0 < measured["mask_overlap"]["mean"] <= 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("Average best overlap of the masks" in page) is kept
