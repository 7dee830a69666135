"""DINO (Zhang et al., ICLR 2023) as WeakSAM retrains it: a transformer that finds each object once (method 7.1).

    backbone -> neck -> encoder: every cell of every map looks around
                          +-> the Q cells that look most like objects become queries: their boxes, with learnt contents
                          +-> decoder: queries look at each other and at the cells, and mend their boxes layer by layer

A layer's boxes start from those of the layer before, and its box loss also teaches that layer ("look forward twice"), but none
further back. While training, disturbed true boxes are queries, too (``denoising.py``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from weaksam.boxes import clip_boxes
from weaksam.config import DinoConfig, RetrainConfig, require
from weaksam.detectors.retrained.base import RetrainedDetector, Targets, TrainingLosses, ViewDetections
from weaksam.detectors.retrained.dino.boxes import logits_of, objects_of, to_xyxy
from weaksam.detectors.retrained.dino.criterion import Outputs, Predictions, detection_losses
from weaksam.detectors.retrained.dino.deformable_attention import Geometry
from weaksam.detectors.retrained.dino.denoising import Denoising, denoising_queries, hidden_queries
from weaksam.detectors.retrained.dino.neck import GROUPS, Neck
from weaksam.detectors.retrained.dino.transformer import (
    MAP_TEMPERATURE,
    QUERY_TEMPERATURE,
    DecoderLayer,
    EncoderLayer,
    sine_embedding,
)
from weaksam.losses.history import history_of
from weaksam.networks.modes import in_mode
from weaksam.pseudo_labels.thresholds import percentile_of_knee

# Of the image: the box that a cell of the finest map starts from; doubled map by map (Deformable DETR)
FINEST_SIDE = 0.05
PRIOR = 0.01  # probability of every class at first (RetinaNet)


class Dino(RetrainedDetector):
    """DINO; see ``RetrainedDetector``."""

    options: DinoConfig

    def __init__(self, config: RetrainConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        options = self.options
        dim = options.dim
        require(dim % GROUPS == 0, "dim", f"a multiple of {GROUPS}", dim)
        strides, channels = self.backbone.strides, self.backbone.channels
        coarse = sum(stride >= options.finest_stride for stride in strides)
        require(coarse > 0, "finest_stride", f"up to {strides[-1]} with this backbone", options.finest_stride)
        self.used = slice(-min(options.levels, coarse), None)  # the coarsest maps, from fine to coarse
        self.neck = Neck(strides[self.used], channels[self.used], levels=options.levels, dim=dim)
        self.level_positions = nn.Embedding(options.levels, dim)
        self.encoder = nn.ModuleList(EncoderLayer(options) for _ in range(options.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(options) for _ in range(options.decoder_layers))
        self.cell_projection = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.contents = nn.Embedding(options.queries, dim)
        self.denoising_contents = nn.Embedding(num_classes, dim)
        self.query_positions = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        # The encoder's heads come first, then those of every decoder layer.
        heads = range(1 + options.decoder_layers)
        self.class_heads = nn.ModuleList(_class_head(dim, num_classes) for _ in heads)
        self.box_heads = nn.ModuleList(_box_head(dim) for _ in heads)
        self.loss_history = history_of(options.drop, {"percentile": (percentile_of_knee, 100.0)})

    def training_losses(self, images: Tensor, sizes_hw: Tensor, targets: list[Targets], step: int) -> TrainingLosses:
        """See ``RetrainedDetector`` and ``detection_losses``."""
        objects = [objects_of(own, size_hw) for own, size_hw in zip(targets, sizes_hw, strict=True)]
        denoising = denoising_queries(objects, self.num_classes, self.options)
        outputs: Outputs = self(self.backbone(images), sizes_hw, denoising)
        return detection_losses(outputs, denoising, objects, self.options.drop, step, self.loss_history)

    @torch.no_grad()
    def predict(self, images: Tensor, sizes_hw: Tensor) -> list[ViewDetections]:
        """See ``RetrainedDetector``; the best ``max_detections`` pairs of a query and a class, nothing suppressed."""
        with in_mode(self, training=False):
            outputs: Outputs = self(self.backbone(images), sizes_hw)
        class_logits, boxes_cxcywh = outputs.layers[-1]
        scores = class_logits.float().sigmoid() * outputs.present[..., None]
        self.require_numbers(scores, boxes_cxcywh)
        return [self._best(*of_view) for of_view in zip(scores, boxes_cxcywh, sizes_hw, strict=True)]

    def forward(self, maps: list[Tensor], sizes_hw: Tensor, denoising: Denoising | None = None) -> Outputs:
        """Predict from the backbone's maps ``[B, channels, h, w]``, with denoising queries if there are any.

        A view's predictions do not depend on how its maps are padded, nor on other views.
        """
        cells, geometry = self.neck(maps[self.used], sizes_hw)
        of_levels = zip(self.level_positions.weight, geometry.shapes_hw, strict=True)
        levels = torch.cat([position.expand(h * w, -1) for position, (h, w) in of_levels])
        positions = sine_embedding(geometry.centres_xy, self.options.dim // 2, MAP_TEMPERATURE) + levels
        for layer in self.encoder:
            cells = layer(cells, positions, geometry)
        class_logits, starts, present = self._choose(cells, geometry)

        contents = self.contents.weight[: starts.shape[1]].expand(*starts.shape[:2], -1)
        boxes, there, group = starts.detach(), present, sizes_hw.new_zeros(0)
        if denoising is not None:
            contents = torch.cat([self.denoising_contents(denoising.class_index), contents], dim=1)
            boxes = torch.cat([logits_of(denoising.boxes_cxcywh), boxes], dim=1)
            there, group = torch.cat([denoising.present, present], dim=1), denoising.group
        blocked = hidden_queries(group, present.shape[1]) | ~there[:, None]
        return Outputs(
            encoder=Predictions(class_logits, starts.sigmoid()),
            layers=self._decode(contents, boxes, cells, geometry, blocked),
            present=present,
        )

    def _choose(self, cells: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
        """Take the Q cells with the best score of any class.

        Returns:
            Their class logits ``[B, Q, C]``, the logits of their boxes, float32 ``[B, Q, 4]``, and whether they are real
            ``[B, Q]``: an image may have fewer cells than others of its batch.
        """
        features = self.cell_projection(cells)
        class_logits = self.class_heads[0](features)
        best = class_logits.detach().float().amax(dim=2).masked_fill(~geometry.real, -math.inf)
        places = best.topk(min(self.options.queries, best.shape[1]), dim=1).indices
        shapes, centres = geometry.shapes_hw, geometry.centres_xy
        sides = [centres.new_full((h * w, 2), FINEST_SIDE * 2**level) for level, (h, w) in enumerate(shapes)]
        around = torch.cat([centres.gather(1, _rows(places, 2)), torch.cat(sides)[places]], dim=2)
        deltas = self.box_heads[0](features.gather(1, _rows(places, features.shape[2])))
        chosen_logits = class_logits.gather(1, _rows(places, class_logits.shape[2]))
        return chosen_logits, logits_of(around) + deltas.float(), geometry.real.gather(1, places)

    def _decode(
        self, queries: Tensor, boxes: Tensor, cells: Tensor, geometry: Geometry, blocked: Tensor
    ) -> list[Predictions]:
        """Refine queries ``[B, Q, dim]`` and the logits of their boxes ``[B, Q, 4]`` layer by layer; see ``DecoderLayer``."""
        predictions: list[Predictions] = []
        followed = boxes  # the boxes of the layer before, with the gradient to that layer
        for layer, class_head, box_head in zip(self.decoder, self.class_heads[1:], self.box_heads[1:], strict=True):
            shares = boxes.sigmoid()
            positions = self.query_positions(sine_embedding(shares, self.options.dim // 2, QUERY_TEMPERATURE))
            queries = layer(queries, positions, shares, cells, geometry, blocked)
            deltas = box_head(queries).float()
            predictions.append(Predictions(class_head(queries), (followed + deltas).sigmoid()))
            followed = boxes + deltas
            boxes = followed.detach()
        return predictions

    def _best(self, scores: Tensor, boxes_cxcywh: Tensor, size_hw: Tensor) -> ViewDetections:
        """Take the best pairs of a query and a class from scores ``[Q, C]``, if they are good enough."""
        score, place = scores.flatten().topk(min(self.options.max_detections, scores.numel()))
        good = score > self.config.test.score_threshold
        query, class_index = place[good] // self.num_classes, place[good] % self.num_classes
        height, width = size_hw.tolist()
        boxes_xyxy = to_xyxy(boxes_cxcywh[query]) * scores.new_tensor([width, height, width, height])
        return ViewDetections(clip_boxes(boxes_xyxy, (height, width)), class_index, score[good])


def _class_head(dim: int, num_classes: int) -> nn.Linear:
    head = nn.Linear(dim, num_classes)
    nn.init.constant_(head.bias, math.log(PRIOR / (1 - PRIOR)))
    return head


def _box_head(dim: int) -> nn.Sequential:
    """Says nothing at first: boxes stay where they were."""
    last = nn.Linear(dim, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)


def _rows(places: Tensor, width: int) -> Tensor:
    """Indices ``[B, Q]`` of rows, to gather them from ``[B, T, width]``."""
    return places[..., None].expand(-1, -1, width)
