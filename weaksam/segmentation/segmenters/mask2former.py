"""Mask2Former as a segmenter: queries that are each a class and all of its pixels (FMA method 7).

There is one thing to find for each class in a view's label map, background among them. Ignored pixels are in no mask and have
no loss of masks; a view without a decided pixel teaches nothing. What cannot be left out: a class that the ignored pixels alone
may hold counts as absent, so that a query that names it is taught to name none.

Of a cell, a class is as probable as the sum over the queries of how much they are that class and hold the cell.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam.config import Mask2FormerSegmenterConfig, QueryDropConfig, SegmenterConfig
from weaksam.label_maps import IGNORED
from weaksam.losses.mask_queries import Criterion, Objects
from weaksam.networks.mask_queries import NORMS, STRIDES, CoarserMaps, Head, Predictions, architecture_of
from weaksam.networks.parameter_groups import parameter_groups
from weaksam.segmentation.segmenters.base import Segmenter

_NO_DROP = QueryDropConfig()


class Mask2FormerSegmenter(Segmenter):
    """See the module."""

    options: Mask2FormerSegmenterConfig

    def __init__(self, config: SegmenterConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        architecture = architecture_of(self.options, num_classes + 1)
        self.coarser = CoarserMaps(self.backbone)
        self.head = Head(architecture, self.coarser.channels)
        self.criterion = Criterion(architecture)

    def training_losses(self, images: Tensor, label_maps: Tensor) -> dict[str, Tensor]:
        """See ``Segmenter`` and ``Criterion``."""
        layers = self(images)
        with torch.autocast(images.device.type, enabled=False):
            layers = [Predictions(*(logits.float() for logits in layer)) for layer in layers]
            objects = [class_masks(label_map) for label_map in label_maps]
            return self.criterion.losses(layers, objects, _NO_DROP, step=0).losses

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """See ``Segmenter``."""
        last = self(images)[-1]
        of_query = last.class_logits.float().softmax(dim=2)[..., :-1]
        scores = torch.einsum("bqc,bqhw->bchw", of_query, last.mask_logits.float().sigmoid())
        return scores / scores.sum(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)

    def forward(self, images: Tensor) -> list[Predictions]:
        """Predict of normalised views ``[B, 3, H, W]``, sides multiples of 32: the learnt queries, then each decoder layer."""
        layers: list[Predictions] = self.head(self.coarser(self.backbone(images)))
        return layers

    def parameter_groups(self, config: SegmenterConfig) -> list[dict[str, Any]]:
        """See ``Segmenter``; weights of normalisations and embeddings do not decay."""
        return parameter_groups(self, self.backbone, config, still=NORMS)


def class_masks(label_map: Tensor) -> Objects:
    """Return what there is to find in one view: each class of its label map, uint8 ``[H, W]``, sides multiples of 4.

    A mask has of each cell of stride 4 the share of its decided pixels that are of the class.
    """
    numbers = torch.unique(label_map)
    numbers = numbers[numbers != IGNORED]
    decided = F.avg_pool2d((label_map != IGNORED)[None].float(), STRIDES[0])[0]
    of_class = F.avg_pool2d((label_map == numbers[:, None, None, None]).float(), STRIDES[0])[:, 0]
    shares = of_class / decided.clamp(min=torch.finfo(decided.dtype).tiny)
    return Objects(numbers.long(), shares, decided)
