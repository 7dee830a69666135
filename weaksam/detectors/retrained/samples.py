"""From an image and its pseudo ground truth to what a retrained detector is fed with (method 6.3, 7.1).

Views are scaled to one of several shorter sides and mirrored half of the time; DINO's are first cut to a random window half
of the time. As in ``mil/samples.py`` every random choice of a view comes from one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam.config import RetrainConfig
from weaksam.detectors.mil.samples import Normaliser, mirrored, scaled
from weaksam.detectors.retrained.base import Targets
from weaksam.detectors.retrained.mask_targets import fitted, mask_grids
from weaksam.errors import DataError
from weaksam.io.images import require_size_of
from weaksam.networks.pixels import padded_batch
from weaksam.structures import PseudoGroundTruth

_NO_LIMIT = 2**31  # pixels


class BoxBatch(NamedTuple):
    """Views of several images, padded to one size; the arguments of a retrained detector."""

    images: Tensor  # float32 [B, 3, H, W], 0 (the mean colour) right of and below each view
    sizes_hw: Tensor  # int64 [B, 2], of each view in pixels
    targets: list[Targets]


def learnable(truth: PseudoGroundTruth, min_box_side: int) -> PseudoGroundTruth:
    """Return the boxes with an area whose sides are at least ``min_box_side`` pixels; there may be none."""
    sides = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
    kept = ((sides > 0) & (sides >= min_box_side)).all(axis=1)
    return truth.take(np.flatnonzero(kept).tolist())


def least_side(config: RetrainConfig) -> int:
    """Return how many pixels an image's shorter side must have so that no view enlarges it; 0 = all that it has."""
    if config.jitter or config.detector.learns_masks:  # which may enlarge any; masks are of the whole image
        return 0
    return max((*config.scales, *config.crop_scales))


def box_sample(
    image: NDArray[np.uint8], truth: PseudoGroundTruth, config: RetrainConfig, pixels: Normaliser, seed: int
) -> tuple[Tensor, Targets]:
    """Make one training view: perhaps cut, scaled, mirrored half of the time if ``config.flip``, normalised.

    Args:
        image: ``[H, W, 3]`` RGB.
        truth: pixels of the image.
        config: ``scales``, ``max_side``, ``flip``, ``crop_scales``, ``crop_sides`` and ``jitter`` are read, and whether its
            detector learns from masks, which ``truth`` must have then.
        pixels: how the detector's weights want them.
        seed: decides every random choice.

    Returns:
        the view, float32 ``[3, h, w]``, and its boxes, with their masks if wanted; an object of which the window shows nothing
        is gone. Where masks are wanted, a box that was cut is fitted to what the window shows of its mask.

    Raises:
        DataError: masks are wanted, and there are none.
        ImageError: they are wanted, and the picture is not the one that they were made of.
    """
    random = np.random.default_rng(seed)
    scale = int(random.choice(config.scales))
    mirror, cut = random.random(2) < 0.5
    boxes_xyxy, size_hw = truth.boxes_xyxy, (image.shape[0], image.shape[1])
    if config.detector.learns_masks:
        _require_masks(truth, size_hw)
    window: tuple[int, int, int, int] | None = None
    if config.jitter:
        image, boxes_xyxy = scaled(image, boxes_xyxy, _jittered(image.shape[:2], config, random), _NO_LIMIT)
        window = _random_window(image.shape[:2], (config.jitter_side, config.jitter_side), random)
    elif cut and config.crop_scales:
        image, boxes_xyxy = scaled(image, boxes_xyxy, int(random.choice(config.crop_scales)), config.max_side)
        window = _random_window(image.shape[:2], config.crop_sides, random)
    if window is not None:
        to_image = np.array([size_hw[1] / image.shape[1], size_hw[0] / image.shape[0]] * 2, np.float32)
        image, boxes_xyxy, seen = cropped(image, boxes_xyxy, window)
        corner = np.array(window[:2] * 2, np.float32)
        # What of the boxes the window shows, in pixels of the image.
        truth = replace(truth.take(np.flatnonzero(seen).tolist()), boxes_xyxy=(boxes_xyxy + corner) * to_image)
        if truth.mask_rle is not None and config.detector.learns_masks:
            tight, shows = fitted(truth.mask_rle, truth.boxes_xyxy)
            truth = replace(truth, boxes_xyxy=tight).take(np.flatnonzero(shows).tolist())
            boxes_xyxy = truth.boxes_xyxy / to_image - corner
    if config.jitter:
        kept = ((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) >= 1).all(axis=1)  # others are less than a pixel
        truth, boxes_xyxy = truth.take(np.flatnonzero(kept).tolist()), boxes_xyxy[kept]
    else:
        image, boxes_xyxy = scaled(image, boxes_xyxy, scale, config.max_side)
    cells = config.detector.mask_cells
    masks = mask_grids(truth.mask_rle or [], truth.boxes_xyxy, cells) if config.detector.learns_masks else None
    if mirror and config.flip:
        image, boxes_xyxy = mirrored(image, boxes_xyxy)
        masks = None if masks is None else masks.flip(-1)
    return pixels.normalise(image), Targets(torch.from_numpy(boxes_xyxy), torch.from_numpy(truth.class_index), masks)


def cropped(
    image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], window_xyxy: tuple[int, int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Cut an image ``[H, W, 3]`` and its boxes ``[N, 4]`` to a window inside it.

    Returns:
        the window's pixels, what it shows of the M boxes that it shows something of ``[M, 4]``, and which of the N they are.
    """
    left, top, right, bottom = window_xyxy
    shifted = boxes_xyxy - np.array([left, top, left, top], np.float32)
    inside: NDArray[np.float32] = shifted.clip(0, np.array([right - left, bottom - top] * 2, np.float32))
    seen: NDArray[np.bool_] = np.all(inside[:, 2:] > inside[:, :2], axis=1)
    return image[top:bottom, left:right], inside[seen], seen


def collate_boxes(samples: Sequence[tuple[Tensor, Targets]]) -> BoxBatch:
    """Lay views ``[3, h, w]`` out as one batch, padded right and below to a multiple of 32 pixels."""
    views, targets = zip(*samples, strict=True)
    return BoxBatch(
        images=padded_batch(views),
        sizes_hw=torch.tensor([v.shape[1:] for v in views]),
        targets=list(targets),
    )


def _jittered(size_hw: tuple[int, ...], config: RetrainConfig, random: np.random.Generator) -> int:
    """Draw the shorter side of a view of an image: what fits it into the square, times a factor."""
    low, high = config.jitter
    factor = float(random.uniform(low, high)) * config.jitter_side / max(size_hw[:2])
    return max(1, round(factor * min(size_hw[:2])))


def _require_masks(truth: PseudoGroundTruth, size_hw: tuple[int, int]) -> None:
    if truth.mask_rle is None:
        raise DataError("expected pseudo ground truth with masks, got boxes alone; let it come from segment")
    for rle in truth.mask_rle:
        require_size_of(size_hw, rle["size"], "masks")


def _random_window(
    size_hw: tuple[int, ...], sides: tuple[int, int], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a window whose sides lie between the two given ones, or are the image's where that is smaller."""
    height, width = size_hw[:2]
    h, w = (int(random.integers(min(sides[0], s), min(sides[1], s), endpoint=True)) for s in (height, width))
    top, left = int(random.integers(height - h, endpoint=True)), int(random.integers(width - w, endpoint=True))
    return left, top, left + w, top + h
