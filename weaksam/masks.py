"""Masks on the device that computes them: their boxes, which end one past the last pixel, and their run-length encodings."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from weaksam.masks_np import Rle


def masks_to_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """The tightest box around each mask, on the device of the masks and without a loop over them.

    Args:
        masks: bool ``[N, H, W]``; N may be 0.

    Returns:
        Boxes float32 ``[N, 4]`` XYXY with exclusive right and bottom, and bool ``[N]`` that is true where a mask has no
        pixel. The box of an empty mask is ``0 0 0 0``, which no other mask has: a single pixel at the origin has
        ``0 0 1 1``.
    """
    as_bytes = masks.view(torch.uint8)  # whose maximum, on a CPU, is several times faster than any()
    left, right = _first_and_end(as_bytes.amax(dim=-2).bool())
    top, bottom = _first_and_end(as_bytes.amax(dim=-1).bool())
    empty = right == 0
    boxes_xyxy = torch.stack((left, top, right, bottom), dim=-1)
    return boxes_xyxy.masked_fill(empty[:, None], 0).float(), empty


def _first_and_end(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First true position of each row of ``[N, L]`` and one past the last; L and 0 where none is true."""
    length = occupied.shape[-1]
    positions = torch.arange(length, dtype=torch.int32, device=occupied.device)
    first = torch.where(occupied, positions, length).amin(dim=-1)
    end = torch.where(occupied, positions + 1, 0).amax(dim=-1)
    return first, end


def encode_rles(masks: Tensor) -> list[Rle]:
    """COCO's compressed run-length encodings of several masks of one image: what ``encode_rle`` makes of each.

    An accelerator finds the runs itself, and only their lengths leave it.

    Args:
        masks: bool ``[N, H, W]``; N may be 0, and masks may be empty.
    """
    from pycocotools import mask as coco_mask

    height, width = masks.shape[1:]
    if masks.device.type == "cpu":
        down_columns = masks.transpose(1, 2).contiguous().numpy().view(np.uint8)
        encoded = coco_mask.encode(down_columns.transpose(2, 1, 0))
    else:
        runs = [{"size": [height, width], "counts": lengths.tolist()} for lengths in run_lengths(masks)]
        encoded = [coco_mask.frPyObjects(uncompressed, height, width) for uncompressed in runs]
    return [{"size": [height, width], "counts": bytes(rle["counts"])} for rle in encoded]


def paste_masks(masks: Tensor, boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> list[Rle]:
    """Draw masks that are known on grids of their boxes at an image's own size, one after the other.

    A pixel belongs to the object if what the grid says at its centre, between the centres of cells by bilinear interpolation,
    exceeds .5; nothing does outside the box.

    Args:
        masks: float32 ``[N, m, m]`` in [0, 1], on any device, which does the work.
        boxes_xyxy: ``[N, 4]``, pixels of the image, cut to it.
        size_hw: of the image. Memory holds one mask at a time, and of it the columns of its box.
    """
    height = size_hw[0]
    rles: list[Rle] = []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes_xyxy.tolist(), strict=True):
        left, top, right, bottom = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)
        drawn = torch.zeros(
            1, height, right - left, dtype=torch.bool, device=masks.device
        )  # of the box's columns alone
        if x2 > x1 and y2 > y1:
            x = (torch.arange(left, right, device=masks.device) + 0.5 - x1) / (x2 - x1)
            y = (torch.arange(top, bottom, device=masks.device) + 0.5 - y1) / (y2 - y1)
            at = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), dim=-1) * 2 - 1
            inside = ((x > 0) & (x < 1))[None, :] & ((y > 0) & (y < 1))[:, None]
            found = F.grid_sample(
                mask[None, None].float(), at[None].float(), padding_mode="border", align_corners=False
            )
            drawn[0, top:bottom] = (found[0, 0] > 0.5) & inside
        rles.append(_among_columns(run_lengths(drawn)[0], size_hw, left, right))
    return rles


def _among_columns(runs: NDArray[np.int64], size_hw: tuple[int, int], left: int, right: int) -> Rle:
    """Encode a mask of the columns from ``left`` to ``right`` of an image, whose other columns are outside of it."""
    from pycocotools import mask as coco_mask

    height, width = size_hw
    counts = [int(runs[0]) + left * height, *runs[1:].tolist()]
    behind = (width - right) * height
    if len(counts) % 2:  # the last run is outside already
        counts[-1] += behind
    else:
        counts.append(behind)
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": bytes(encoded["counts"])}


def run_lengths(masks: Tensor) -> list[NDArray[np.int64]]:
    """Lengths of the runs of each mask down its columns, those of pixels outside and inside in turn, from outside on.

    Args:
        masks: bool ``[N, H, W]`` on any device, which does the work.
    """
    count, height, width = masks.shape
    pixels = height * width
    down_columns = masks.new_zeros(count, 1 + pixels)  # each mask after a pixel outside
    down_columns[:, 1:].view(count, width, height).copy_(masks.transpose(1, 2))
    flat = down_columns.flatten()
    changes = (flat[1:] ^ flat[:-1]).nonzero()[:, 0].cpu().numpy()
    mask_index, position = np.divmod(changes, 1 + pixels)
    within = position < pixels  # others are ends of masks that reach their last pixel
    ends = np.bincount(mask_index[within], minlength=count).cumsum().tolist()
    of_each = [position[within][first:end] for first, end in pairwise([0, *ends])]
    return [np.diff(starts, prepend=0, append=pixels) for starts in of_each]
