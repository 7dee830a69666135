"""Pseudo ground truth: which detections of a training image a detector is retrained on (Algorithm 2; method 5).

Detections of classes that are no labels of their image are discarded first. Adaptive selection normalises the scores of
each class in each image, keeps what exceeds a threshold and the best box whatever it is, and removes boxes that lie mostly
inside a larger kept one: parts of an object. The baseline of Table 5 takes the best boxes of each class instead.

All images are worked off together: detections are grouped by sorting, and the boxes of a group are compared pair by pair in
flat arrays of bounded size. Nothing here imports torch. Thresholds left to the data ("auto") are numbers after ``fill_in``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weaksam.boxes_np import intersection_area
from weaksam.config import PseudoLabelsConfig
from weaksam.pseudo_labels.thresholds import two_groups
from weaksam.structures import Detections, PseudoGroundTruth

# Why a detection is no pseudo label; ``Selection.reason`` counts through these.
REASONS = ("kept", "not an image label", "low score", "covered", "not the best")
KEPT, NOT_A_LABEL, LOW_SCORE, COVERED, NOT_THE_BEST = range(len(REASONS))

_PUBLISHED_EPSILON = 1e-8  # beside the denominator, with ``normalise: range``
_PAIRS_AT_ONCE = 2**18  # about 40 MB of temporaries


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What becomes of N detections."""

    reason: NDArray[np.int8]  # [N] index into ``REASONS``
    score_normalised: NDArray[np.float32]  # [N] in [0, 1] among its class and image; NaN for a class that is no label

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which detections are pseudo ground truth, [N]."""
        kept: NDArray[np.bool_] = self.reason == KEPT
        return kept


def select(
    boxes_xyxy: NDArray[np.float32],
    class_index: NDArray[np.int64],
    score: NDArray[np.float32],
    image_index: NDArray[np.int64],
    labels: NDArray[np.bool_],
    config: PseudoLabelsConfig,
) -> Selection:
    """Choose the pseudo ground truth of B images among N detections; the order in which they are given breaks ties.

    Adaptive, for every label with a detection: a detection goes for its "low score" unless its normalised score is strictly
    above ``tau_s`` or it is the best, and then as "covered" if another one that was not too low covers ``tau_o`` or more of
    its area. That other one must be larger (of equal areas the better, then the earlier one), so the largest box of a class
    always stays and of identical boxes one does. With ``covered_by: any``, as in the paper and the published code, two
    boxes may remove each other, and a class may lose its last box. A box without area counts as covered by every other.

    Top-1: the ``top_k`` best detections of each label, of those with a score above 0.

    Args:
        boxes_xyxy: ``[N, 4]``.
        class_index: ``[N]`` in 0..C-1.
        score: ``[N]``, finite.
        image_index: ``[N]`` in 0..B-1, in any order.
        labels: ``[B, C]``: which classes are known to be in each image.
        config: says which way, and how strictly; its thresholds must be numbers.

    Returns:
        what becomes of each detection. Where a class has one detection, or equal scores, they are normalised to 1.

    Raises:
        ValueError: a threshold is "auto".
    """
    if config.tau_s == "auto" or config.tau_o == "auto":
        raise ValueError('expected thresholds that are numbers, got "auto"; fill_in() chooses them from all images')
    reason = np.full(len(score), NOT_A_LABEL, np.int8)
    score_normalised = np.full(len(score), np.nan, np.float32)
    rows, groups, normalised = _ranked(class_index, score, image_index, labels, config)
    score_normalised[rows] = normalised.clip(0, 1)
    if config.mode == "top1":
        reason[rows] = np.where(groups.rank < config.top_k, KEPT, NOT_THE_BEST)
        reason[rows[score[rows] <= 0]] = LOW_SCORE
    else:
        high = (normalised > config.tau_s) | (groups.rank == 0)
        reason[rows] = np.where(high, KEPT, LOW_SCORE)
        coverage = _coverage(boxes_xyxy[rows[high]], groups.number[high], config)
        reason[rows[high][coverage >= config.tau_o]] = COVERED
    return Selection(reason=reason, score_normalised=score_normalised)


def fill_in(
    boxes_xyxy: NDArray[np.float32],
    class_index: NDArray[np.int64],
    score: NDArray[np.float32],
    image_index: NDArray[np.int64],
    labels: NDArray[np.bool_],
    config: PseudoLabelsConfig,
) -> PseudoLabelsConfig:
    """Replace thresholds that are "auto" by what parts the N detections of B images best into two groups (Otsu's criterion).

    ``tau_s`` parts the normalised scores of all detections of labels: most are near 0, the best of each class are 1.
    ``tau_o`` parts the shares of their areas that boxes above ``tau_s`` are covered to, where they are covered at all: parts
    of objects are nearly whole inside. With too few different values for two groups the paper's number is taken.

    Args:
        boxes_xyxy: as in ``select``, like all others.
        class_index: as in ``select``.
        score: as in ``select``.
        image_index: as in ``select``.
        labels: as in ``select``.
        config: whose thresholds may be "auto".
    """
    rows, groups, normalised = _ranked(class_index, score, image_index, labels, config)
    tau_s, tau_o = config.tau_s, config.tau_o
    if tau_s == "auto":
        tau_s = _parted(normalised, PseudoLabelsConfig.tau_s)
    if tau_o == "auto":
        high = (normalised > tau_s) | (groups.rank == 0)
        coverage = _coverage(boxes_xyxy[rows[high]], groups.number[high], config)
        tau_o = _parted(coverage[coverage > 0], PseudoLabelsConfig.tau_o)
    return replace(config, tau_s=tau_s, tau_o=tau_o)


def pseudo_ground_truth(
    detections: Detections, labels: Collection[int], config: PseudoLabelsConfig
) -> PseudoGroundTruth:
    """Choose the pseudo ground truth of one image whose labels are given as class indices, see ``select``.

    Returns:
        the detections kept, in their order; none for an image without labels.
    """
    num_classes = 1 + max([*labels, *detections.class_index.tolist()], default=0)
    present = np.zeros((1, num_classes), np.bool_)
    present[0, list(labels)] = True
    selection = select(
        detections.boxes_xyxy,
        detections.class_index,
        detections.score,
        np.zeros(len(detections), np.int64),
        present,
        config,
    )
    kept = selection.kept
    return PseudoGroundTruth(
        boxes_xyxy=detections.boxes_xyxy[kept],
        class_index=detections.class_index[kept],
        score=detections.score[kept],
        score_normalised=selection.score_normalised[kept],
    )


class _Groups(NamedTuple):
    """Runs of equal values in a sorted array of M, one after the other."""

    number: NDArray[np.int64]  # [M] of each item's group, rising
    rank: NDArray[np.int64]  # [M] of each item in its group, from 0
    first: NDArray[np.int64]  # [M] position of the group's first item
    last: NDArray[np.int64]  # [M] of its last


def _groups(rising: NDArray[np.int64]) -> _Groups:
    starts = np.flatnonzero(np.diff(rising, prepend=-1))
    sizes = np.diff(starts, append=len(rising))
    first = np.repeat(starts, sizes)
    return _Groups(rising, np.arange(len(rising)) - first, first, first + np.repeat(sizes, sizes) - 1)


def _ranked(
    class_index: NDArray[np.int64],
    score: NDArray[np.float32],
    image_index: NDArray[np.int64],
    labels: NDArray[np.bool_],
    config: PseudoLabelsConfig,
) -> tuple[NDArray[np.int64], _Groups, NDArray[np.float64]]:
    """Return the M detections of labels, class by class and image by image, best first; and their normalised scores."""
    rows = np.flatnonzero(labels[image_index, class_index])
    group = image_index[rows].astype(np.int64) * labels.shape[1] + class_index[rows]
    order = np.lexsort((-score[rows], group))  # stable: equal scores stay in the order given
    rows, groups = rows[order], _groups(group[order])
    return rows, groups, _normalised(score[rows].astype(np.float64), groups, config)


def _parted(values: NDArray[np.float64], otherwise: float | str) -> float:
    try:
        return two_groups(values)
    except ValueError:
        return float(otherwise)


def _normalised(falling: NDArray[np.float64], groups: _Groups, config: PseudoLabelsConfig) -> NDArray[np.float64]:
    """Normalise the scores of each group, given best first: [M] -> [M], 1 where all of a group are equal."""
    best, worst = falling[groups.first], falling[groups.last]
    above, spread = falling - worst, best - worst
    if config.normalise == "range":
        above, spread = falling, np.where(spread > 0, spread + _PUBLISHED_EPSILON, 0)
    return np.divide(above, spread, out=np.ones_like(falling), where=spread > 0)


def _coverage(
    boxes_xyxy: NDArray[np.float32], group: NDArray[np.int64], config: PseudoLabelsConfig
) -> NDArray[np.float64]:
    """Return how much of each of M boxes, grouped and best first, another one of its group covers at most.

    Args:
        boxes_xyxy: ``[M, 4]``.
        group: ``[M]`` rising.
        config: ``covered_by`` says which other ones count.

    Returns:
        ``[M]`` shares of their areas, -1 for a box beside which no other counts.
    """
    boxes = boxes_xyxy.astype(np.float64)
    area = intersection_area(boxes, boxes)
    order = np.lexsort((-area, group))  # largest of each group first; of equal areas the better stays before the other
    boxes, area, groups = boxes[order], area[order], _groups(group[order])

    coverage = np.full(len(boxes), -1.0)
    pairs = np.cumsum(groups.rank)  # of every box with those before it in its group, up to and including this box
    begin = 0
    while begin < len(boxes):
        done = pairs[begin] - groups.rank[begin]
        end = max(begin + 1, int(np.searchsorted(pairs, done + _PAIRS_AT_ONCE, side="right")))
        smaller = np.repeat(np.arange(begin, end), groups.rank[begin:end])
        within = np.arange(len(smaller)) - (pairs - groups.rank - done)[smaller]
        larger = groups.first[smaller] + within
        shared = intersection_area(boxes[smaller], boxes[larger])
        np.maximum.at(coverage, smaller, _share(shared, area[smaller]))
        if config.covered_by == "any":
            np.maximum.at(coverage, larger, _share(shared, area[larger]))
        begin = end
    in_given_order = np.empty_like(coverage)
    in_given_order[order] = coverage
    return in_given_order


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)
