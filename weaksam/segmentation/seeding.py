"""SAM-based seeding: superpixels take the class whose activation they hold most of; a label map of them (FMA method 5.2).

A label map holds 0 for background and ``class_index + 1``. What no superpixel covers is background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from weaksam.chunks import chunk_size, in_chunks
from weaksam.grab_cut import grab_cut
from weaksam.label_maps import painting_order

_EPSILON = 1e-7
# Share of a map's range from which on GrabCut may give a pixel to the class; the seed has those from .5 to .7 on.
_PERHAPS = 0.2


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The label map of one image, and what it was painted of."""

    label_map: Tensor  # uint8 [H, W]
    label: Tensor  # int64 [S] of each superpixel, 0 background
    confidence: Tensor  # float32 [S] of that label, in [0, 1]
    fallback: bool  # there was no superpixel, and each pixel took its own class


def sam_seed(maps: Tensor, class_index: Tensor, masks: Tensor, level: Tensor, background_power: float) -> Seed:
    """Paint the seed of one image.

    Args:
        maps: ``[N, h, w]``, of the image's N present classes, refined; negative values count as 0.
        class_index: int64 ``[N]``.
        masks: bool ``[S, H, W]``, the superpixels at the image's own size, each of a pixel or more; S may be 0.
        level: int64 ``[S]``; wholes (2) are painted over parts (1), these over subparts (0), and of one level the more
            confident ones over others.
        background_power: p, the power of what the strongest class leaves of 1; lower makes more background
            (published: .6 and .7 on VOC).

    Returns:
        the seed; background everywhere without a class.
    """
    size_hw = (masks.shape[1], masks.shape[2])
    pixels = _enlarged(maps, size_hw)
    if not len(masks):
        return Seed(
            label_map=pixel_seed(maps, class_index, size_hw, background_power),
            label=class_index.new_zeros(0),
            confidence=pixels.new_zeros(0),
            fallback=True,
        )
    means = _means(pixels, masks)
    shares = _of_one(means) if len(masks) == 1 and len(means) else _min_max(means)
    label, confidence = _best(shares, class_index, background_power)
    label_map = torch.zeros(size_hw, dtype=torch.uint8, device=masks.device)
    paint(label_map, masks, level, label, confidence)
    return Seed(label_map=label_map, label=label, confidence=confidence, fallback=False)


def paint(label_map: Tensor, masks: Tensor, level: Tensor, label: Tensor, confidence: Tensor) -> None:
    """Paint superpixels over a label map ``[H, W]``, in place: higher levels, and of one level the more confident, on top.

    Args:
        label_map: uint8 ``[H, W]``.
        masks: bool ``[S, H, W]``; S may be 0.
        level: int64 ``[S]``.
        label: int64 ``[S]``, the number that each gives its pixels.
        confidence: float32 ``[S]``.
    """
    numbers = label.tolist()
    for n in painting_order(level.tolist(), confidence.tolist()):
        label_map.masked_fill_(masks[n], numbers[n])


def pixel_seed(maps: Tensor, class_index: Tensor, size_hw: tuple[int, int], background_power: float) -> Tensor:
    """Paint the seed of one image without superpixels, by the same rule for each pixel: uint8 ``[H, W]``; see ``sam_seed``."""
    pixels = _enlarged(maps, size_hw).flatten(1)
    label, _ = _best(_min_max(pixels), class_index, background_power)
    return label.to(torch.uint8).view(size_hw)


def cut_along_colours(image: NDArray[np.uint8], label_map: Tensor, maps: Tensor, class_index: Tensor) -> Tensor:
    """Cut the classes of a seed out along the colours of the image, each by a GrabCut of its own.

    A class is probably where the seed has it, and surely not where its map is low. Where GrabCut finds nothing, it keeps its
    pixels of the seed; of pixels that several are given, the one with the higher share of its map's range has each.

    Args:
        image: ``[H, W, 3]`` RGB.
        label_map: uint8 ``[H, W]``, the seed.
        maps: ``[N, h, w]``, of the image's N present classes, that it was made of; see ``sam_seed``.
        class_index: int64 ``[N]``.

    Returns:
        uint8 ``[H, W]``; as it was without a class.
    """
    if not len(maps):
        return label_map
    size_hw = (image.shape[0], image.shape[1])
    shares = _min_max(_enlarged(maps, size_hw).flatten(1)).view(-1, *size_hw).cpu().numpy()
    seed = label_map.cpu().numpy()
    numbers = class_index.cpu().numpy() + 1
    claims = np.zeros(shares.shape, np.bool_)
    for claim, share, number in zip(claims, shares, numbers, strict=True):
        cut = grab_cut(image, seed == number, share >= _PERHAPS)
        claim[:] = seed == number if cut is None else cut
    strongest = np.where(claims, shares, -1).argmax(axis=0)
    found = np.where(claims.any(axis=0), numbers[strongest], 0).astype(np.uint8)
    return torch.from_numpy(found).to(label_map.device)


def _means(pixels: Tensor, masks: Tensor) -> Tensor:
    """Return the mean of each map ``[N, H, W]`` over each mask ``[S, H, W]``: ``[N, S]``, by products of matrices."""
    mask_bytes = masks[0].numel() * pixels.element_size()
    as_bytes = masks.view(torch.uint8)  # from which a CPU converts several times faster than from bool

    def means(chunk: slice) -> Tensor:
        flat = as_bytes[chunk].flatten(1).to(pixels.dtype)
        return (pixels.flatten(1) @ flat.T) / flat.sum(dim=1)

    at_once = chunk_size(masks.device, tensor_bytes=mask_bytes, peak_bytes=mask_bytes)
    return torch.cat(list(in_chunks(len(masks), at_once, means)), dim=1)


def _enlarged(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if not len(maps):
        return maps.new_zeros(0, *size_hw, dtype=torch.float32)
    return F.interpolate(maps[None].float(), size_hw, mode="bilinear", align_corners=False)[0].clamp(min=0)


def _min_max(values: Tensor) -> Tensor:
    """Bring each row ``[N, S]`` to [0, 1] by its least and its greatest."""
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    return (values - low) / (high - low + _EPSILON)


def _of_one(means: Tensor) -> Tensor:
    """Give the one mask ``[N, 1]``, which cannot be the best of several, to its strongest class, if it holds any of it."""
    return ((means == means.amax(dim=0, keepdim=True)) & (means > 0)).to(means.dtype)


def _best(shares: Tensor, class_index: Tensor, background_power: float) -> tuple[Tensor, Tensor]:
    """Return of shares ``[N, S]`` the labels ``[S]``, 0 for background, and their scores; of equal ones the first is taken."""
    strongest = shares.amax(dim=0, keepdim=True) if len(shares) else shares.new_zeros(1, shares.shape[1])
    scores = torch.cat([(1 - strongest).pow(background_power), shares])
    confidence = scores.amax(dim=0)
    first = (scores == confidence).to(torch.uint8).argmax(dim=0)
    return torch.cat([class_index.new_zeros(1), class_index + 1])[first], confidence
