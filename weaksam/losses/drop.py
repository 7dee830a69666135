"""Loss drop: which instances teach a detector nothing, for their losses say that their pseudo label is wrong (method 6.2, 7.2).

Losses per instance go in, which instances to keep comes out; the sums are the detector's own. ``roi_keep`` is WeakSAM's RoI
drop (eq. 1, 2): thresholds on a region's classification and box loss. ``query_keep`` is its query drop (eq. 3, 4): the
highest classification losses. Nothing here has a gradient, and a loss that is not finite is always kept: the training loop
then reports it, whereas dropping it would hide it. Whether to drop at all, and from which step on, is ``drops_at``: a
detector whose drop is off does not come here, so that its loss is the plain one, bit for bit.

Any detector whose losses can be had per instance can use them. Where a library sums them up inside, it is enough to detach
what it predicts for the dropped instances, which changes no divisor. torchvision's FCOS with query drop::

    import torch
    import torch.nn.functional as F
    from torchvision.models.detection.fcos import FCOSHead

    from weaksam.config import QueryDropConfig
    from weaksam.losses.drop import query_keep


    class FcosHeadWithDrop(FCOSHead):
        drop = QueryDropConfig(enabled=True, percentile=90)

        def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
            logits = head_outputs["cls_logits"]  # [B, locations, C]
            matched = torch.stack(matched_idxs)  # the box that a location is to find, -1 = background
            wanted = torch.zeros_like(logits)
            for row, target in enumerate(targets):
                (places,) = torch.where(matched[row] >= 0)
                wanted[row, places, target["labels"][matched[row, places]]] = 1
            loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=2)
            keep = query_keep(loss.flatten(), matched.flatten() >= 0, self.drop).view(matched.shape)[..., None]
            outputs = {name: torch.where(keep, value, value.detach()) for name, value in head_outputs.items()}
            return super().compute_loss(targets, outputs, anchors, matched_idxs)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.config import QueryDropConfig, RoiDropConfig

MOST_POSITIVES_DROPPED = 0.3  # share of the foreground; more says that a threshold is in another unit than the losses


class RoiDrop(NamedTuple):
    """Which regions stay, and why the others go; bool ``[R]`` each."""

    keep: Tensor
    by_class_loss: Tensor  # goes, and its classification loss is above the threshold
    by_box_loss: Tensor  # goes, and its box loss is above the threshold


def drops_at(config: RoiDropConfig | QueryDropConfig, step: int) -> bool:
    """Return whether a training drops at a step, counted from 0."""
    return config.enabled and step >= config.start_step


def roi_keep(loss_cls: Tensor, loss_reg: Tensor, foreground: Tensor, config: RoiDropConfig) -> Tensor:
    """Return which sampled regions to learn from, bool ``[R]``; see ``roi_drop``."""
    return roi_drop(loss_cls, loss_reg, foreground, config).keep


@torch.no_grad()
def roi_drop(loss_cls: Tensor, loss_reg: Tensor, foreground: Tensor, config: RoiDropConfig) -> RoiDrop:
    """Drop the regions of a batch whose losses are above ``config``'s thresholds: either of them, or both (``rule``).

    ``variant`` says what a threshold is. Two of them look at a population: for the classification loss the regions that
    ``droppable`` allows to go, for the box loss the foreground.

        fixed        the loss itself must exceed it
        normalised   the loss divided by the population's max - min must exceed it; where that is 0 nothing goes
        percentile   the ``floor((100 - threshold) / 100 * n)`` highest losses of the population of n are above it, exactly
                     as many; of equal losses those of lower index

    A background region has no box loss, so that with ``rule="all"`` it always stays.

    Args:
        loss_cls: ``[R]``, cross-entropy of each region.
        loss_reg: ``[R]``, 0 for background. Its unit is the *sum* over the four coordinates of the absolute difference of
            encoded deltas, with deltas multiplied by (10, 10, 5, 5): 1.0 is a tenth of the region's width off. The paper's
            thresholds are in it. A detector with another box loss (smooth, a mean, an IoU) hands this over beside its own.
            Even then a threshold fits an accuracy: a small detector trained briefly on true boxes of drawn shapes had a
            median of 2, so that 1.0 would have dropped 85% of its positives.
        foreground: bool ``[R]``.
        config: ``enabled`` and ``start_step`` are not looked at: see ``drops_at``. Its thresholds must be numbers.

    Returns:
        Three masks over the regions; of no regions, empty ones.

    Raises:
        ValueError: a threshold is "auto"; ``losses/history.py`` chooses it.
    """
    finite = loss_cls.isfinite() & loss_reg.isfinite()
    droppable = finite if config.droppable == "all" else finite & foreground
    by_class_loss = _above(loss_cls, droppable, _number(config.tau_cls), config)
    by_box_loss = _above(loss_reg, finite & foreground, _number(config.tau_reg), config)
    drop = by_class_loss | by_box_loss if config.rule == "any" else by_class_loss & by_box_loss
    return RoiDrop(keep=~drop, by_class_loss=by_class_loss & drop, by_box_loss=by_box_loss & drop)


@torch.no_grad()
def query_keep(ranking_loss: Tensor, foreground: Tensor, config: QueryDropConfig) -> Tensor:
    """Drop the queries of a batch with the highest classification losses: ``floor((100 - percentile) / 100 * n)`` of n.

    With ``scope="foreground"`` the n matched queries compete. With "all" every query does, after the losses of the
    foreground and those of the background have each been brought to [0, 1] by their smallest and largest; where these are
    the same, to 0. Of equal losses those of lower index go.

    Args:
        ranking_loss: ``[Q]``, of one decoder layer: binary cross-entropy summed over classes.
        foreground: bool ``[Q]``, whether a query is matched.
        config: ``enabled``, ``start_step`` and ``layers`` are not looked at: see ``drops_at``. Its percentile must be a number.

    Returns:
        bool ``[Q]``, the queries to learn from.

    Raises:
        ValueError: the percentile is "auto"; ``losses/history.py`` chooses it.
    """
    percentile = _number(config.percentile)
    finite = ranking_loss.isfinite()
    if config.scope == "foreground":
        return ~_highest(ranking_loss, finite & foreground, percentile)
    ranks = torch.zeros_like(ranking_loss)
    for group in (finite & foreground, finite & ~foreground):
        ranks[group] = _min_max(ranking_loss[group])
    return ~_highest(ranks, finite, percentile)


def drop_counts(foreground: Tensor, keep: Tensor | None, images: int) -> dict[str, Tensor]:
    """Count the instances of a batch and those of them that were dropped.

    Args:
        foreground: bool ``[N]``.
        keep: bool ``[N]``, or None where nothing drops (yet).
        images: B, 1 or more.

    Returns:
        "foreground", "background", "dropped_foreground", "dropped_background": float32 scalars, instances per image.
    """
    dropped = torch.zeros_like(foreground) if keep is None else ~keep
    return {
        "foreground": _per_image(foreground, images),
        "background": _per_image(~foreground, images),
        "dropped_foreground": _per_image(dropped & foreground, images),
        "dropped_background": _per_image(dropped & ~foreground, images),
    }


def roi_drop_counts(foreground: Tensor, drop: RoiDrop | None, images: int) -> dict[str, Tensor]:
    """Count as ``drop_counts``, and by which loss regions went: "dropped_by_class_loss", "dropped_by_box_loss".

    A region may have gone by both; one of the background only ever goes by its classification loss.
    """
    none = torch.zeros_like(foreground)
    return drop_counts(foreground, None if drop is None else drop.keep, images) | {
        "dropped_by_class_loss": _per_image(none if drop is None else drop.by_class_loss, images),
        "dropped_by_box_loss": _per_image(none if drop is None else drop.by_box_loss, images),
    }


def _number(threshold: float | str) -> float:
    if isinstance(threshold, str):
        raise ValueError(f"expected a threshold that is a number, got {threshold!r}; a LossHistory chooses it")
    return threshold


def _above(losses: Tensor, population: Tensor, threshold: float, config: RoiDropConfig) -> Tensor:
    """Mark what of a population, all of it finite, is above a threshold as ``config.variant`` means it."""
    if config.variant == "percentile":
        return _highest(losses, population, threshold)
    if config.variant == "normalised" and len(members := losses[population]):
        spread = members.max() - members.min()
        return population & (spread > 0) & (losses / spread > threshold)
    return population & (losses > threshold)


def _highest(losses: Tensor, population: Tensor, percentile: float) -> Tensor:
    """Mark the ``floor((100 - percentile) / 100 * n)`` highest losses of a population of n, all of it finite."""
    # Shares such as 0.1% are not exact in binary: what is a whole number but for rounding counts as that number.
    count = math.floor((100 - percentile) / 100 * int(population.sum()) + 1e-6)
    order = losses.masked_fill(~population, -math.inf).argsort(descending=True, stable=True)
    marked = torch.zeros_like(population)
    marked[order[:count]] = True
    return marked


def _min_max(values: Tensor) -> Tensor:
    if len(values) == 0:
        return values
    smallest, largest = values.aminmax()
    return (values - smallest) / (largest - smallest).clamp(min=torch.finfo(values.dtype).tiny)


def _per_image(marked: Tensor, images: int) -> Tensor:
    return marked.sum().float() / images
