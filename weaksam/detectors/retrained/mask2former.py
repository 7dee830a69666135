"""Mask2Former (Cheng et al., CVPR 2022) as WeakSAM retrains it for instance masks (method 8.2).

    backbone -> pixel decoder: deformable attention over strides 8, 16, 32 -> features of pixels at stride 4
                    +-> queries look at one map after the other, each only where its mask of the layer before is
                        -> a class, and a vector whose products with the pixels' features are its mask

The network is ``networks/mask_queries``, its losses are ``losses/mask_queries``. What
lies right of and below a view is taken for a part of it, as published: there is nothing to find. Masks to learn from are shares
of the cells of stride 4, where the published ones are pixels: an object thinner than a cell never fills one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from weaksam.config import Mask2FormerConfig, RetrainConfig
from weaksam.detectors.retrained.base import RetrainedDetector, Targets, TrainingLosses, ViewDetections
from weaksam.detectors.retrained.mask_targets import map_masks
from weaksam.losses.history import history_of
from weaksam.losses.mask_queries import Criterion, Objects
from weaksam.masks import masks_to_boxes
from weaksam.networks.mask_queries import NORMS, STRIDES, CoarserMaps, Head, Predictions, architecture_of
from weaksam.networks.modes import in_mode
from weaksam.networks.parameter_groups import parameter_groups
from weaksam.pseudo_labels.thresholds import percentile_of_knee


class Mask2Former(RetrainedDetector):
    """See the module."""

    options: Mask2FormerConfig

    def __init__(self, config: RetrainConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        architecture = architecture_of(self.options, num_classes)
        self.coarser = CoarserMaps(self.backbone)
        self.head = Head(architecture, self.coarser.channels)
        self.criterion = Criterion(architecture)
        self.loss_history = history_of(self.options.drop, {"percentile": (percentile_of_knee, 100.0)})

    def training_losses(
        self,
        images: Tensor,
        sizes_hw: Tensor,  # noqa: ARG002 - what lies beside a view is looked at, too
        targets: list[Targets],
        step: int,
    ) -> TrainingLosses:
        """See ``RetrainedDetector`` and ``Criterion``."""
        layers = self(images)
        shape_hw = tuple(layers[0].mask_logits.shape[2:])
        with torch.autocast(images.device.type, enabled=False):
            layers = [Predictions(*(logits.float() for logits in layer)) for layer in layers]
            objects = [_objects(own, shape_hw) for own in targets]
            return TrainingLosses(*self.criterion.losses(layers, objects, self.options.drop, step, self.loss_history))

    @torch.no_grad()
    def predict(self, images: Tensor, sizes_hw: Tensor) -> list[ViewDetections]:
        """See ``RetrainedDetector``; the best ``max_detections`` pairs of a query and a class, nothing suppressed.

        A score is the class's, times the mean of the mask's over its pixels.
        """
        with in_mode(self, training=False):
            last = self(images)[-1]
        scores = last.class_logits.float().softmax(dim=2)[..., :-1]
        self.require_numbers(scores, last.mask_logits)
        padded_hw = (images.shape[2], images.shape[3])
        return [
            self._best(*of_view, padded_hw) for of_view in zip(scores, last.mask_logits.float(), sizes_hw, strict=True)
        ]

    def forward(self, images: Tensor) -> list[Predictions]:
        """Predict of normalised views ``[B, 3, H, W]``, sides multiples of 32: the learnt queries, then each decoder layer."""
        layers: list[Predictions] = self.head(self.coarser(self.backbone(images)))
        return layers

    def parameter_groups(self, config: RetrainConfig) -> list[dict[str, Any]]:
        """See ``RetrainedDetector``; weights of normalisations and embeddings do not decay."""
        return parameter_groups(self, self.backbone, config, still=NORMS)

    def _best(self, scores: Tensor, mask_logits: Tensor, size_hw: Tensor, padded_hw: tuple[int, int]) -> ViewDetections:
        """Take the best pairs of a query and a class: scores ``[Q, C]``, masks ``[Q, h, w]``, which are drawn one at a time."""
        height, width = size_hw.tolist()
        score, place = scores.flatten().topk(min(self.options.max_detections, scores.numel()))
        query, class_index = place // self.num_classes, place % self.num_classes
        drawn = {number: self._draw(mask_logits[number], padded_hw, (height, width)) for number in set(query.tolist())}
        masks = [(row, mask) for row, number in enumerate(query.tolist()) if (mask := drawn[number]) is not None]
        rows, cells = [row for row, _ in masks], self.options.mask_cells
        score = score[rows] * scores.new_tensor([mask.certainty for _, mask in masks])
        best = score.argsort(descending=True, stable=True)
        best = best[score[best] > self.config.test.score_threshold]
        return ViewDetections(
            boxes_xyxy=torch.stack([scores.new_zeros(4), *(mask.box_xyxy for _, mask in masks)])[1:][best],
            class_index=class_index[rows][best],
            score=score[best],
            masks=torch.stack([scores.new_zeros(cells, cells), *(mask.cells for _, mask in masks)])[1:][best],
        )

    def _draw(self, logits: Tensor, padded_hw: tuple[int, int], size_hw: tuple[int, int]) -> Mask | None:
        """Draw one mask ``[h, w]`` at the view's size; None where it has no pixel."""
        drawn = F.interpolate(logits[None, None], padded_hw, mode="bilinear", align_corners=False)[0]
        share = drawn[:, : size_hw[0], : size_hw[1]].sigmoid()
        inside = share > 0.5
        (box,), (empty,) = masks_to_boxes(inside)
        if empty:
            return None
        region = torch.cat([box.new_zeros(1), box])[None]
        cells = roi_align(share[None], region, self.options.mask_cells, sampling_ratio=1, aligned=True)[0, 0]
        return Mask(box, float(share[inside].mean()), cells)


def _objects(targets: Targets, shape_hw: tuple[int, ...]) -> Objects:
    assert targets.masks is not None, "Mask2Former learns from masks"
    return Objects(targets.class_index, map_masks(targets.masks, targets.boxes_xyxy.float(), shape_hw, STRIDES[0]))


class Mask(NamedTuple):
    """What one query draws."""

    box_xyxy: Tensor  # float32 [4], pixels of the view, around its pixels
    certainty: float  # mean over its pixels
    cells: Tensor  # float32 [m, m] in [0, 1], on a grid of its box
