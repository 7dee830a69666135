"""OICR (Tang et al., CVPR 2017) as WeakSAM trains it: refinement by classification alone (method 4.2, 4.3).

The boxes are the proposals themselves. Pseudo ground truth is every proposal that scores nearly as well as the best one
(published code), or the best one alone (the paper).
"""

from __future__ import annotations

from torch import Tensor

from weaksam.config import OicrConfig
from weaksam.detectors.mil.base import WeakDetector
from weaksam.losses.mil import PseudoLabels, mine_oicr, mine_top1
from weaksam.networks.roi_backbones import VggVariant


class Oicr(WeakDetector):
    """OICR; see ``WeakDetector``."""

    vgg = VggVariant(last_relu=True, ceil_mode=True, caffe_means_bgr=(104.0, 117.0, 124.0))
    predictor_std = 0.01
    background_in_streams = False
    image_loss_epsilon = 0.0
    image_loss_mean = False
    refinement_epsilon = 1e-6
    regresses_boxes = False
    options: OicrConfig

    def mine(self, boxes_xyxy: Tensor, scores: Tensor, real: Tensor, labels: Tensor) -> PseudoLabels:
        """See ``WeakDetector``."""
        options = self.options
        if options.assign == "top1":
            return mine_top1(boxes_xyxy, scores, real, labels, min_iou=options.min_iou)
        return mine_oicr(
            boxes_xyxy,
            scores,
            real,
            labels,
            near_top=options.near_top,
            nms_iou=options.nms_iou,
            min_iou=options.min_iou,
            ignore_below=options.ignore_below,
        )
