"""SIGKILL while masks are made, learnt from and detected, in a bucket: each row and step once, the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_run import killed_runs

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


def test_masks_are_made_learnt_from_and_detected_once_whatever_is_killed(tmp_path: Path) -> None:
    with killed_runs(tmp_path, RECIPE, (IN_SEGMENT, IN_TRAINING, IN_DETECT)) as runs:
        for name in ("segment", "detect.masks"):
            rows = runs.rows_are_once_and_the_same(name, images=IMAGES, before=2)
            assert any("'mask_rle': [{" in row for row in rows)
        runs.weights_are_the_same("retrain.masks", steps=STEPS, resumed_at=7)
