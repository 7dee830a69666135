"""A run up to the teacher's detections, finished without training anything: true boxes, jittered, with scores that tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.engine.stage import Options
from pipelines.recipe.model import Recipe
from pipelines.runner import Run
from pipelines.store.schemas import DETECTIONS, detections_to_row, with_class_names
from weaksam.datasets import open_dataset
from weaksam.structures import Detections

TEACHER = ("detect.mil", "detect.mil-plain", "detect.mil-mirrored")

RECIPE = """
base: shapes-tuning.yaml
data: {shapes: {train: 12, val: 6, test: 6, size: 64}}
retrain:
  init: ""
  scales: [64]
  steps: 4
  epochs: 0
  batch_size: 4
  detector: {anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 32, drop: {start_step: 0}}
  test: {scales: [64]}
"""

SWEEP = """
description: "a sweep of a test"
recipe: RECIPE
space:
  pseudo_labels.tau_s: [0.1, 0.6]
  evaluate.voc_style: [devkit, chainer]
objective: pseudo_f1
also: [label_agreement]
"""


def write_files(folder: Path, sweep: str = SWEEP) -> Path:
    """Write a recipe and a sweep over it; return where the sweep is."""
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "sweep.yaml").write_text(sweep.replace("RECIPE", str(folder / "recipe.yaml")))
    return folder / "sweep.yaml"


def finish_upstream(recipe: Recipe, run_uri: str) -> None:
    """Finish everything up to the teacher's detections; ``index`` is the real one."""
    dataset = open_dataset(recipe.data)
    run = Run(recipe, run_uri)
    run.bring(["index"], Options())
    for name in run.needed_for(*TEACHER):
        resolved = run.resolve(name)
        instance = resolved.instance
        if name == "index":
            continue
        instance.begin(resolved.parts)
        if name in TEACHER:
            rows = []
            truth = {i: t for split in ("train", "val") for i, t in dataset.ground_truth(split).items()}
            for planned in instance.planned_rows().to_pylist():
                image_id = planned["image_id"]
                if image_id in truth:
                    objects = truth[image_id]
                    found = jittered(objects.boxes_xyxy, objects.class_index, seed=f"{name} {image_id}")
                    rows.append(detections_to_row(image_id, planned["input"], (64, 64), found))
            instance.table(with_class_names(DETECTIONS, dataset.class_names)).write_rows(rows, "part-0")
        instance.finish({"reads": resolved.read(), "text": "by hand"})


def jittered(boxes_xyxy: np.ndarray, class_index: np.ndarray, seed: str) -> Detections:
    """Every object once well and once badly, the bad ones with lower scores."""
    rng = np.random.default_rng(list(seed.encode()))
    good = boxes_xyxy + rng.normal(0, 1, boxes_xyxy.shape)
    bad = boxes_xyxy + rng.normal(0, 12, boxes_xyxy.shape)
    boxes = np.concatenate([good, bad]).clip(0, 64).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1).clip(0, 65)
    return Detections(
        boxes_xyxy=boxes,
        class_index=np.concatenate([class_index, class_index]).astype(np.int64),
        score=np.concatenate([rng.uniform(0.6, 1, len(good)), rng.uniform(0, 0.5, len(bad))]).astype(np.float32),
        image_scores=np.bincount(class_index, minlength=6).clip(0, 1).astype(np.float32),
    )
