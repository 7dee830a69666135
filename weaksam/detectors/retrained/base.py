"""What retrained detectors share: pseudo ground truth in, classified and scored boxes out, and masks (method 6, 7, 8).

A detector brings its network, its losses, which stay per instance until its loss drop (``losses/drop.py``) has had them, and
its predictions for one view. ``samples.py`` makes the views, ``inference.py`` joins what several views of an image say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from weaksam.config import RetrainConfig, RetrainedDetectorConfig
from weaksam.losses.history import LossHistory
from weaksam.networks.parameter_groups import parameter_groups
from weaksam.networks.pyramids import Pyramid, build_pyramid
from weaksam.precision import require_finite

PRECISION_OPTION = "retrain.test.precision"  # for messages


class Targets(NamedTuple):
    """The pseudo ground truth of one view; may be empty."""

    boxes_xyxy: Tensor  # float32 [N, 4], pixels of the view
    class_index: Tensor  # int64 [N], 0..C-1
    masks: Tensor | None = None  # uint8 [N, cells, cells], see ``mask_targets``; where the detector learns from masks


class TrainingLosses(NamedTuple):
    """What a training pass says; every value is a float32 scalar."""

    losses: dict[str, Tensor]  # weighted already: their sum is the loss
    counts: dict[str, Tensor]  # instances per image, without gradient: what there was and what was dropped


class ViewDetections(NamedTuple):
    """What a detector finds in one view; on the detector's device."""

    boxes_xyxy: Tensor  # float32 [N, 4], pixels of the view, cut to it
    class_index: Tensor  # int64 [N]
    score: Tensor  # float32 [N] in [0, 1], falling
    masks: Tensor | None = None  # float32 [N, m, m] in [0, 1], on a grid of each box: the object above .5


class RetrainedDetector(nn.Module, ABC):
    """A detector with random weights whose backbone may start from a classifier's."""

    backbone: Pyramid
    options: RetrainedDetectorConfig  # of the chosen detector

    def __init__(self, config: RetrainConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.options = config.detector
        self.num_classes = num_classes
        # Of a training whose loss drop leaves thresholds to its losses; not a part of the weights that are kept.
        self.loss_history: LossHistory[Any] | None = None
        self.backbone = build_pyramid(config.backbone)
        self.backbone.freeze(config.freeze_stages, "freeze_stages")

    @abstractmethod
    def training_losses(self, images: Tensor, sizes_hw: Tensor, targets: list[Targets], step: int) -> TrainingLosses:
        """Compute the parts of the loss of a batch.

        Args:
            images: normalised views ``[B, 3, H, W]``, 0 right of and below each view, sides multiples of 32.
            sizes_hw: int64 ``[B, 2]``, height and width of each view in pixels.
            targets: of each of the B views.
            step: of the training, from 0; a loss drop begins at one.

        Returns:
            Always the same names in the same order. The losses are normalised as the method says, over the whole batch.
        """

    @abstractmethod
    def predict(self, images: Tensor, sizes_hw: Tensor) -> list[ViewDetections]:
        """Find the objects of each view, in evaluation mode whatever the mode was and without gradient.

        ``config.test`` says which scores are enough, how one view's boxes are suppressed and how many are kept.

        Args:
            images: as in ``training_losses``.
            sizes_hw: as in ``training_losses``.

        Raises:
            ConfigError: what it computed is no number; a threshold would let nothing of that pass.
        """

    def require_numbers(self, *values: Tensor) -> None:
        """Raise ConfigError where ``predict`` computed NaN or infinite numbers, see ``require_finite``."""
        for computed in values:
            require_finite(computed, PRECISION_OPTION, self.config.test.precision)

    def chosen_thresholds(self) -> dict[str, float]:
        """Return the thresholds that the losses have chosen so far, by their names in the recipe."""
        return {} if self.loss_history is None else self.loss_history.chosen()

    def parameter_groups(self, config: RetrainConfig) -> list[dict[str, Any]]:
        """Group what learns for an optimiser: the backbone at ``backbone_lr_factor`` times ``lr``, all else at ``lr``."""
        return parameter_groups(self, self.backbone, config)
