"""SIGKILL in every stage that label maps are made by, in a bucket: each row and step once, the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_run import killed_runs
from weaksam.io.files import join, read_bytes

pytestmark = pytest.mark.long

RECIPE = """
base: shapes-fma.yaml
name: label-maps
stages: [index, superpixels, train-prompts, seeds.coarse, train-prompts.maps, seeds.fine, train-segmenter, predict-maps,
  evaluate.maps, report]
data: {splits: [train], shapes: {train: 4, val: 0, test: 0, size: 64}}
superpixels: {points_per_side: 4, min_predicted_iou: 0.5, min_stability: 0.5}
train_prompts: {steps: 6, warmup_steps: 1, batch_size: 2, long_side: [64, 80], crop_size: 64}
seeds: {scale: 1.0}
segmenter: {steps: 6, batch_size: 2, side: 64, crop_side: 64, network: {name: deeplab, dim: 16, fine_dim: 16}}
predict_maps: {splits: [train]}
instances: {train-prompts.maps: {steps: 6, warmup_steps: 1}}
resources: {here: true, cpus: 1, rows_per_task: 1}
"""
IMAGES, STEPS = 4, 6
AFTER_TWO_ROWS = {"module": "pipelines.dataflow.passes", "name": "_write", "calls": 2, "after": True}
AFTER_THREE_STEPS = {"module": "pipelines.training.checkpoints", "name": "write_large", "calls": 3, "after": True}
BEFORE_FIGURES = {"module": "pipelines.products.measured", "name": "write_json", "calls": 1, "after": False}
BEFORE_THE_RUNS_PAGE = {"module": "pipelines.report.stage", "name": "write_bytes", "calls": 1, "after": True}
# Each in a stage behind that of the last: what it counts happens nowhere before in its process.
DEATHS = (
    AFTER_TWO_ROWS,  # superpixels
    AFTER_THREE_STEPS,  # train-prompts
    AFTER_TWO_ROWS,  # seeds.coarse
    AFTER_THREE_STEPS,  # train-prompts.maps
    AFTER_TWO_ROWS,  # seeds.fine
    AFTER_THREE_STEPS,  # train-segmenter
    AFTER_TWO_ROWS,  # predict-maps
    BEFORE_FIGURES,
    BEFORE_THE_RUNS_PAGE,
)


def test_label_maps_are_made_and_learnt_from_once_whatever_is_killed(tmp_path: Path) -> None:
    with killed_runs(tmp_path, RECIPE, DEATHS) as runs:
        for name in ("superpixels", "seeds.coarse", "seeds.fine", "predict-maps"):
            runs.rows_are_once_and_the_same(name, images=IMAGES, before=2)
        for name in ("train-prompts", "train-prompts.maps", "train-segmenter"):
            runs.weights_are_the_same(name, steps=STEPS, resumed_at=3)
        runs.figures_are_the_same("evaluate.maps")
        for run in (runs.killed, runs.undisturbed):
            assert b"mean IoU" in read_bytes(join(run, "report.html"))
