"""Masks: their boxes, and COCO's compressed run-length encoding.

A mask's box ends one past its last pixel; this is the only place where that one is added.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rle = dict[str, Any]  # COCO's compressed run-length encoding of a mask: ``size`` as [H, W] and ``counts`` as bytes


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


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """COCO's compressed run-length encoding of one mask.

    Args:
        mask: bool ``[H, W]``; an empty mask is fine.

    Returns:
        ``size`` as [H, W] and ``counts`` as bytes, which is what pycocotools reads.
    """
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": bytes(encoded["counts"])}


def encode_rles(masks: Tensor) -> list[Rle]:
    """COCO's compressed run-length encodings of several masks of one image: what ``encode_rle`` makes of each.

    Runs are found on the device of the masks, which only their lengths leave.

    Args:
        masks: bool ``[N, H, W]``; N may be 0, and masks may be empty.
    """
    from pycocotools import mask as coco_mask

    count, height, width = masks.shape
    down_columns = masks.transpose(1, 2).flatten(1)
    before = torch.nn.functional.pad(down_columns[:, :-1], (1, 0))  # of the first pixel: outside
    mask_index, position = (down_columns ^ before).nonzero(as_tuple=True)
    ends = torch.bincount(mask_index, minlength=count).cumsum(0).tolist()
    positions: NDArray[np.int64] = position.cpu().numpy()
    rles: list[Rle] = []
    for first, end in zip([0, *ends], ends, strict=False):
        runs = np.diff(positions[first:end], prepend=0, append=height * width)
        encoded = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
        rles.append({"size": [height, width], "counts": bytes(encoded["counts"])})
    return rles


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask behind COCO's compressed run-length encoding; the inverse of ``encode_rle``.

    Returns:
        bool ``[H, W]``.
    """
    from pycocotools import mask as coco_mask

    with warnings.catch_warnings():
        # pycocotools' array type predates numpy 2; it decodes correctly.
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        decoded: NDArray[np.uint8] = coco_mask.decode(rle)
    return decoded.astype(np.bool_)
