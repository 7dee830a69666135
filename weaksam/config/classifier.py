"""Options of the training of a clue network on image-level labels (WeakTr's VOC12 recipe, method 1.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weaksam.config.checks import require
from weaksam.config.precision import TrainingPrecision


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Training of the classifier on image-level labels (WeakTr's VOC12 recipe, method 1.5)."""

    epochs: int = 60
    batch_size: int = 64  # images per step over all workers
    base_lr: float = 6e-4  # learning rate = base_lr * batch_size / 512
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: int = 5
    weight_decay: float = 0.03
    crop_size: int = 224  # pixels, square training crop
    min_crop_scale: float = 0.08  # smallest share of the image's area in a random resized crop
    # "flip": resized crop + mirror; "deit": + RandAugment, erasing.
    augmentation: Literal["none", "flip", "deit"] = "deit"
    select: Literal["last", "best-map"] = "last"  # weights handed on; best-map judges by a held-out tenth of the images
    precision: TrainingPrecision = "fp32"
    seed: int = 504  # published

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "crop_size"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        require(self.base_lr > 0, "base_lr", "a positive number", self.base_lr)
        require(0 < self.min_crop_scale <= 1, "min_crop_scale", "(0, 1]", self.min_crop_scale)
