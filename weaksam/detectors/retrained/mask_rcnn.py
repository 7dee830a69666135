"""Mask R-CNN: Faster R-CNN with a head that finds the pixels of each object in its box (method 8.2).

    foreground regions -> RoIAlign 14 x 14 -> convolutions -> twice as fine -> the mask of each class

The head is torchvision's, and so are its names. Its losses stay per region, so that a region that the RoI drop leaves out
teaches no mask either.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from weaksam.config import MaskRcnnConfig, RetrainConfig
from weaksam.detectors.retrained.base import Targets, ViewDetections
from weaksam.detectors.retrained.faster_rcnn import SAMPLES_PER_CELL, FasterRcnn, Regions
from weaksam.detectors.retrained.mask_targets import region_targets

POOL_CELLS = 14  # side of the grid that a region is pooled to; masks are twice as fine


class MaskRcnn(FasterRcnn):
    """See the module."""

    options: MaskRcnnConfig

    def __init__(self, config: RetrainConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        own, levels = self.options, [str(level) for level in range(len(self.backbone.channels))]
        heads = self.roi_heads
        heads.mask_roi_pool = MultiScaleRoIAlign(levels, POOL_CELLS, SAMPLES_PER_CELL)
        heads.mask_head = MaskRCNNHeads(own.pyramid_dim, own.mask_dims, 1)
        heads.mask_predictor = MaskRCNNPredictor(own.mask_dims[-1], own.mask_dims[-1], 1 + num_classes)

    def more_losses(
        self, images: Tensor, features: dict[str, Tensor], regions: Regions, targets: list[Targets], keep: Tensor | None
    ) -> dict[str, Tensor]:
        """See ``FasterRcnn``: "mask", the mean over foreground regions of the mean over their cells.

        With a drop its sum over those that are kept, divided as the other losses are (``normaliser``).
        """
        boxes, labels, wanted = self._foreground(regions, targets)
        logits = self._mask_logits(images, features, boxes)
        of_class = logits[torch.arange(len(labels), device=labels.device), labels]
        losses = mask_losses(of_class, wanted)
        normaliser = len(losses)
        if keep is not None:
            losses = losses[keep[regions.foreground]]
            if self.options.drop.normaliser == "kept":
                normaliser = len(losses)
        # Without any, the logits of no region keep the head in the graph.
        return {"mask": losses.sum() / normaliser if normaliser else logits.sum() * 0}

    def with_masks(
        self, images: Tensor, features: dict[str, Tensor], found: list[ViewDetections]
    ) -> list[ViewDetections]:
        """See ``FasterRcnn``: the mask of each detection's class."""
        logits = self._mask_logits(images, features, [view.boxes_xyxy for view in found])
        self.require_numbers(logits)
        labels = torch.cat([view.class_index for view in found]) + 1
        masks = logits[torch.arange(len(labels), device=labels.device), labels].sigmoid()
        of_each = torch.split(masks, [len(view.boxes_xyxy) for view in found])
        return [view._replace(masks=of_view) for view, of_view in zip(found, of_each, strict=True)]

    def _foreground(self, regions: Regions, targets: list[Targets]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the boxes of foreground regions view by view, their labels ``[F]`` and masks ``[F, 28, 28]``."""
        counts = [len(boxes) for boxes in regions.boxes_xyxy]
        boxes, wanted = [], []
        for of_view, foreground, index, target in zip(
            regions.boxes_xyxy,
            torch.split(regions.foreground, counts),
            torch.split(regions.target_index, counts),
            targets,
            strict=True,
        ):
            mine = of_view[foreground]
            boxes.append(mine)
            assert target.masks is not None, "Mask R-CNN learns from masks"
            truth = target.boxes_xyxy.float()
            wanted.append(region_targets(target.masks, truth, index[foreground], mine, 2 * POOL_CELLS))
        return boxes, regions.label[regions.foreground], torch.cat(wanted)

    def _mask_logits(self, images: Tensor, features: dict[str, Tensor], boxes_xyxy: list[Tensor]) -> Tensor:
        """Return float32 ``[R, 1 + C, 28, 28]``, the background's first, which nothing learns."""
        padded = [(images.shape[2], images.shape[3])] * len(images)
        pooled = self.roi_heads.mask_roi_pool(features, boxes_xyxy, padded)
        logits: Tensor = self.roi_heads.mask_predictor(self.roi_heads.mask_head(pooled))
        return logits.float()


def mask_losses(logits: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy of each mask, its mean over the cells: ``[R, h, w]``, ``[R, h, w]`` in [0, 1] -> ``[R]``."""
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(1, 2))
