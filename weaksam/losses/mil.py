"""Multiple-instance learning on proposals: scores, pseudo labels and losses of WSDDN, OICR and MIST (method 4.2-4.4).

Pure functions over a padded batch, without a loop over proposals:

    B images    R proposals (of the image that has most)    C classes    M classes present (in the image that has most)

``real [B, R]`` says which proposals are there; the rest of a row is padding and, being finite, changes nothing. An image
without proposals costs nothing. One without a class present costs no refinement and no boxes, but ``image_loss`` still
learns from it that no class is there. Every function computes in float32, whatever autocast says: probabilities here are
products of two softmaxes over thousands of proposals, far below what bf16 resolves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from weaksam.boxes import iou_matrix

BACKGROUND = -1  # the class index of a proposal that shows none of the classes
MIN_PROPOSALS_FOR_SHARE = 10  # MIST ranks a share of the proposals, but of fewer than this the best one alone


@dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """What a refinement branch is to learn about each proposal; without gradient."""

    class_index: Tensor  # int64 [B, R], BACKGROUND or 0..C-1
    weight: Tensor  # float32 [B, R], 0 where nothing is to be learnt
    target_boxes_xyxy: Tensor  # float32 [B, R, 4], of the pseudo ground truth that overlaps most


def pad(values: Tensor, counts: list[int]) -> Tensor:
    """Lay the proposals of a batch, one image after the other, out as one row per image.

    Args:
        values: ``[N, ...]``.
        counts: proposals of each image, N in all.

    Returns:
        ``[B, R, ...]``, padded with zeros.
    """
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(values, counts)), batch_first=True)


def real_proposals(counts: list[int]) -> Tensor:
    """Return the bool mask ``[B, R]`` that goes with ``pad``."""
    most = max(counts, default=0)
    return torch.arange(most)[None] < torch.tensor(counts)[:, None]


def wsddn_scores(class_logits: Tensor, detection_logits: Tensor, real: Tensor) -> Tensor:
    """Score every proposal for every class: softmax over classes times softmax over the image's proposals (WSDDN, eq. 2-4).

    Args:
        class_logits: ``[B, R, C]``; a background column, if there is one, counts as a class.
        detection_logits: ``[B, R, C]``.
        real: ``[B, R]``.

    Returns:
        float32 ``[B, R, C]`` in [0, 1], summing to at most 1 over an image's proposals; 0 for padding.
    """
    of_class = class_logits.float().softmax(dim=2)
    # A row without any proposal would be NaN, also in its gradient, had it nothing finite to normalise by.
    lowest = torch.finfo(torch.float32).min
    among_proposals = detection_logits.float().masked_fill(~real[..., None], lowest).softmax(dim=1)
    return of_class * among_proposals * real[..., None]


def image_loss(scores: Tensor, labels: Tensor, real: Tensor, *, epsilon: float, mean: bool) -> Tensor:
    """Binary cross-entropy of the image scores against the image's labels (WSDDN, eq. 5).

    Args:
        scores: ``[B, R, C]`` of ``wsddn_scores``; their sum over the proposals is the image's score.
        labels: bool ``[B, C]``.
        real: ``[B, R]``.
        epsilon: image scores are kept this far from 0 and 1; 0 in OICR, 1e-8 in MIST. Logarithms end at -100 anyway.
        mean: over classes (MIST) or their sum (OICR).

    Returns:
        float32 ``[B]``; 0 for an image without proposals.
    """
    with torch.autocast(scores.device.type, enabled=False):
        of_image = scores.sum(dim=1).clamp(epsilon, 1 - epsilon)
        losses = F.binary_cross_entropy(of_image, labels.to(of_image.dtype), reduction="none")
    return (losses.mean(dim=1) if mean else losses.sum(dim=1)) * real.any(dim=1)


@torch.no_grad()
def mine_mist(
    boxes_xyxy: Tensor,
    scores: Tensor,
    real: Tensor,
    labels: Tensor,
    *,
    share: float = 0.15,
    max_overlap: float = 0.2,
    min_iou: float = 0.5,
) -> PseudoLabels:
    """Take the best proposals of each present class that overlap no better one as pseudo ground truth (MIST, algorithm 1).

    Of an image's R proposals the ``int(share * R)`` best of a class are looked at, and at least one. One of them is pseudo
    ground truth if its IoU with *every* better one, kept or not, is below ``max_overlap``, which is stricter than NMS.

    Args:
        boxes_xyxy: ``[B, R, 4]``.
        scores: ``[B, R, C]`` of the branch before; equal ones rank by index.
        real: ``[B, R]``.
        labels: bool ``[B, C]``.
        share: in [0, 1]; 0 = the best one alone.
        max_overlap: IoU in [0, 1]; lower is stricter.
        min_iou: a proposal gets the class of the pseudo ground truth that overlaps it most if their IoU reaches this.
    """
    classes, present, slots = _present_classes(labels, scores, real)
    looked_at = _looked_at(real.sum(dim=1), share)  # [B]
    most = int(looked_at.max()) if len(looked_at) else 0
    ranked_scores, ranked = slots.sort(dim=2, descending=True, stable=True)  # [B, M, R]
    ranked_scores, ranked = ranked_scores[..., :most], ranked[..., :most]
    rows = torch.arange(len(boxes_xyxy), device=ranked.device)[:, None, None]
    candidates = boxes_xyxy[rows, ranked]  # [B, M, K, 4]
    close = (iou_matrix(candidates, candidates) >= max_overlap).tril(diagonal=-1)  # to those ranked better
    apart = ~close.any(dim=3)  # none ranks better than the best one, which therefore always stays
    in_time = torch.arange(most, device=ranked.device) < looked_at[:, None, None]
    chosen = apart & in_time & present[..., None]
    of_class = classes[..., None].expand_as(ranked)
    return _assign(
        boxes_xyxy,
        real,
        *_compact(candidates.flatten(1, 2), of_class.flatten(1), ranked_scores.flatten(1), chosen.flatten(1)),
        min_iou=min_iou,
    )


@torch.no_grad()
def mine_top1(
    boxes_xyxy: Tensor, scores: Tensor, real: Tensor, labels: Tensor, *, min_iou: float = 0.5
) -> PseudoLabels:
    """Take the best proposal of each present class as pseudo ground truth, never one for two classes (OICR's paper).

    Classes choose in their order. What one has chosen scores 0 for those after it, which take their second best.

    Args:
        boxes_xyxy: ``[B, R, 4]``.
        scores: ``[B, R, C]`` of the branch before; of equal ones the first is the best.
        real: ``[B, R]``.
        labels: bool ``[B, C]``.
        min_iou: a proposal gets the class of the pseudo ground truth that overlaps it most if their IoU *exceeds* this.
    """
    classes, present, slots = _present_classes(labels, scores, real)
    turns = slots.shape[1] if slots.shape[2] else 0  # without a proposal there is nothing to choose from
    chosen = torch.zeros_like(classes[:, :turns])
    score = torch.zeros(chosen.shape, device=slots.device)
    for turn in range(turns):
        score[:, turn], chosen[:, turn] = slots[:, turn].max(dim=1)  # the first of equals
        slots = slots.scatter(2, chosen[:, turn, None, None].expand(-1, slots.shape[1], 1), 0.0)
    return _assign(
        boxes_xyxy,
        real,
        boxes_xyxy.gather(1, chosen[..., None].expand(-1, -1, 4)),
        classes[:, :turns],
        score,
        present[:, :turns] & real.any(dim=1, keepdim=True),
        min_iou=min_iou,
        reached=False,
    )


@torch.no_grad()
def mine_oicr(
    boxes_xyxy: Tensor,
    scores: Tensor,
    real: Tensor,
    labels: Tensor,
    *,
    near_top: float = 0.9,
    nms_iou: float = 0.5,
    min_iou: float = 0.5,
    ignore_below: float = 0.0,
) -> PseudoLabels:
    """Take every proposal that scores nearly as well as the best of a present class as pseudo ground truth (OICR's code).

    Those of all classes then suppress each other by one NMS and are laid out best score first. A proposal that overlaps
    several of them equally, or none at all, goes to the first, so that the numbering of the classes decides between equal
    scores only.

    Args:
        boxes_xyxy: ``[B, R, 4]``.
        scores: ``[B, R, C]`` of the branch before.
        real: ``[B, R]``.
        labels: bool ``[B, C]``.
        near_top: in [0, 1]; a proposal needs this share of the best score of its class. Higher is stricter.
        nms_iou: suppression over all classes together, the higher score stays.
        min_iou: as in ``mine_mist``.
        ignore_below: a proposal whose best IoU is below it gets weight 0 (PCL's ignored band); 0 ignores none.
    """
    classes, present, slots = _present_classes(labels, scores, real)
    best = slots.amax(dim=2, keepdim=True) if slots.numel() else slots
    near = slots >= near_top * best
    chosen = (near & present[..., None] & real[:, None]).flatten(1)  # [B, M * R]
    candidates = boxes_xyxy[:, None].expand(*slots.shape, 4).flatten(1, 2)
    of_class, score = classes[..., None].expand_as(slots).flatten(1), slots.flatten(1)
    kept = torch.zeros_like(chosen)
    for row in range(len(chosen)):
        (places,) = chosen[row].nonzero(as_tuple=True)
        kept[row, places[nms(candidates[row, places].float(), score[row, places], nms_iou)]] = True
    return _assign(
        boxes_xyxy,
        real,
        *_compact(candidates, of_class, score, kept, by=score),
        min_iou=min_iou,
        ignore_below=ignore_below,
    )


def refinement_loss(logits: Tensor, pseudo: PseudoLabels, real: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Weighted cross-entropy of a refinement branch, averaged over an image's proposals (OICR, eq. 4).

    Args:
        logits: ``[B, R, 1 + C]``, the background first.
        pseudo: what to learn.
        real: ``[B, R]``.
        epsilon: added to the probability under the logarithm: 1e-6 in OICR's code, 0 in MIST's.

    Returns:
        float32 ``[B]``; 0 for an image without proposals.
    """
    with torch.autocast(logits.device.type, enabled=False):
        p = logits.float().softmax(dim=2)
        log_p = (p + epsilon).log() if epsilon else logits.float().log_softmax(dim=2)
        picked = log_p.gather(2, (pseudo.class_index + 1)[..., None])[..., 0]
        return _mean_over_proposals(-pseudo.weight * picked, real)


def box_loss(deltas: Tensor, target_deltas: Tensor, pseudo: PseudoLabels, real: Tensor) -> Tensor:
    """Weighted Smooth-L1 (beta 1, summed over the four coordinates) of foreground proposals (MIST, eq. 6).

    Args:
        deltas: ``[B, R, 1 + C, 4]``, one set per class, the background's first; or ``[B, R, 1, 4]`` for all classes alike.
        target_deltas: ``[B, R, 4]``, what takes each proposal to its pseudo ground truth.
        pseudo: which proposals are foreground, and their weights.
        real: ``[B, R]``.

    Returns:
        float32 ``[B]``: the sum over foreground proposals divided by the number of all of the image's proposals.
    """
    with torch.autocast(deltas.device.type, enabled=False):
        foreground = pseudo.class_index != BACKGROUND
        column = pseudo.class_index + 1 if deltas.shape[2] > 1 else torch.zeros_like(pseudo.class_index)
        own = deltas.float().gather(2, column[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        # A background proposal has no target: whatever stands there must not reach the gradient, not even as 0 * inf.
        target = torch.where(foreground[..., None], target_deltas.float(), own.detach())
        distance = F.smooth_l1_loss(own, target, reduction="none", beta=1.0).sum(dim=2)
        return _mean_over_proposals(pseudo.weight * distance, real)


def _present_classes(labels: Tensor, scores: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay the scores of the classes present out side by side.

    Returns:
        Their indices ``[B, M]``, ascending; which of these places are filled ``[B, M]``; float32 scores ``[B, M, R]``, -1
        for padding.
    """
    most = int(labels.sum(dim=1).max()) if len(labels) else 0
    order = labels.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    by_class = scores.float().masked_fill(~real[..., None], -1).transpose(1, 2)
    return order, labels.gather(1, order), by_class.gather(1, order[..., None].expand(-1, -1, scores.shape[1]))


def _looked_at(proposals: Tensor, share: float) -> Tensor:
    """Return how many of an image's best proposals of a class are looked at, int64 ``[B]``."""
    ranked = (proposals.double() * share).floor().long().clamp(min=1)
    return torch.where(proposals < MIN_PROPOSALS_FOR_SHARE, torch.ones_like(ranked), ranked) * (proposals > 0)


def _compact(
    boxes: Tensor, classes: Tensor, scores: Tensor, chosen: Tensor, *, by: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move the chosen of ``[B, S, ...]`` to the front, highest ``by`` (0 or more) first or in their order; cut the rest off."""
    most = int(chosen.sum(dim=1).max()) if len(chosen) else 0
    rank = chosen.int() if by is None else by.masked_fill(~chosen, -1)
    order = rank.argsort(dim=1, descending=True, stable=True)[:, :most]
    return (
        boxes.gather(1, order[..., None].expand(-1, -1, 4)),
        classes.gather(1, order),
        scores.gather(1, order),
        chosen.gather(1, order),
    )


def _assign(
    boxes_xyxy: Tensor,
    real: Tensor,
    truth_xyxy: Tensor,
    truth_class: Tensor,
    truth_score: Tensor,
    is_truth: Tensor,
    *,
    min_iou: float,
    ignore_below: float = 0.0,
    reached: bool = True,
) -> PseudoLabels:
    """Give every proposal the pseudo ground truth that overlaps it most, the first one of equals.

    It has its class if the overlap reaches ``min_iou`` or, with ``reached`` off, exceeds it.

    Its score is the proposal's weight also where the overlap is too small and the proposal is background: confidence in
    what is there is confidence in what is not.
    """
    if truth_xyxy.shape[1] == 0:
        return PseudoLabels(
            class_index=torch.full(real.shape, BACKGROUND, device=real.device),
            weight=torch.zeros(real.shape, device=real.device),
            target_boxes_xyxy=boxes_xyxy.float(),
        )
    overlap = iou_matrix(boxes_xyxy, truth_xyxy).masked_fill(~is_truth[:, None], -1)
    best, nearest = overlap.max(dim=2)  # the first of equals
    learnt = real & (best >= max(ignore_below, 0))
    foreground = learnt & (best >= min_iou if reached else best > min_iou)
    return PseudoLabels(
        class_index=torch.where(foreground, truth_class.gather(1, nearest), BACKGROUND),
        weight=torch.where(learnt, truth_score.gather(1, nearest), 0.0),
        target_boxes_xyxy=truth_xyxy.gather(1, nearest[..., None].expand(-1, -1, 4)).float(),
    )


def _mean_over_proposals(values: Tensor, real: Tensor) -> Tensor:
    return (values * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
