"""Masks: their boxes, and COCO's compressed run-length encoding.

A mask's box ends one past its last pixel; this is the only place where that one is added.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, object]:
    """COCO's compressed run-length encoding of one mask.

    Args:
        mask: bool ``[H, W]``; an empty mask is fine.

    Returns:
        ``size`` as [H, W] and ``counts`` as bytes, which is what pycocotools reads.
    """
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": bytes(encoded["counts"])}


def decode_rle(rle: Mapping[str, object]) -> NDArray[np.bool_]:
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
