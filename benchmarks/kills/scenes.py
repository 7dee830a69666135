"""What is killed at: commands on a small recipe of drawn images, how they get on, and how much of what is killed in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

Kind = Literal["node", "actor", "worker", "driver"]  # a worker trains, an actor does anything else

IMAGES = 96  # that are learnt from
PREPARED = "retrain.masks"  # the last instance that is made beforehand, for the scenes that read it
ACTOR = re.compile(r"ray::(MapWorker|ImplicitFunc|_?[Ww]ork\b|.*trainable)", re.IGNORECASE)
WORKER = re.compile(r"ray::(RayTrainWorker|.*TrainWorker)")

RECIPE = """
base: shapes-tuning.yaml
name: kills
description: "What is killed at: all stages, as small as they can be"
data: {shapes: {train: IMAGES, val: 16, test: 16, size: 64}}
stages:
  - index
  - propose
  - train-mil
  - detect.mil
  - label
  - segment
  - retrain.masks: {learn_from: segment, steps: 60, detector: {name: mask_rcnn, anchor_sides: [12, 24, 48], pyramid_dim: 16,
      head_dim: 32, mask_dims: [16]}}
  - evaluate.label
  - retrain
  - detect.final
  - evaluate.final
  - detect.masks: {model: retrain.masks}
propose: {splits: [train]}
clues: {source: none}
prompts: {sources: [grid], points_per_side: 3}
mil: {scales: [64], steps: 300, epochs: 0, batch_size: 2, min_box_side: 8, warmup_steps: 2}
detect: {scales: [64]}
retrain:
  init: ""
  scales: [64]
  steps: 300
  epochs: 0
  batch_size: 2
  detector: {anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 32, drop: {start_step: 0}}
  test: {scales: [64]}
resources: {device: cpu, threads_per_actor: 1, rows_per_task: 1}
"""
SWEEP = """
description: "What is killed at"
recipe: RECIPE
set: [retrain.steps=20]
space:
  pseudo_labels.tau_s: [0.1, 0.3, 0.6]
  retrain.lr: [0.0005, 0.001]
objective: ap50
resources: {concurrency: 2, cpus: 1}
"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A command, and what happens to it."""

    name: str
    command: tuple[str, ...]  # of weaksam, without the run folder and the address
    settings: tuple[str, ...] = ()
    on_prepared: bool = True  # or in an empty run folder
    share: int  # of all kills, in per cent
    kinds: dict[Kind, int]  # how often each, for so many kills together
    progress: Callable[[Path], int]  # of a run folder; it grows
    steps: int  # of progress between two kills, at least

    def plan(self, kills: int, random: Random) -> list[Kind]:
        """Return what is killed, one after the other: in the scene's shares, in an order of chance."""
        each = sum(self.kinds.values())
        deck = [kind for kind, count in self.kinds.items() for _ in range(count)]
        random.shuffle(deck)
        return [deck[n % each] for n in range(kills)]


def _parts(name: str) -> Callable[[Path], int]:
    return lambda run: sum(1 for _ in run.glob(f"{name}/*/part-*.parquet"))


def _steps(name: str) -> Callable[[Path], int]:
    """Count the steps of all trainings, each up to its newest checkpoint: there may be one that was made beforehand."""

    def progress(run: Path) -> int:
        of_each = ([_step(path) for path in folder.rglob("step-*.pt")] for folder in run.glob(f"{name}/*/checkpoints"))
        return sum(max(steps, default=0) for steps in of_each)

    return progress


def _step(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


def _finished(run: Path) -> int:
    """Return how many instances, parts and trials there are."""
    patterns = ("*/*/_manifest.json", "*/*/_sets/*.manifest.json", "*/*/part-*.parquet", "tune/*/trials/*.json")
    return sum(1 for pattern in patterns for _ in run.glob(pattern))


def any_progress(run: Path) -> int:
    """Count what is finished and the steps of all trainings: it stands still only if nothing at all gets on."""
    return _finished(run) + _steps("*")(run)


SCENES = (
    Scene(
        name="propose", command=("propose",), on_prepared=False, share=30,
        kinds={"actor": 19, "node": 8, "driver": 3}, progress=_parts("propose"), steps=2,
    ),
    Scene(
        name="detect", command=("detect", "--label", "mil"), settings=("detect.scales=[72]",), share=20,
        kinds={"actor": 12, "node": 5, "driver": 3}, progress=_parts("detect.mil"), steps=2,
    ),
    Scene(
        name="train-mil", command=("train-mil",), settings=("mil.seed=1", "resources.train_workers=2"), share=10,
        kinds={"worker": 5, "node": 3, "driver": 2}, progress=_steps("train-mil"), steps=2,
    ),
    Scene(
        name="retrain", command=("retrain",), settings=("resources.train_workers=1",), share=10,
        kinds={"worker": 5, "node": 3, "driver": 2}, progress=_steps("retrain"), steps=2,
    ),
    Scene(
        name="segment", command=("segment",), settings=("segment.clip=true",), share=5,
        kinds={"actor": 3, "node": 1, "driver": 1}, progress=_parts("segment"), steps=2,
    ),
    Scene(
        name="retrain-masks", command=("retrain", "--label", "masks"), share=5,
        settings=("retrain.masks.seed=1", "retrain.masks.steps=300", "resources.train_workers=1"),
        kinds={"worker": 3, "node": 1, "driver": 1}, progress=_steps("retrain.masks"), steps=2,
    ),
    Scene(
        name="detect-masks", command=("detect", "--label", "masks"), share=5,
        kinds={"actor": 3, "node": 1, "driver": 1}, progress=_parts("detect.masks"), steps=2,
    ),
    Scene(
        name="tune", command=("tune",), share=15,
        kinds={"actor": 9, "node": 4, "driver": 2}, progress=_finished, steps=2,
    ),
)  # fmt: skip
