"""A weakly-supervised detector: the best proposal of each label teaches the next branch, and nothing else is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from weaksam.config.mil import MilDetectorConfig
from weaksam.detectors.mil.base import WeakDetector
from weaksam.losses.mil import PseudoLabels, mine_top1
from weaksam.networks.roi_backbones import VggVariant


@dataclass(frozen=True, kw_only=True)
class PlainMilConfig(MilDetectorConfig):
    """Options of ``PlainMil``."""

    implementation: ClassVar[str] = f"{__name__}:PlainMil"

    name: str = "plain_mil"
    min_iou: float = 0.5  # with the best proposal, to get its class


class PlainMil(WeakDetector):
    """See ``WeakDetector``."""

    vgg = VggVariant(last_relu=True, ceil_mode=True, caffe_means_bgr=(104.0, 117.0, 124.0))
    predictor_std = 0.01
    background_in_streams = False
    image_loss_epsilon = 1e-6
    image_loss_mean = False
    refinement_epsilon = 1e-6
    regresses_boxes = False
    options: PlainMilConfig

    def mine(self, boxes_xyxy: Tensor, scores: Tensor, real: Tensor, labels: Tensor) -> PseudoLabels:
        """See ``WeakDetector``."""
        return mine_top1(boxes_xyxy, scores, real, labels, min_iou=self.options.min_iou)
