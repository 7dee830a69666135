"""MIST (Ren et al., CVPR 2020) as WeakSAM trains it: several instances per class, and boxes that move (method 4.2, 4.4, 4.5).

Every branch also learns where the box should go, class by class. Both streams have a background column, which no image
has. On VOC an adversary hides parts of the proposals (``dropblock.py``).
"""

from __future__ import annotations

from torch import Tensor

from weaksam.config import MistConfig
from weaksam.detectors.mil.base import WeakDetector
from weaksam.detectors.mil.dropblock import ConcreteDropBlock
from weaksam.losses.mil import PseudoLabels, mine_mist
from weaksam.networks.roi_backbones import VggVariant


class Mist(WeakDetector):
    """MIST; see ``WeakDetector``."""

    vgg = VggVariant(last_relu=False, ceil_mode=False, caffe_means_bgr=(102.98, 115.95, 122.77))
    predictor_std = 0.001
    background_in_streams = True
    image_loss_epsilon = 1e-8
    image_loss_mean = True
    refinement_epsilon = 0.0
    regresses_boxes = True
    options: MistConfig

    def mine(self, boxes_xyxy: Tensor, scores: Tensor, real: Tensor, labels: Tensor) -> PseudoLabels:
        """See ``WeakDetector``."""
        options = self.options
        return mine_mist(
            boxes_xyxy,
            scores,
            real,
            labels,
            share=options.share,
            max_overlap=options.max_overlap,
            min_iou=options.min_iou,
        )

    def branch_weight(self, branch: int) -> float:
        """See ``WeakDetector``."""
        return self.options.first_branch_weight if branch == 0 else 1.0

    def build_adversary(self) -> ConcreteDropBlock | None:
        """See ``WeakDetector``."""
        options = self.options.dropblock
        return ConcreteDropBlock(self.body.channels, options) if options.enabled else None
