"""What ``train-classifier`` trains: a clue network on image-level labels, by WeakTr's recipe (method 1.4, 1.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.training.byte_cache import ByteCache
from pipelines.training.images import LabelledImage
from pipelines.training.task import ALONE, Losses, Position, Share, TrainingPlan, steps_of
from weaksam.clues.base import ClueNetwork
from weaksam.clues.loading import build_classifier
from weaksam.config import ClassifierConfig, ClueNetworkConfig
from weaksam.errors import ImageError
from weaksam.io.files import read_bytes
from weaksam.io.images import decode_image
from weaksam.metrics.classification import ClassificationScores, classification_scores
from weaksam.random import derive_seed
from weaksam.transforms import evaluation_view, least_side, training_view

PUBLISHED_BATCH = 512  # base_lr is the learning rate of a batch of this size


@dataclass(frozen=True, kw_only=True)
class ClassifierTask:
    """A ``TrainingTask``."""

    source: ClueNetworkConfig
    config: ClassifierConfig
    num_classes: int
    images: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...] = ()  # judges the weights; empty = the last ones are taken
    cache_mib: int = 0

    @property
    def plan(self) -> TrainingPlan:
        """How much, in which order."""
        config, images = self.config, len(self.images)
        return TrainingPlan(
            images=images,
            steps=steps_of(images, config.epochs, config.batch_size),
            batch_size=config.batch_size,
            seed=config.seed,
            precision=config.precision,
        )

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """Options of a recipe that take statistics over a pass."""
        return tuple(f"clues.source.{name}" for name in self.source.pass_statistics)

    def build_model(self) -> ClueNetwork:
        """Return the network with its initial weights."""
        return build_classifier(self.source, self.num_classes)

    def build_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Return AdamW over everything that learns; decay spares nothing, as published."""
        learning = [p for p in model.parameters() if p.requires_grad]
        return [torch.optim.AdamW(learning, lr=peak_lr(self.config), weight_decay=self.config.weight_decay)]

    def lr_factors(self, at: Position) -> list[float]:
        """Return the learning rate of ``at`` as a share of its peak."""
        return [learning_rate(self.config, math.floor(at.epoch)) / peak_lr(self.config)]

    def build_dataset(self) -> LabelledImages:
        """Return the training images."""
        return LabelledImages(self)

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor], _at: Position, _phase: int) -> Losses:
        """Return the network's own loss on views ``[B, 3, S, S]`` and multi-hot targets ``[B, C]``."""
        assert isinstance(model, ClueNetwork)
        return Losses({"labels": model.training_loss(*batch)[0]})

    def evaluate(self, model: nn.Module, share: Share) -> float | None:
        """Return the mean average precision on the validation images, or None without any."""
        assert isinstance(model, ClueNetwork)
        if not self.validation:
            return None
        return score_classifier(model, self.validation, self.config.crop_size, share).mean_ap


class LabelledImages:
    """The training views of a task, a ``TrainingDataset``."""

    def __init__(self, task: ClassifierTask) -> None:
        self._task = task
        self._bytes = ByteCache(task.cache_mib)
        self.image_ids: Sequence[str] = [image.image_id for image in task.images]

    def load(self, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return a view float32 ``[3, S, S]`` and its multi-hot target float32 ``[C]``."""
        config, image = self._task.config, self._task.images[index]
        view = training_view(
            decode_image(self._bytes.read(image), least_side=least_side(config.crop_size, config.min_crop_scale)),
            crop_size=config.crop_size,
            min_crop_scale=config.min_crop_scale,
            augmentation=config.augmentation,
            seed=derive_seed(config.seed, "view", epoch, image.image_id),
        )
        target = torch.zeros(self._task.num_classes)
        target[list(image.labels)] = 1
        return view, target

    def collate(self, samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return views ``[B, 3, S, S]`` and targets ``[B, C]``."""
        views, targets = zip(*samples, strict=True)
        return torch.stack(views), torch.stack(targets)


def peak_lr(config: ClassifierConfig) -> float:
    """Return the learning rate before it decays, scaled with the batch."""
    return config.base_lr * config.batch_size / PUBLISHED_BATCH


def learning_rate(config: ClassifierConfig, epoch: int) -> float:
    """Return the learning rate of a whole epoch (from 0): a linear warm-up, then a cosine down to ``min_lr``.

    The published loop sets the rate after each epoch from that epoch's number: epochs 0 and 1 both run at the rate of
    number 0, and from there everything is one epoch late. The cosine counts from the start, not from the warm-up's end.
    """
    number, peak = max(epoch - 1, 0), peak_lr(config)
    if number < config.warmup_epochs:
        return config.warmup_lr + (peak - config.warmup_lr) * number / config.warmup_epochs
    return config.min_lr + (peak - config.min_lr) * (1 + math.cos(math.pi * number / config.epochs)) / 2


@torch.no_grad()
def score_classifier(
    network: ClueNetwork, images: Sequence[LabelledImage], crop_size: int, share: Share = ALONE
) -> ClassificationScores:
    """Score the class logits of central views against image labels, image by image; unreadable images are left out.

    Where the work is shared each worker looks at its own images, and gets the scores of all.
    """
    network.eval()
    device = next(network.parameters()).device
    mine: list[np.ndarray | None] = []
    for image in share.of(images):
        try:
            pixels = decode_image(read_bytes(image.uri), least_side=least_side(crop_size))
        except ImageError:
            mine.append(None)
            continue
        view = evaluation_view(pixels, crop_size=crop_size).to(device)
        mine.append(network.classify(view[None])[0].float().cpu().numpy())
    seen = [(one, image.labels) for one, image in zip(share.together(mine), images, strict=True) if one is not None]
    logits = np.reshape([one for one, _ in seen], (len(seen), network.num_classes))
    return classification_scores(logits, [labels for _, labels in seen])
