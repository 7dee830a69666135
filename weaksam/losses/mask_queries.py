"""What Mask2Former is taught: each layer's queries are matched with the objects, to name them and to draw their masks.

For a segmenter an object is all pixels of a class, and some pixels may be left undecided (``Objects.decided``): no mask has a
loss there, no query is matched by what it draws there, and no point is looked for there because a mask is uncertain.

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
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss, sample_point

from weaksam.config import QueryDropConfig
from weaksam.losses.divisors import mean_over_processes
from weaksam.losses.drop import drop_counts, drops_at, query_keep
from weaksam.losses.history import LossHistory
from weaksam.networks.mask_queries import Predictions

_CERTAIN = 20.0  # logit of a mask that is in no doubt
Matches = list[tuple[Tensor, Tensor]]  # of each image: queries, and the objects that they are to find


class Objects(NamedTuple):
    """What there is to find in one image; may be empty."""

    class_index: Tensor  # int64 [N]
    masks: Tensor  # float32 [N, h, w] in [0, 1], the share of each cell of the map
    # float32 [h, w] in [0, 1], the share of each cell that teaches masks; where it is 0 in all, classes are not taught either.
    decided: Tensor | None = None  # None = all is decided


class QueryLosses(NamedTuple):
    """What a batch says; every value is a float32 scalar."""

    losses: dict[str, Tensor]  # weighted already: their sum is the loss
    counts: dict[str, Tensor]  # instances per image, without gradient: what there was and what was dropped


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
    ) -> QueryLosses:
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
        taught = torch.tensor([own.decided is None or bool(own.decided.any()) for own in objects], device=device)
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
                "class": self._of_classes(ranking, wanted, keep, taught),
                **self._of_masks(layers[number], objects, matches, num_masks),
            }
            sums = {name: sums[name] + weight * parts[name] for name, weight in self.weights.items()}
        return QueryLosses(sums, counts)

    def _matched(self, layer: Predictions, objects: list[Objects]) -> tuple[Matches, Tensor, Tensor]:
        """Match queries and objects: the pairs, the queries' cross-entropies ``[B, Q]`` and what each is to name ``[B, Q]``."""
        wanted = torch.full(layer.class_logits.shape[:2], self._no_object, device=layer.class_logits.device)
        masks, classes = [own.masks for own in objects], [own.class_index for own in objects]
        logits = _without_undecided(layer.mask_logits, objects, -_CERTAIN)  # as if nobody drew there
        matches: Matches = [
            (query.to(wanted.device), found.to(wanted.device))
            for query, found in self._stock.matcher(logits, layer.class_logits, masks, classes)
        ]
        for row, (query, found) in enumerate(matches):
            wanted[row, query] = classes[row][found]
        return matches, F.cross_entropy(layer.class_logits.transpose(1, 2), wanted, reduction="none"), wanted

    def _of_classes(self, cross_entropy: Tensor, wanted: Tensor, keep: Tensor | None, taught: Tensor) -> Tensor:
        """The weighted mean of the queries' cross-entropies in images that teach, those of the dropped being 0."""
        weight = torch.where(wanted == self._no_object, self._no_object_weight, 1.0) * taught[:, None]
        losses = weight * cross_entropy
        total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        return (losses if keep is None else losses * keep).sum() / total

    def _of_masks(
        self, layer: Predictions, objects: list[Objects], matches: Matches, num_masks: Tensor
    ) -> dict[str, Tensor]:
        if not any(len(query) for query, _ in matches):
            nothing = layer.mask_logits.sum() * 0  # the masks' part of the network stays in the graph
            return {"mask": nothing, "dice": nothing}
        if all(own.decided is None for own in objects):
            losses = self._stock.loss_masks(layer.mask_logits, [own.masks for own in objects], matches, num_masks)
            return {"mask": losses["loss_mask"], "dice": losses["loss_dice"]}
        return self._of_decided(layer, objects, matches, num_masks)

    def _of_decided(
        self, layer: Predictions, objects: list[Objects], matches: Matches, num_masks: Tensor
    ) -> dict[str, Tensor]:
        """transformers' losses of masks, each point weighing what is decided of it."""
        certain = _without_undecided(layer.mask_logits, objects, _CERTAIN)
        of_pairs: list[tuple[Tensor, ...]] = []  # logits, the same for choosing points, wanted and decided shares
        for row, (query, found) in enumerate(matches):
            own = objects[row]
            decided = torch.ones_like(certain[row, 0]) if own.decided is None else own.decided
            maps = (layer.mask_logits[row, query], certain[row, query], own.masks[found])
            of_pairs.append((*maps, decided.expand(len(query), -1, -1)))
        logits, choosing, wanted, decided = (torch.cat(maps)[:, None] for maps in zip(*of_pairs, strict=True))
        with torch.no_grad():
            stock = self._stock
            chosen = (stock.num_points, stock.oversample_ratio, stock.importance_sample_ratio)
            points = stock.sample_points_using_uncertainty(choosing, stock.calculate_uncertainty, *chosen)
            wanted, weight = _sampled(wanted, points), _sampled(decided, points, beside="border")
        at_points = _sampled(logits, points)
        entropy = F.binary_cross_entropy_with_logits(at_points, wanted, reduction="none")
        drawn = at_points.sigmoid()
        both, either = (weight * drawn * wanted).sum(dim=1), (weight * (drawn + wanted)).sum(dim=1)
        mask = (weight * entropy).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        dice = 1 - (2 * both + 1) / (either + 1)
        return {"mask": mask.sum() / num_masks, "dice": dice.sum() / num_masks}


def _sampled(maps: Tensor, points: Tensor, beside: str = "zeros") -> Tensor:
    """Interpolate maps ``[N, 1, h, w]``, beside which there are zeros or their border, at ``[N, P, 2]`` in 0..1: ``[N, P]``."""
    values: Tensor = sample_point(maps, points, align_corners=False, padding_mode=beside)[:, 0]
    return values


def _without_undecided(mask_logits: Tensor, objects: list[Objects], value: float) -> Tensor:
    """Return masks ``[B, Q, h, w]`` without gradient, with a value in the cells of which nothing is decided."""
    if all(own.decided is None for own in objects):
        return mask_logits.detach()
    rows = [
        logits if own.decided is None else logits.masked_fill(own.decided == 0, value)
        for logits, own in zip(mask_logits.detach(), objects, strict=True)
    ]
    return torch.stack(rows)
