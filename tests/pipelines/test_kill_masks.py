"""SIGKILL while masks are made, learnt from and detected, in a bucket: each row and step once, the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.registry import product_of
from pipelines.stages.retrain.stage import TrainedDetector
from pipelines.store.identities import identities
from pipelines.store.instances import finished_instance
from pipelines.training.trained import Steps
from tests.support.dying import weaksam
from tests.support.s3_server import s3_server
from tools.compare_runs import compare_weights
from weaksam.io.files import join, read_bytes

pytestmark = pytest.mark.long

RECIPE = """
base: shapes-tuning.yaml
name: masks
stages:
  - index
  - true-boxes.truth: {noise: 0.0}
  - segment: {labels: true-boxes.truth}
  - retrain.masks: {learn_from: segment, detector: {name: mask_rcnn, anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 32,
      mask_dims: [8]}}
  - detect.masks: {model: retrain.masks, splits: [train]}
data: {shapes: {train: 5, val: 0, test: 0, size: 64}, splits: [train]}
retrain: {init: "", scales: [64], steps: 20, epochs: 0, batch_size: 2, lr: 0.002, test: {scales: [64], score_threshold: 0.0}}
resources: {here: true, cpus: 1, rows_per_task: 1}
"""
IMAGES, STEPS = 5, 20
IN_SEGMENT = {"module": "pipelines.dataflow.passes", "name": "_write", "calls": 2, "after": True}
IN_DETECT = {**IN_SEGMENT, "calls": 3, "after": False}
IN_TRAINING = {"module": "pipelines.training.checkpoints", "name": "write_large", "calls": 7, "after": True}  # steps


def rows_of(run: str, name: str) -> list[str]:
    """The rows of a table as text, by id, after a look that none is there twice and that some have masks."""
    product = product_of(finished_instance(run, name))
    found = identities(product.instance.table(product.schema))
    assert found.group_by(["image_id", "input"]).aggregate([]).num_rows == found.num_rows == IMAGES
    rows = sorted(product.table.iter_rows(), key=lambda row: row["image_id"])
    assert any(row["mask_rle"] for row in rows)
    return [repr(row) for row in rows]


def detector_of(run: str) -> TrainedDetector:
    product = product_of(finished_instance(run, "retrain.masks"))
    assert isinstance(product, TrainedDetector)
    return product


def test_masks_are_made_learnt_from_and_detected_once_whatever_is_killed(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with s3_server("masks") as bucket:
        run, undisturbed = join(bucket, "run"), join(bucket, "undisturbed")
        command = ["run", str(tmp_path / "recipe.yaml"), "--data", "shapes:", "--out"]
        for dying in (IN_SEGMENT, IN_TRAINING, IN_DETECT):
            weaksam(*command, run, dying=dying)
        weaksam(*command, run)
        weaksam(*command, undisturbed)
        for name in ("segment", "detect.masks"):
            done = product_of(finished_instance(run, name)).facts.text
            assert f"images {IMAGES} = done {IMAGES} (2 from before) + dropped 0 · duplicates 0" in done
            assert rows_of(run, name) == rows_of(undisturbed, name)
        detector = detector_of(run)
        assert detector.facts.steps == Steps(planned=STEPS, done=STEPS, resumed_at=7)
        of_both = [read_bytes(of.instance.file(of.weights_file)) for of in (detector, detector_of(undisturbed))]
        compared, differences = compare_weights(*of_both)
        assert compared
        assert differences == []
