"""What ``retrain`` trains: a detector on pseudo ground truth (method 6.3, 7.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipelines.products.pseudo_labels import ImageMasks
from pipelines.store.tables import Rows
from pipelines.training.byte_cache import ByteCache
from pipelines.training.schedules import MOMENTUM, milestones_passed, warmed_up
from pipelines.training.task import Losses, Position, Share, TrainingPlan, plan_of
from weaksam.boxes_np import resized_boxes
from weaksam.config import RetrainConfig
from weaksam.detectors.loading import build_retrained
from weaksam.detectors.retrained.base import RetrainedDetector, Targets
from weaksam.detectors.retrained.samples import BoxBatch, box_sample, collate_boxes, learnable, least_side
from weaksam.io.images import decode_at_least
from weaksam.networks.pyramids import pixel_format
from weaksam.random import derive_seed
from weaksam.structures import PseudoGroundTruth


class BoxedImage(NamedTuple):
    """One image to learn from."""

    image_id: str
    uri: str
    content: str  # see ``weaksam.io.contents``
    truth: PseudoGroundTruth


@dataclass(frozen=True, kw_only=True)
class RetrainTask:
    """A ``TrainingTask`` of one phase."""

    config: RetrainConfig
    num_classes: int
    images: tuple[BoxedImage, ...]
    masks: Rows | None = None  # the table that masks are looked up in, where they are learnt; None = images have theirs
    cache_mib: int = 0

    @property
    def plan(self) -> TrainingPlan:
        """How much, in which order."""
        plan = plan_of(self.config, len(self.images))
        return replace(plan, keep=(preliminary_step(self.config, plan.steps),))

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """Options of a recipe that take statistics over a pass."""
        return tuple(f"retrain.detector.{name}" for name in self.config.detector.pass_statistics)

    def build_model(self) -> RetrainedDetector:
        """Return the detector with its initial weights."""
        return build_retrained(self.config, self.num_classes)

    def build_optimizers(self, model: nn.Module) -> Sequence[torch.optim.Optimizer]:
        """Return the one optimiser."""
        assert isinstance(model, RetrainedDetector)
        config = self.config
        groups = model.parameter_groups(config)
        if config.optimizer == "sgd":
            return (torch.optim.SGD(groups, lr=config.lr, momentum=MOMENTUM),)
        return (torch.optim.AdamW(groups, lr=config.lr),)

    def lr_factors(self, at: Position) -> Sequence[float]:
        """Return the learning rate of ``at`` as a share of its peak."""
        config = self.config
        warmth = warmed_up(at.step, config.warmup_steps, config.warmup_factor)
        passed = milestones_passed(at, config.milestones, config.steps or config.epochs)
        return (warmth * 0.1**passed,)

    def build_dataset(self) -> BoxedImages:
        """Return the training images."""
        return BoxedImages(self)

    def losses(self, model: nn.Module, batch: BoxBatch, at: Position, _phase: int) -> Losses:
        """Return the detector's losses, and what its loss drop counted."""
        assert isinstance(model, RetrainedDetector)
        return Losses(*model.training_losses(*batch, step=at.step))

    def evaluate(self, _model: nn.Module, _share: Share) -> float | None:
        """Return None: the last weights are kept, for there are no true boxes to judge by."""
        return None


def preliminary_step(config: RetrainConfig, steps: int) -> int:
    """Return after how many of a training's steps its losses are judged: where RoI drop begins, else two ninths (published).

    Until then the detector has learnt what most labels agree on, and not yet the noise.
    """
    start = config.detector.judged_at
    return start if 0 < start <= steps else math.ceil(steps * 2 / 9)


class BoxedImages:
    """The training views of a task, a ``TrainingDataset``."""

    def __init__(self, task: RetrainTask) -> None:
        self._task = task
        self._bytes = ByteCache(task.cache_mib)
        self._pixels = pixel_format(task.config.backbone)
        self.image_ids: Sequence[str] = [image.image_id for image in task.images]

    @cached_property
    def _masks(self) -> ImageMasks | None:
        return None if self._task.masks is None else ImageMasks(self._task.masks)

    def load(self, index: int, epoch: int) -> tuple[Tensor, Targets]:
        """Return a view ``[3, h, w]`` and the boxes in it."""
        config, image = self._task.config, self._task.images[index]
        seed = derive_seed(config.seed, "box view", epoch, image.image_id)
        truth = image.truth if self._masks is None else learnable(self._masks[image.image_id], config.min_box_side)
        pixels, size_hw = decode_at_least(self._bytes.read(image), least_side(config))
        boxes_xyxy = resized_boxes(truth.boxes_xyxy, size_hw, (pixels.shape[0], pixels.shape[1]))
        return box_sample(pixels, replace(truth, boxes_xyxy=boxes_xyxy), config, self._pixels, seed)

    def collate(self, samples: list[tuple[Tensor, Targets]]) -> BoxBatch:
        """Return the padded batch of one pass."""
        return collate_boxes(samples)
