"""SAM-based seeding: superpixels take the class whose activation they hold most of; a label map of them (FMA method 5.2).

A label map holds 0 for background and ``class_index + 1``. What no superpixel covers is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from weaksam.grab_cut import grab_cut
from weaksam.label_maps import painting_order
from weaksam.mask_runs import MaskRuns

# Share of a map's range from which on GrabCut may give a pixel to the class; the seed has those from .5 to .7 on.
_PERHAPS = 0.2


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The label map of one image, and what it was painted of."""

    label_map: NDArray[np.uint8]  # [H, W]
    label: NDArray[np.int64]  # [S] of each superpixel, 0 background
    confidence: NDArray[np.float32]  # [S] of that label, in [0, 1]
    fallback: bool  # there was no superpixel, and each pixel took its own class


def sam_seed(
    maps: Tensor, class_index: Sequence[int], superpixels: MaskRuns, level: Sequence[int], background_power: float
) -> Seed:
    """Paint the seed of one image.

    Args:
        maps: ``[N, h, w]``, of the image's N present classes, refined, on any device; negative values count as 0.
        class_index: N.
        superpixels: S at the image's own size, each of a pixel or more; S may be 0.
        level: S; wholes (2) are painted over parts (1), these over subparts (0), and of one level the more confident ones
            over others.
        background_power: p, the power of what the strongest class leaves of 1; lower makes more background
            (published: .6 and .7 on VOC).

    Returns:
        the seed; background everywhere without a class.
    """
    size_hw = superpixels.size_hw
    if not superpixels.count:
        return Seed(
            label_map=pixel_seed(maps, class_index, size_hw, background_power),
            label=np.zeros(0, np.int64),
            confidence=np.zeros(0, np.float32),
            fallback=True,
        )
    means = torch.from_numpy(superpixels.sums(_enlarged(maps, size_hw).cpu().numpy()) / superpixels.areas()).float()
    shares = _of_one(means) if superpixels.count == 1 and len(means) else _min_max(means)
    label, confidence = (found.numpy() for found in _best(shares, class_index, background_power))
    return Seed(
        label_map=paint(np.zeros(size_hw, np.uint8), superpixels, level, label, confidence),
        label=label,
        confidence=confidence,
        fallback=False,
    )


def paint(
    label_map: NDArray[np.uint8],
    superpixels: MaskRuns,
    level: Sequence[int],
    label: NDArray[np.int64],
    confidence: NDArray[np.floating],
) -> NDArray[np.uint8]:
    """Return a label map with superpixels painted over it: higher levels, and of one level the more confident, on top.

    Args:
        label_map: ``[H, W]``.
        superpixels: S; S may be 0.
        level: S.
        label: ``[S]``, the number that each gives its pixels.
        confidence: ``[S]``.
    """
    return superpixels.painted(label_map, painting_order(level, confidence.tolist()), label.tolist())


def pixel_seed(
    maps: Tensor, class_index: Sequence[int], size_hw: tuple[int, int], background_power: float
) -> NDArray[np.uint8]:
    """Paint the seed of one image without superpixels, by the same rule for each pixel: ``[H, W]``; see ``sam_seed``."""
    pixels = _enlarged(maps, size_hw).flatten(1)
    label, _ = _best(_min_max(pixels), class_index, background_power)
    return label.to(torch.uint8).view(size_hw).cpu().numpy()


def cut_along_colours(
    image: NDArray[np.uint8], label_map: NDArray[np.uint8], maps: Tensor, class_index: Sequence[int]
) -> NDArray[np.uint8]:
    """Cut the classes of a seed out along the colours of the image, each by a GrabCut of its own.

    A class is probably where the seed has it, and surely not where its map is low. Where GrabCut finds nothing, it keeps its
    pixels of the seed; of pixels that several are given, the one with the higher share of its map's range has each.

    Args:
        image: ``[H, W, 3]`` RGB.
        label_map: ``[H, W]``, the seed.
        maps: ``[N, h, w]``, of the image's N present classes, that it was made of; see ``sam_seed``.
        class_index: N.

    Returns:
        ``[H, W]``; as it was without a class.
    """
    if not len(maps):
        return label_map
    size_hw = (image.shape[0], image.shape[1])
    shares = _min_max(_enlarged(maps, size_hw).flatten(1)).view(-1, *size_hw).cpu().numpy()
    numbers = np.array(class_index) + 1
    claims = np.zeros(shares.shape, np.bool_)
    for claim, share, number in zip(claims, shares, numbers, strict=True):
        cut = grab_cut(image, label_map == number, share >= _PERHAPS)
        claim[:] = label_map == number if cut is None else cut
    strongest = np.where(claims, shares, -1).argmax(axis=0)
    return np.where(claims.any(axis=0), numbers[strongest], 0).astype(np.uint8)


def _enlarged(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if not len(maps):
        return maps.new_zeros(0, *size_hw, dtype=torch.float32)
    return F.interpolate(maps[None].float(), size_hw, mode="bilinear", align_corners=False)[0].clamp(min=0)


def _min_max(values: Tensor) -> Tensor:
    """Bring each row ``[N, S]`` to [0, 1] by its least and its greatest; one of equal values to 0.

    However small they are: of an image that CLIP is sure of, maps are not much more than 1e-7, which is published as the least
    divisor.
    """
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)


def _of_one(means: Tensor) -> Tensor:
    """Give the one mask ``[N, 1]``, which cannot be the best of several, to its strongest class, if it holds any of it."""
    return ((means == means.amax(dim=0, keepdim=True)) & (means > 0)).to(means.dtype)


def _best(shares: Tensor, class_index: Sequence[int], background_power: float) -> tuple[Tensor, Tensor]:
    """Return of shares ``[N, S]`` the labels ``[S]``, 0 for background, and their scores; of equal ones the first is taken."""
    strongest = shares.amax(dim=0, keepdim=True) if len(shares) else shares.new_zeros(1, shares.shape[1])
    scores = torch.cat([(1 - strongest).pow(background_power), shares])
    confidence = scores.amax(dim=0)
    first = (scores == confidence).to(torch.uint8).argmax(dim=0)
    numbers = torch.tensor([0, *(c + 1 for c in class_index)], device=shares.device)
    return numbers[first], confidence
