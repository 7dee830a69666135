"""Detections that need no detector: what an average precision or a CorLoc is worth only beside them.

An image-level classifier that says *what* is there already earns part of the score with any box; the rest is what a
detector knows of *where*. Both rules take the image's score of each class and put one box to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weaksam.random import derive_seed
from weaksam.structures import Detections


def whole_image_detections(size_hw: tuple[int, int], image_scores: NDArray[np.float32]) -> Detections:
    """The whole image as one detection of each class, with the image's score of that class.

    Args:
        size_hw: height and width of the image in pixels.
        image_scores: [C], NaN where unknown: such a class gets no detection.

    Returns:
        At most C detections, by class.
    """
    height, width = size_hw
    boxes_xyxy = np.tile(np.array([0, 0, width, height], np.float32), (len(image_scores), 1))
    return _one_per_class(boxes_xyxy, image_scores)


def random_proposal_detections(
    proposals_xyxy: NDArray[np.float32], image_scores: NDArray[np.float32], *, image_id: str | int, seed: int = 0
) -> Detections:
    """One random proposal as detection of each class, with the image's score of that class.

    Args:
        proposals_xyxy: [N, 4], all equally likely, drawn again for each class; without any there are no detections.
        image_scores: [C], NaN where unknown: such a class gets no detection, and the others keep theirs.
        image_id: decides the draw together with ``seed`` and the number of proposals.
        seed: another seed draws other proposals.

    Returns:
        At most C detections, by class.
    """
    if len(proposals_xyxy) == 0:
        return _one_per_class(np.zeros((0, 4), np.float32), image_scores)
    generator = np.random.default_rng(derive_seed("random proposal", seed, image_id))
    return _one_per_class(proposals_xyxy[generator.integers(len(proposals_xyxy), size=len(image_scores))], image_scores)


def _one_per_class(boxes_xyxy: NDArray[np.float32], image_scores: NDArray[np.float32]) -> Detections:
    """Detections of box c as class c where its score is known; boxes are [C, 4], or [0, 4] for none at all."""
    known = np.flatnonzero(~np.isnan(image_scores[: len(boxes_xyxy)]))
    return Detections(
        boxes_xyxy=boxes_xyxy[known],
        class_index=known.astype(np.int64),
        score=image_scores[known],
        image_scores=image_scores,
    )
