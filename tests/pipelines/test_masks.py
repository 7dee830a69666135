"""From pseudo boxes to the masks of new images: every stage of it, on drawings, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.engine.stage import Options
from pipelines.evaluate.detected_masks import BOXES, ELLIPSES, GRABCUT, GRABCUT_BESIDE, MASKS
from pipelines.exchange.true_boxes import run_export_true_boxes
from pipelines.products.detections import DetectionTable
from pipelines.products.measured import Evaluation
from pipelines.recipe.model import load_recipe
from pipelines.recipe.yaml_text import render
from pipelines.registry import active
from pipelines.runner import Run
from weaksam.datasets.shapes import data_set_seed, draw
from weaksam.errors import ConfigError
from weaksam.masks_np import decode_rle

RECIPE = """
base: shapes-tuning.yaml
name: masks
stages:
  - index
  - segment: {labels: true-boxes.truth}
  - evaluate.segment
  - retrain.masks: {learn_from: segment, detector: {name: mask_rcnn, anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 32,
      mask_dims: [16, 16]}}
  - detect.masks: {model: retrain.masks}
  - evaluate.masks: {of: detect.masks}
  - report
data: {shapes: {train: 12, val: 4, test: 2, size: 64}}
evaluate: {grabcut_images: 1}
retrain: {init: "", scales: [64], steps: 12, epochs: 0, batch_size: 4, lr: 0.002, test: {scales: [64], flip: true}}
resources: {here: true, cpus: 1}
"""


@pytest.mark.slow
def test_masks_of_new_images_from_boxes_of_others(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, origins = load_recipe(str(tmp_path / "recipe.yaml"), [], "shapes:")
    run = str(tmp_path / "run")
    Run(recipe, run).bring(["index"], Options())
    (tmp_path / "run" / "recipe.yaml").write_text(render(recipe, origins))
    run_export_true_boxes(run, name="truth")
    manifests = Run(recipe, run).bring(active(recipe), Options())
    assert {manifests[name]["supervision"] for name in ("segment", "retrain.masks", "detect.masks")} == {"boxes"}
    detected = DetectionTable(Run(recipe, run).instance("detect.masks"))
    found = 0
    for image in detected.images():
        masks = image.detections.mask_rle
        assert masks is not None
        for rle, (x1, y1, x2, y2) in zip(masks, image.detections.boxes_xyxy.tolist(), strict=True):
            y, x = np.nonzero(decode_rle(rle))
            assert rle["size"] == list(image.size_hw)
            assert ((x + 0.5 > x1) & (x + 0.5 < x2) & (y + 0.5 > y1) & (y + 0.5 < y2)).all()
            found += len(x) > 0
    assert found
    measured = Evaluation(Run(recipe, run).instance("evaluate.masks")).read()["detections"]["val"]
    rows = {row["name"]: row for row in measured["masks"]["rows"]}
    assert list(rows) == [MASKS, BOXES, ELLIPSES, GRABCUT, GRABCUT_BESIDE]
    assert all(
        0 <= row[key] <= 1 for row in rows.values() for key in ("ap", "ap25", "ap50", "ap70", "ap75", "ap50_area")
    )
    page = (tmp_path / "run" / "report.html").read_text()
    for shown in ('id="pseudo-masks"', "beside the true ones. Worst:", "AP50 of masks", "AP70", "GrabCut"):
        assert shown in page

    new = tmp_path / "new"
    new.mkdir()
    for index in range(2):
        Image.fromarray(draw(data_set_seed(7, "test", index), 64).image).save(new / f"{index}.png")
    out = tmp_path / "predicted"
    arguments = ["predict", run, "--data", str(new), "--out", str(out), "--score", "0.01", "--pictures", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (annotations,) = (json.loads(path.read_text())["annotations"] for path in (out / "coco").rglob("*.json"))
    assert annotations
    for annotation in annotations:
        segmentation = annotation["segmentation"]
        mask = decode_rle({**segmentation, "counts": segmentation["counts"].encode()})
        assert mask.shape == (64, 64)
        assert annotation["area"] == mask.sum()
    assert len(list((out / "pictures").rglob("*.jpg"))) == 2


def test_a_detector_of_masks_that_would_learn_from_boxes_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, _ = load_recipe(str(tmp_path / "recipe.yaml"), ["retrain.masks.learn_from=true-boxes.truth"], "shapes:")
    run = Run(recipe, str(tmp_path / "run"))
    run.bring(["index"], Options())
    run_export_true_boxes(str(tmp_path / "run"), name="truth")
    with pytest.raises(
        ConfigError, match="an instance of segment, true-masks or import-masks, which have masks, with mask_rcnn"
    ):
        run.bring(["retrain.masks"], Options())
