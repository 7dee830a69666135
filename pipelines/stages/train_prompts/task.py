"""What ``train-prompts`` trains: contexts of prompts, for classes or for their maps (FMA method 3, 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipelines.products.label_maps import EncodedMaps
from pipelines.store.tables import Rows
from pipelines.training.byte_cache import ByteCache
from pipelines.training.images import LabelledImage
from pipelines.training.task import Losses, Position, Share, TrainingPlan
from weaksam.config import ClipConfig, PromptTrainingConfig, require
from weaksam.io.images import decode_image
from weaksam.label_maps import BACKGROUND, IGNORED, decode_label_map
from weaksam.losses.prompts import activation_loss, binary_loss, contrastive_loss, logits_of_maps
from weaksam.networks.clip.load import load_clip
from weaksam.networks.clip.softmax_cam import found_maps
from weaksam.random import derive_seed
from weaksam.segmentation.losses import pixel_cross_entropy
from weaksam.segmentation.prompted import PromptedClip
from weaksam.segmentation.views import prompt_view


class ViewBatch(NamedTuple):
    """Views of a pass."""

    pixels: Tensor  # [B, 3, S, S]
    positive: Tensor  # bool [B, C], classes of the whole images
    seeds: Tensor  # uint8 [B, S, S], or [B, 0, 0]


@dataclass(frozen=True, kw_only=True)
class PromptTask:
    """A ``TrainingTask`` of one phase."""

    clip: ClipConfig
    config: PromptTrainingConfig
    class_names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    seeds: Rows | None = None  # the table of their label maps, where maps are taught
    cache_mib: int = 0

    @property
    def plan(self) -> TrainingPlan:
        """How much, in which order."""
        config = self.config
        return TrainingPlan(
            images=len(self.images),
            steps=config.steps,
            batch_size=config.batch_size,
            seed=config.seed,
            precision=config.precision,
        )

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """Options of a recipe that take statistics over a pass: the published losses are means over what its images hold."""
        return ("train_prompts.objective",) if self.config.objective in ("contrastive", "activation") else ()

    def build_model(self) -> PromptedClip:
        """Return CLIP with prompts that have learnt nothing."""
        clip = load_clip(self.clip)
        patch, config = clip.architecture.patch, self.config
        require(config.crop_size % patch == 0, "crop_size", f"a multiple of {patch}, CLIP's patch", config.crop_size)
        return PromptedClip(clip, self.class_names, self.clip, config.layout, config.tuned_blocks)

    def build_optimizers(self, model: nn.Module) -> Sequence[torch.optim.Optimizer]:
        """Return SGD over the contexts, and over the blocks of the tower that are tuned."""
        assert isinstance(model, PromptedClip)
        config = self.config
        groups: list[dict[str, Any]] = [{"params": list(model.prompts.parameters())}]
        if len(model.tuned):
            groups.append({"params": list(model.tuned.parameters()), "lr": config.lr * config.tower_lr_factor})
        return (torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay),)

    def lr_factors(self, at: Position) -> Sequence[float]:
        """Return the learning rate of ``at`` as a share of its peak."""
        return (learning_rate(self.config, at.step) / self.config.lr,)

    def build_dataset(self) -> PromptViews:
        """Return the training images."""
        return PromptViews(self)

    def losses(self, model: nn.Module, batch: ViewBatch, _at: Position, _phase: int) -> Losses:
        """Return the loss of classes, or those of maps."""
        assert isinstance(model, PromptedClip)
        if not self.config.learns_seeds:
            return Losses(self._losses_of_classes(model, batch))
        present = batch.positive if self.config.pairs == "image" else classes_of(batch.seeds, len(self.class_names))
        maps = found_maps(model.clip, batch.pixels, present, model.texts(), differentiable=True).maps
        return Losses(self._losses_of_maps(maps, present, batch.seeds))

    def _losses_of_classes(self, model: PromptedClip, batch: ViewBatch) -> dict[str, Tensor]:
        if self.config.objective == "bce":
            return {"bce": binary_loss(model.logits(batch.pixels), batch.positive)}
        return {"contrastive": contrastive_loss(model.scores(batch.pixels), batch.positive)}

    def _losses_of_maps(self, maps: Tensor, present: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        image, class_index = present.nonzero(as_tuple=True)
        if self.config.objective == "activation":
            return activation_loss(maps, seeds, image, class_index)._asdict()
        images, height, width = seeds.shape
        logits = logits_of_maps(maps, image, class_index, len(self.class_names), (images, height, width))
        return {"pixels": pixel_cross_entropy(logits, seeds).mean()}

    def evaluate(self, _model: nn.Module, _share: Share) -> float | None:
        """Return None: the last contexts are kept, for there is nothing true to judge by."""
        return None


class PromptViews:
    """The training views of a task, a ``TrainingDataset``."""

    def __init__(self, task: PromptTask) -> None:
        self._task = task
        self._bytes = ByteCache(task.cache_mib)
        self.image_ids: Sequence[str] = [image.image_id for image in task.images]

    @cached_property
    def _seeds(self) -> EncodedMaps | None:
        return None if self._task.seeds is None else EncodedMaps(self._task.seeds)

    def load(self, index: int, epoch: int) -> ViewBatch:
        """Return one view, as a batch without its first axis."""
        task, image = self._task, self._task.images[index]
        encoded = None if self._seeds is None else self._seeds[image.image_id]
        seeds = None if encoded is None else decode_label_map(encoded, f"image {image.image_id}")
        seed = derive_seed(task.config.seed, "prompt view", epoch, image.image_id)
        pixels, cut = prompt_view(decode_image(self._bytes.read(image)), seeds, task.config, seed)
        positive = torch.zeros(len(task.class_names), dtype=torch.bool)
        positive[list(image.labels)] = True
        return ViewBatch(pixels, positive, cut)

    def collate(self, samples: list[ViewBatch]) -> ViewBatch:
        """Return the batch of one pass."""
        return ViewBatch(*(torch.stack(column) for column in zip(*samples, strict=True)))


def classes_of(seeds: Tensor, num_classes: int) -> Tensor:
    """Return which classes label maps hold: uint8 ``[B, H, W]`` -> bool ``[B, C]``."""
    held = torch.zeros(len(seeds), IGNORED + 1, dtype=torch.bool, device=seeds.device)
    held.scatter_(1, seeds.flatten(1).long(), True)
    return held[:, BACKGROUND + 1 : BACKGROUND + 1 + num_classes]


def learning_rate(config: PromptTrainingConfig, step: int) -> float:
    """Return the learning rate of a step: ``warmup_lr``, then a cosine from ``lr`` to 0 over the rest of the schedule."""
    if step < config.warmup_steps:
        return config.warmup_lr
    length = max(1, (config.schedule_steps or config.steps) - config.warmup_steps)
    return config.lr * (1 + math.cos(math.pi * min(1.0, (step - config.warmup_steps) / length))) / 2
