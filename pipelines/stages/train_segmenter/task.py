"""What ``train-segmenter`` trains: a segmenter on label maps (FMA method 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipelines.products.label_maps import EncodedMaps
from pipelines.store.tables import Rows
from pipelines.training.byte_cache import ByteCache
from pipelines.training.schedules import MOMENTUM, poly, warmed_up
from pipelines.training.task import Losses, Position, Share, TrainingPlan, plan_of
from weaksam.config import SegmenterConfig
from weaksam.errors import DataError, ImageError
from weaksam.io.images import decode_image
from weaksam.label_maps import decode_label_map
from weaksam.networks.pyramids import pixel_format
from weaksam.random import derive_seed
from weaksam.segmentation.segmenters.base import Segmenter
from weaksam.segmentation.segmenters.loading import build_segmenter
from weaksam.segmentation.segmenters.samples import MapBatch, collate_maps, map_sample


class MappedImage(NamedTuple):
    """One image to learn from; its label map is looked up where it is loaded."""

    image_id: str
    uri: str
    content: str  # see ``weaksam.io.contents``


@dataclass(frozen=True, kw_only=True)
class SegmenterTask:
    """A ``TrainingTask`` of one phase."""

    config: SegmenterConfig
    num_classes: int
    images: tuple[MappedImage, ...]
    label_maps: Rows
    cache_mib: int = 0

    @property
    def plan(self) -> TrainingPlan:
        """How much, in which order."""
        return plan_of(self.config, len(self.images))

    @property
    def pass_statistics(self) -> tuple[str, ...]:
        """Options of a recipe that take statistics over a pass."""
        return tuple(f"segmenter.network.{name}" for name in self.config.network.pass_statistics)

    def build_model(self) -> Segmenter:
        """Return the segmenter with its initial weights."""
        return build_segmenter(self.config, self.num_classes)

    def build_optimizers(self, model: nn.Module) -> Sequence[torch.optim.Optimizer]:
        """Return the one optimiser."""
        assert isinstance(model, Segmenter)
        config = self.config
        groups = model.parameter_groups(config)
        if config.optimizer == "sgd":
            return (torch.optim.SGD(groups, lr=config.lr, momentum=MOMENTUM),)
        return (torch.optim.AdamW(groups, lr=config.lr),)

    def lr_factors(self, at: Position) -> Sequence[float]:
        """Return the learning rate of ``at`` as a share of its peak."""
        config = self.config
        return (warmed_up(at.step, config.warmup_steps, config.warmup_factor) * poly(at, config.power),)

    def build_dataset(self) -> MappedImages:
        """Return the training images."""
        return MappedImages(self)

    def losses(self, model: nn.Module, batch: MapBatch, _at: Position, _phase: int) -> Losses:
        """Return the segmenter's losses."""
        assert isinstance(model, Segmenter)
        return Losses(model.training_losses(*batch))

    def evaluate(self, _model: nn.Module, _share: Share) -> float | None:
        """Return None: the last weights are kept, for there are no true masks to judge by."""
        return None


class MappedImages:
    """The training views of a task, a ``TrainingDataset``."""

    def __init__(self, task: SegmenterTask) -> None:
        self._task = task
        self._bytes = ByteCache(task.cache_mib)
        self._pixels = pixel_format(task.config.backbone)
        self.image_ids: Sequence[str] = [image.image_id for image in task.images]

    @cached_property
    def _maps(self) -> Mapping[str, bytes]:
        return EncodedMaps(self._task.label_maps)

    def load(self, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Return a view ``[3, S, S]`` and its label map ``[S, S]``."""
        config, image = self._task.config, self._task.images[index]
        try:
            label_map = decode_label_map(self._maps[image.image_id], self._task.label_maps.folder)
        except DataError as error:
            raise ImageError("unreadable label map", str(error)) from error
        seed = derive_seed(config.seed, "map view", epoch, image.image_id)
        return map_sample(decode_image(self._bytes.read(image)), label_map, config, self._pixels, seed)

    def collate(self, samples: list[tuple[Tensor, Tensor]]) -> MapBatch:
        """Return the batch of one pass."""
        return collate_maps(samples)
