"""What ``train-mil`` trains: a weakly-supervised detector on proposals and image-level labels (method 4.6, 4.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.products.proposal_boxes import boxes_by_image
from pipelines.store.tables import Rows
from pipelines.training.byte_cache import ByteCache
from pipelines.training.images import LabelledImage
from pipelines.training.schedules import MOMENTUM, milestones_passed, warmed_up
from pipelines.training.task import Losses, Position, Share, TrainingPlan, plan_of
from weaksam.boxes_np import resized_boxes
from weaksam.config import MilConfig
from weaksam.detectors.loading import build_detector, pixel_format
from weaksam.detectors.mil.base import WeakDetector
from weaksam.detectors.mil.samples import collate, prepare_proposals, training_sample
from weaksam.io.images import decode_at_least
from weaksam.random import derive_seed

Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # images [B, 3, H, W], boxes_xyxy [B, R, 4], real [B, R], labels [B, C]


@dataclass(frozen=True, kw_only=True)
class MilTask:
    """A ``TrainingTask`` of two phases: the detector's, and its adversary's where there is one."""

    config: MilConfig
    num_classes: int
    images: tuple[LabelledImage, ...]
    proposals: tuple[Rows, ...]
    cache_mib: int = 0

    @property
    def plan(self) -> TrainingPlan:
        """How much, in which order."""
        return plan_of(self.config, len(self.images))

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """Options of a recipe that take statistics over a pass."""
        return tuple(f"mil.detector.{name}" for name in self.config.detector.pass_statistics)

    def build_model(self) -> WeakDetector:
        """Return the detector with its initial weights."""
        return build_detector(self.config, self.num_classes)

    def build_optimizers(self, model: nn.Module) -> Sequence[torch.optim.Optimizer]:
        """Return the detector's optimiser and, if there is an adversary, the adversary's."""
        assert isinstance(model, WeakDetector)
        config = self.config
        if config.optimizer == "sgd":
            detector: torch.optim.Optimizer = torch.optim.SGD(
                model.parameter_groups(config), lr=config.lr, momentum=MOMENTUM
            )
        else:
            detector = torch.optim.Adam(model.parameter_groups(config), lr=config.lr)
        adversary = config.detector.adversary
        if adversary is None:
            return (detector,)
        learning = model.adversary_parameters()
        return (detector, torch.optim.Adam(learning, lr=adversary.lr, weight_decay=config.weight_decay))

    def lr_factors(self, at: Position) -> Sequence[float]:
        """Return the learning rates of ``at`` as shares of the peak: falling for the detector, growing for its adversary."""
        config, adversary = self.config, self.config.detector.adversary
        passed = milestones_passed(at, config.milestones, config.steps or config.epochs)
        detector = warmed_up(at.step, config.warmup_steps, config.warmup_factor) * 0.1**passed
        if adversary is None:
            return (detector,)
        warmth = warmed_up(at.step, adversary.warmup_steps, config.warmup_factor)
        return (detector, warmth * adversary.lr_growth**passed)

    def build_dataset(self) -> WeakImages:
        """Return the training images."""
        return WeakImages(self)

    def losses(self, model: nn.Module, batch: Batch, _at: Position, phase: int) -> Losses:
        """Return the detector's losses; the adversary descends on a small share of their negative."""
        assert isinstance(model, WeakDetector)
        losses = model.training_losses(*batch)
        adversary = self.config.detector.adversary
        if phase == 0 or adversary is None:
            return Losses(losses)
        return Losses({"adversary": -adversary.loss_weight * sum(losses.values(), torch.zeros(()))})

    def evaluate(self, _model: nn.Module, _share: Share) -> float | None:
        """Return None: the last weights are kept, for there are no boxes to judge by."""
        return None


class WeakImages:
    """The training views of a task, a ``TrainingDataset``."""

    def __init__(self, task: MilTask) -> None:
        self._task = task
        self._bytes = ByteCache(task.cache_mib)
        self._pixels = pixel_format(task.config)
        self.image_ids: Sequence[str] = [image.image_id for image in task.images]

    @cached_property
    def _proposals(self) -> Mapping[str, NDArray[np.float32]]:
        return boxes_by_image(self._task.proposals, self._task.config.proposal_sources)

    def load(self, index: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a view ``[3, h, w]``, its proposals ``[R, 4]`` in its pixels, and its labels bool ``[C]``."""
        config, image = self._task.config, self._task.images[index]
        pixels, size_hw = decode_at_least(self._bytes.read(image), max(config.scales))
        boxes = prepare_proposals(self._proposals[image.image_id], size_hw, config.min_box_side)
        boxes = resized_boxes(boxes, size_hw, (pixels.shape[0], pixels.shape[1]))
        seed = derive_seed(config.seed, "mil view", epoch, image.image_id)
        view, boxes_xyxy = training_sample(pixels, boxes, config, self._pixels, seed)
        labels = torch.zeros(self._task.num_classes, dtype=torch.bool)
        labels[list(image.labels)] = True
        return view, boxes_xyxy, labels

    def collate(self, samples: list[tuple[Tensor, Tensor, Tensor]]) -> Batch:
        """Return the padded batch of one pass."""
        views, boxes_xyxy, labels = zip(*samples, strict=True)
        return *collate(list(zip(views, boxes_xyxy, strict=True))), torch.stack(labels)
