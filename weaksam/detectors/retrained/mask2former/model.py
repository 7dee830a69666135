"""Mask2Former (Cheng et al., CVPR 2022) as WeakSAM retrains it for instance masks (method 8.2).

    backbone -> pixel decoder: deformable attention over strides 8, 16, 32 -> features of pixels at stride 4
                    +-> queries look at one map after the other, each only where its mask of the layer before is
                        -> a class, and a vector whose products with the pixels' features are its mask

Pixel decoder, transformer and losses are transformers', on a backbone of our own that starts from a classifier's weights. What
lies right of and below a view is taken for a part of it, as published: there is nothing to find. Masks to learn from are shares
of the cells of stride 4, where the published ones are pixels: an object thinner than a cell never fills one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align
from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig as Architecture
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from weaksam.config import Mask2FormerConfig, RetrainConfig
from weaksam.detectors.retrained.base import RetrainedDetector, Targets, TrainingLosses, ViewDetections
from weaksam.detectors.retrained.mask2former.criterion import Criterion, Objects, Predictions
from weaksam.detectors.retrained.mask_targets import map_masks
from weaksam.losses.history import history_of
from weaksam.masks import masks_to_boxes
from weaksam.networks.pyramids import Pyramid
from weaksam.pseudo_labels.thresholds import percentile_of_knee

STRIDES = (4, 8, 16, 32)  # pixels per cell of the maps that the pixel decoder reads; masks have the first
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)  # whose weights do not decay (published)


class Mask2Former(RetrainedDetector):
    """See the module."""

    options: Mask2FormerConfig

    def __init__(self, config: RetrainConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        own = self.options
        architecture = Architecture(
            num_labels=num_classes,
            feature_size=own.dim,
            mask_feature_size=own.dim,
            hidden_dim=own.dim,
            num_attention_heads=own.heads,
            encoder_layers=own.encoder_layers,
            encoder_feedforward_dim=own.encoder_feedforward_dim,
            decoder_layers=own.decoder_layers + 1,  # transformers counts the prediction before the first
            dim_feedforward=own.feedforward_dim,
            num_queries=own.queries,
            train_num_points=own.points,
        )
        self.coarser = CoarserMaps(self.backbone)
        self.head = Head(architecture, self.coarser.channels)
        self.criterion = Criterion(architecture)
        self.loss_history = history_of(own.drop, {"percentile": (percentile_of_knee, 100.0)})

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
            return self.criterion.losses(layers, objects, self.options.drop, step, self.loss_history)

    @torch.no_grad()
    def predict(self, images: Tensor, sizes_hw: Tensor) -> list[ViewDetections]:
        """See ``RetrainedDetector``; the best ``max_detections`` pairs of a query and a class, nothing suppressed.

        A score is the class's, times the mean of the mask's over its pixels.
        """
        was_training = self.training
        self.eval()
        try:
            last = self(images)[-1]
        finally:
            self.train(was_training)
        scores = last.class_logits.float().softmax(dim=2)[..., :-1]
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
        still = {id(weight) for module in self.modules() if isinstance(module, NORMS) for weight in module.parameters()}
        groups = []
        for group in super().parameter_groups(config):
            for decay, kept in ((config.weight_decay, False), (0.0, True)):
                params = [weight for weight in group["params"] if (id(weight) in still) == kept]
                groups.append({**group, "params": params, "weight_decay": decay})
        return [group for group in groups if group["params"]]

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


class CoarserMaps(nn.Module):
    """Adds the maps of strides 16 and 32 that a backbone lacks, each by a convolution of stride 2."""

    def __init__(self, backbone: Pyramid) -> None:
        super().__init__()
        self.channels = list(backbone.channels)
        self.layers = nn.ModuleList()
        for _ in range(len(STRIDES) - len(backbone.strides)):
            self.layers.append(nn.Sequential(nn.Conv2d(self.channels[-1], self.channels[-1], 3, 2, 1), nn.ReLU()))
            self.channels.append(self.channels[-1])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of a backbone ``[B, channels, h, w]`` -> those of ``STRIDES``."""
        maps = list(maps)
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps


class Head(Mask2FormerPreTrainedModel):  # type: ignore[misc]
    """Pixel decoder and transformer, with transformers' names and first weights."""

    def __init__(self, architecture: Architecture, channels: list[int]) -> None:
        super().__init__(architecture)
        self.pixel_decoder = Mask2FormerPixelDecoder(architecture, channels)
        self.transformer_module = Mask2FormerTransformerModule(architecture.feature_size, architecture)
        self.class_predictor = nn.Linear(architecture.hidden_dim, architecture.num_labels + 1)
        self.post_init()

    def forward(self, maps: list[Tensor]) -> list[Predictions]:
        """Maps ``[B, channels, h, w]`` of ``STRIDES`` -> what each layer predicts."""
        with torch.autocast(maps[0].device.type, enabled=False):  # as published
            pixels = self.pixel_decoder([of_stride.float() for of_stride in maps], return_dict=True)
        layers = self.transformer_module(pixels.multi_scale_features, pixels.mask_features)
        return [
            Predictions(self.class_predictor(queries.transpose(0, 1)), masks)
            for queries, masks in zip(layers.intermediate_hidden_states, layers.masks_queries_logits, strict=True)
        ]
