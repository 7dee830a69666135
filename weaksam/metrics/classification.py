"""How well image-level scores rank: average precision per class (mAP) and, as published, per image.

The WeakTr code reports the mean over *images* of the average precision along the class axis, which rewards ordering the
classes of one image; the usual mAP is the mean over *classes* along the image axis. Both are given, neither is used to
select weights on anything but image labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ClassificationScores:
    """Average precisions in [0, 1]; NaN where there is nothing to average."""

    per_class: NDArray[np.float64]  # [C], NaN for a class without a positive image
    mean_ap: float  # mean over the classes that have a positive image
    mean_ap_per_image: float  # mean over the images that have a class (WeakTr's published variant)
    images: int  # images whose labels are known


def average_precision(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the precision-recall steps of one ranking, not interpolated; higher scores rank first.

    Items with equal scores enter together, so that their order in the input cannot matter: two items of equal score,
    one of them positive, give 0.5.

    Args:
        scores: [N] finite.
        positive: [N].

    Returns:
        In (0, 1], NaN without a positive item.
    """
    num_positive = int(positive.sum())
    if num_positive == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    found = np.cumsum(positive[order])[last_of_tie]
    taken = np.flatnonzero(last_of_tie) + 1
    gained = np.diff(found, prepend=0)
    return float((gained * (found / taken)).sum() / num_positive)


def classification_scores(logits: NDArray[np.floating], labels: Sequence[Sequence[int] | None]) -> ClassificationScores:
    """Score a classifier's ranking against image-level labels.

    Args:
        logits: [B, C] finite, logits or probabilities.
        labels: per image the classes present; ``None`` where unknown, and the image is left out.

    Raises:
        ValueError: if ``labels`` has another length than ``logits`` or a score is not finite.
    """
    if len(labels) != len(logits):
        raise ValueError(f"expected labels for {len(logits)} images, got {len(labels)}")
    if not np.isfinite(logits).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    known = [n for n, present in enumerate(labels) if present is not None]
    scores = np.asarray(logits, dtype=np.float64)[known]
    positive = np.zeros(scores.shape, dtype=bool)
    for row, n in enumerate(known):
        positive[row, list(labels[n] or ())] = True

    per_class = np.array([average_precision(*column) for column in zip(scores.T, positive.T, strict=True)])
    per_image = np.array([average_precision(*row) for row in zip(scores, positive, strict=True)])
    return ClassificationScores(
        per_class=per_class,
        mean_ap=mean_of_known(per_class),
        mean_ap_per_image=mean_of_known(per_image),
        images=len(known),
    )


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Elementwise share in [0, 1] of counts of one shape, NaN of a whole of 0."""
    shares: NDArray[np.float64] = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return shares
