"""Mask2Former's pixel decoder and queries (Cheng et al., CVPR 2022), on top of a backbone of our own.

They are transformers', with transformers' names and first weights. Detectors of instances and segmenters share them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig as Architecture
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from weaksam.config.mask_queries import MaskQueriesConfig
from weaksam.networks.pyramids import Pyramid

STRIDES = (4, 8, 16, 32)  # pixels per cell of the maps that the pixel decoder reads; masks have the first
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)  # whose weights do not decay (published)


class Predictions(NamedTuple):
    """What a layer predicts of the queries of a batch."""

    class_logits: Tensor  # [B, Q, C + 1], the last for no object
    mask_logits: Tensor  # [B, Q, h, w], on a map of the padded views


def architecture_of(options: MaskQueriesConfig, num_labels: int) -> Architecture:
    """Return our options as transformers' own, for queries that are each one of so many things, or nothing."""
    return Architecture(
        num_labels=num_labels,
        feature_size=options.dim,
        mask_feature_size=options.dim,
        hidden_dim=options.dim,
        num_attention_heads=options.heads,
        encoder_layers=options.encoder_layers,
        encoder_feedforward_dim=options.encoder_feedforward_dim,
        decoder_layers=options.decoder_layers + 1,  # transformers counts the prediction before the first
        dim_feedforward=options.feedforward_dim,
        num_queries=options.queries,
        train_num_points=options.points,
    )


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
