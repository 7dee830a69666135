"""What Mask2Former is taught: each layer's queries are matched with the objects, to name them and to draw their masks.

Matching and the losses of masks, which look at some points alone, are transformers'. The loss of classes stays per query until
query drop has had its say (WeakSAM, eq. 3, 4; method 7.2), as DINO's does: a dropped query learns neither class nor mask, and
the divisors remain those of all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.mask2former.configuration_mask2former import Mask2FormerConfig as Architecture
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from weaksam.config import QueryDropConfig
from weaksam.detectors.retrained.base import TrainingLosses
from weaksam.losses.divisors import mean_over_processes
from weaksam.losses.drop import drop_counts, drops_at, query_keep
from weaksam.losses.history import LossHistory

Matches = list[tuple[Tensor, Tensor]]  # of each image: queries, and the objects that they are to find


class Predictions(NamedTuple):
    """What a layer predicts of the queries of a batch."""

    class_logits: Tensor  # [B, Q, C + 1], the last for no object
    mask_logits: Tensor  # [B, Q, h, w], on a map of the padded views


class Objects(NamedTuple):
    """What there is to find in one image; may be empty."""

    class_index: Tensor  # int64 [N]
    masks: Tensor  # float32 [N, h, w] in [0, 1], the share of each cell of the map


class Criterion:
    """The losses of a batch; without parameters."""

    def __init__(self, architecture: Architecture) -> None:
        self.weights: dict[str, float] = {
            "class": architecture.class_weight,
            "mask": architecture.mask_weight,
            "dice": architecture.dice_weight,
        }
        self._no_object: int = architecture.num_labels
        self._no_object_weight: float = architecture.no_object_weight
        self._stock = Mask2FormerLoss(architecture, self.weights)

    def losses(
        self,
        layers: list[Predictions],
        objects: list[Objects],
        drop: QueryDropConfig,
        step: int,
        history: LossHistory[QueryDropConfig] | None = None,
    ) -> TrainingLosses:
        """Compute the losses of a batch in float32.

        Args:
            layers: predictions of the learnt queries themselves, then of each decoder layer.
            objects: of each of the B images.
            drop: which matched queries teach nothing; layer 0 is the learnt queries'.
            step: of the training.
            history: of the ranking losses of the last layer's matched queries, where ``drop.percentile`` is left to them.

        Returns:
            "class", "mask" and "dice", weighted and summed over the layers. The counts are those of the last layer.
        """
        device = layers[0].class_logits.device
        count = torch.tensor(float(sum(len(own.class_index) for own in objects)), device=device)
        num_masks = mean_over_processes(count).clamp(min=1)
        sums = {name: torch.zeros((), device=device) for name in self.weights}
        last = len(layers) - 1
        for number in (last, *range(last)):  # transformers' order, so that its losses draw the same points
            matches, ranking, wanted = self._matched(layers[number], objects)
            foreground, keep = wanted < self._no_object, None
            if number == last:
                begin = drops_at(drop, step)
                if history is not None:
                    history.look(ranking.detach()[foreground][:, None], begin=begin)
                    begin = history.is_settled
                    drop = history.in_numbers() if begin else drop
            if begin and (number in drop.layers or not drop.layers):
                keep = query_keep(ranking.flatten(), foreground.flatten(), drop).view(foreground.shape)
                matches = [(query[of[query]], own[of[query]]) for (query, own), of in zip(matches, keep, strict=True)]
            if number == last:
                counts = drop_counts(foreground.flatten(), None if keep is None else keep.flatten(), len(objects))
            parts = {
                "class": self._of_classes(ranking, wanted, keep),
                **self._of_masks(layers[number], objects, matches, num_masks),
            }
            sums = {name: sums[name] + weight * parts[name] for name, weight in self.weights.items()}
        return TrainingLosses(sums, counts)

    def _matched(self, layer: Predictions, objects: list[Objects]) -> tuple[Matches, Tensor, Tensor]:
        """Match queries and objects: the pairs, the queries' cross-entropies ``[B, Q]`` and what each is to name ``[B, Q]``."""
        wanted = torch.full(layer.class_logits.shape[:2], self._no_object, device=layer.class_logits.device)
        masks, classes = [own.masks for own in objects], [own.class_index for own in objects]
        matches: Matches = [
            (query.to(wanted.device), found.to(wanted.device))
            for query, found in self._stock.matcher(layer.mask_logits, layer.class_logits, masks, classes)
        ]
        for row, (query, found) in enumerate(matches):
            wanted[row, query] = classes[row][found]
        return matches, F.cross_entropy(layer.class_logits.transpose(1, 2), wanted, reduction="none"), wanted

    def _of_classes(self, cross_entropy: Tensor, wanted: Tensor, keep: Tensor | None) -> Tensor:
        """The weighted mean of the queries' cross-entropies, those of the dropped being 0."""
        weight = torch.where(wanted == self._no_object, self._no_object_weight, 1.0)
        losses = weight * cross_entropy
        return (losses if keep is None else losses * keep).sum() / weight.sum()

    def _of_masks(
        self, layer: Predictions, objects: list[Objects], matches: Matches, num_masks: Tensor
    ) -> dict[str, Tensor]:
        if not any(len(query) for query, _ in matches):
            nothing = layer.mask_logits.sum() * 0  # the masks' part of the network stays in the graph
            return {"mask": nothing, "dice": nothing}
        losses = self._stock.loss_masks(layer.mask_logits, [own.masks for own in objects], matches, num_masks)
        return {"mask": losses["loss_mask"], "dice": losses["loss_dice"]}
