"""What DINO is taught: focal, L1 and GIoU losses of every decoder layer, of the encoder's choice and of the denoising queries.

Losses stay per query until query drop has had its say (WeakSAM, eq. 3, 4; method 7.2): the matched queries with the highest
classification losses probably have a wrong pseudo label and teach nothing. The divisor remains all matched queries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from weaksam.config import QueryDropConfig
from weaksam.detectors.retrained.base import TrainingLosses
from weaksam.detectors.retrained.dino.boxes import BACKGROUND, Objects, generalised_iou
from weaksam.detectors.retrained.dino.denoising import Denoising
from weaksam.detectors.retrained.dino.matcher import FOCAL_ALPHA, FOCAL_GAMMA, match
from weaksam.losses.divisors import mean_over_processes
from weaksam.losses.drop import drop_counts, drops_at, query_keep
from weaksam.losses.history import LossHistory

BOX_WEIGHT = 5.0
GIOU_WEIGHT = 2.0
KINDS = ("class", "box", "giou")


class Predictions(NamedTuple):
    """What a layer predicts of the queries of a batch."""

    class_logits: Tensor  # [B, Q, C]
    boxes_cxcywh: Tensor  # float32 [B, Q, 4]

    def queries(self, start: int, end: int) -> Predictions:
        """Return those of some queries."""
        return Predictions(self.class_logits[:, start:end], self.boxes_cxcywh[:, start:end])


class Outputs(NamedTuple):
    """What DINO predicts of a batch."""

    encoder: Predictions  # of the Q cells that became queries
    layers: list[Predictions]  # of every decoder layer; D denoising queries come before the Q others
    present: Tensor  # bool [B, Q], False where an image has fewer cells than queries


def detection_losses(
    outputs: Outputs,
    denoising: Denoising,
    objects: list[Objects],
    drop: QueryDropConfig,
    step: int,
    history: LossHistory[QueryDropConfig] | None = None,
) -> TrainingLosses:
    """Compute the losses of a batch.

    Args:
        outputs: of DINO.
        denoising: what its denoising queries are to find; D may be 0.
        objects: what there is to find in each of the B images.
        drop: which queries teach nothing; never denoising queries.
        step: of the training.
        history: of the ranking losses of the last decoder layer's matched queries, where ``drop.percentile`` is left to
            them: it becomes the share of losses up to their knee.

    Returns:
        "class", "box" and "giou", summed over the decoder layers; the same as "encoder_..." and, summed again, as
        "denoising_...". The counts are those of the last decoder layer.
    """
    D, Q = denoising.class_index.shape[1], outputs.present.shape[1]
    places = outputs.present.sum(dim=1).tolist()
    matched = sum(min(len(own.class_index), there) for own, there in zip(objects, places, strict=True))
    repaired = (denoising.wanted.class_index != BACKGROUND).sum()
    divisors = mean_over_processes(torch.stack([torch.full_like(repaired, matched), repaired]).float()).clamp(min=1)

    sums: list[Tensor] = []
    layers = [outputs.encoder, *(layer.queries(D, D + Q) for layer in outputs.layers)]
    found = [query_losses(layer, assign(layer, outputs.present, objects), outputs.present) for layer in layers]
    begin = drops_at(drop, step)
    if history is not None:
        _, ranking, foreground = found[-1]
        history.look(ranking[foreground][:, None], begin=begin)
        begin = history.is_settled
        drop = history.in_numbers() if begin else drop
    for number, (losses, ranking, foreground) in enumerate(found):
        keep = None
        if begin and (number in drop.layers or not drop.layers):
            keep = query_keep(ranking, foreground, drop)
            losses = losses * keep[:, None]
        counts = drop_counts(foreground, keep, len(objects))
        sums.append(losses.sum(dim=0) / divisors[0])
    denoised = [
        query_losses(layer.queries(0, D), denoising.wanted, denoising.present).losses.sum(dim=0) / divisors[1]
        for layer in outputs.layers
    ]
    parts = {"": torch.stack(sums[1:]), "encoder_": sums[0][None], "denoising_": torch.stack(denoised)}
    values = {prefix: part.sum(dim=0).unbind() for prefix, part in parts.items()}
    named = {f"{prefix}{kind}": value for prefix, of in values.items() for kind, value in zip(KINDS, of, strict=True)}
    return TrainingLosses(named, counts)


def assign(predictions: Predictions, present: Tensor, objects: list[Objects]) -> Objects:
    """Say what every query of a batch is to find.

    Args:
        predictions: of Q queries.
        present: bool ``[B, Q]``, which of them are there.
        objects: of each of the B images.

    Returns:
        ``class_index`` ``[B, Q]``, BACKGROUND where a query is to find nothing, and ``boxes_cxcywh`` ``[B, Q, 4]``, 0 there.
    """
    class_index = torch.full(present.shape, BACKGROUND, device=present.device)
    boxes = predictions.boxes_cxcywh.new_zeros(*present.shape, 4)
    for row, own in enumerate(objects):
        (there,) = present[row].nonzero(as_tuple=True)
        query, found = match(predictions.class_logits[row, there], predictions.boxes_cxcywh[row, there], own)
        class_index[row, there[query]] = own.class_index[found]
        boxes[row, there[query]] = own.boxes_cxcywh[found]
    return Objects(class_index, boxes)


class QueryLosses(NamedTuple):
    """Of the N queries of a batch that are there, image by image."""

    losses: Tensor  # float32 [N, 3], weighted: class, box, GIoU; the last two are 0 for background
    ranking: Tensor  # float32 [N], binary cross-entropy summed over classes, without gradient
    foreground: Tensor  # bool [N]


def query_losses(predictions: Predictions, wanted: Objects, present: Tensor) -> QueryLosses:
    """Compare what queries predict with what they are to find, each by itself; N may be 0.

    Args:
        predictions: of Q queries per image.
        wanted: ``class_index`` ``[B, Q]`` with BACKGROUND, ``boxes_cxcywh`` ``[B, Q, 4]``.
        present: bool ``[B, Q]``, which of them are there.
    """
    class_index, wanted_boxes = wanted.class_index[present], wanted.boxes_cxcywh[present]
    (foreground,) = (class_index != BACKGROUND).nonzero(as_tuple=True)
    with torch.autocast(present.device.type, enabled=False):
        logits, boxes = predictions.class_logits[present].float(), predictions.boxes_cxcywh[present]
        is_class = torch.zeros_like(logits)
        is_class[foreground, class_index[foreground]] = 1
        focal = sigmoid_focal_loss(logits, is_class, alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA).sum(dim=1)
        ranking = F.binary_cross_entropy_with_logits(logits.detach(), is_class, reduction="none").sum(dim=1)
        own, target = boxes[foreground], wanted_boxes[foreground]
        of_boxes = boxes.new_zeros(len(boxes), 2)
        of_boxes[foreground] = torch.stack(
            [
                BOX_WEIGHT * (own - target).abs().sum(dim=1),
                GIOU_WEIGHT * (1 - generalised_iou(own, target)),
            ],
            dim=1,
        )
        return QueryLosses(torch.cat([focal[:, None], of_boxes], dim=1), ranking, class_index != BACKGROUND)
