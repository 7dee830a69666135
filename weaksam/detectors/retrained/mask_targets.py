"""Masks to learn from: what of a box is its object, on a small grid of its own (method 8.2).

A view's masks at its own size would be its largest tensors by far. Each is instead cut to its box where it is loaded, as the
share of the object in each cell of a grid, ``mask_cells`` of the detector's options along each side. What lies outside the box
is taken for background. From that grid a region of a detector samples its target (``region_targets``), or a map of the whole
view is drawn (``map_masks``). A grid twice as fine as what a mask head learns teaches a region that is its box the same as the
mask itself, and one that differs the same but for the rounding of half a cell at the contour.

A cell's share is that of its own pixels (``aligned``): torchvision's own targets lie half a pixel off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from weaksam.masks_np import Rle, decode_rle, tight_box


def mask_grids(mask_rle: Sequence[Rle], boxes_xyxy: NDArray[np.float32], cells: int) -> Tensor:
    """Cut masks to boxes.

    Args:
        mask_rle: N masks of one image.
        boxes_xyxy: ``[N, 4]``, pixels of that image; not without area.
        cells: of a box along each side.

    Returns:
        uint8 ``[N, cells, cells]``, of each cell of each box the share that is the object, in 255ths.
    """
    grids = torch.zeros(len(mask_rle), cells, cells, dtype=torch.uint8)
    for n, (rle, box) in enumerate(zip(mask_rle, boxes_xyxy.tolist(), strict=True)):
        left, top = int(np.floor(box[0])), int(np.floor(box[1]))
        inside = decode_rle(rle)[top : int(np.ceil(box[3])), left : int(np.ceil(box[2]))]
        x1, y1, x2, y2 = box[0] - left, box[1] - top, box[2] - left, box[3] - top
        pixels = torch.from_numpy(np.ascontiguousarray(inside)).float()[None, None]
        grids[n] = _aligned(pixels, torch.tensor([[0.0, x1, y1, x2, y2]]), cells)[0].mul(255).round().to(torch.uint8)
    return grids


def fitted(mask_rle: Sequence[Rle], boxes_xyxy: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Fit boxes to what they show of their masks: those of pixels that lie in them, in part or whole.

    Args:
        mask_rle: N masks of one image.
        boxes_xyxy: ``[N, 4]``, pixels of that image.

    Returns:
        the boxes ``[N, 4]``, none larger than before, and which of them ``[N]`` show anything; others are as they were.
    """
    tight, shows = boxes_xyxy.copy(), np.zeros(len(boxes_xyxy), np.bool_)
    for n, (rle, box) in enumerate(zip(mask_rle, boxes_xyxy.tolist(), strict=True)):
        left, top = int(np.floor(box[0])), int(np.floor(box[1]))
        inside = decode_rle(rle)[top : int(np.ceil(box[3])), left : int(np.ceil(box[2]))]
        if inside.any():
            shown = np.add(tight_box(inside), (left, top, left, top))
            tight[n] = (*np.maximum(box[:2], shown[:2]), *np.minimum(box[2:], shown[2:]))
            shows[n] = True
    return tight, shows


def region_targets(grids: Tensor, boxes_xyxy: Tensor, target_index: Tensor, regions_xyxy: Tensor, side: int) -> Tensor:
    """Sample what regions have to find of their objects.

    Args:
        grids: uint8 ``[N, cells, cells]`` of a view's boxes.
        boxes_xyxy: ``[N, 4]``, pixels of the view.
        target_index: int64 ``[R]``, the box of each region.
        regions_xyxy: ``[R, 4]``, pixels of the view.
        side: cells of a region along each side.

    Returns:
        float32 ``[R, side, side]`` in [0, 1]; 0 outside the box.
    """
    corner, size = boxes_xyxy[target_index, :2], boxes_xyxy[target_index, 2:] - boxes_xyxy[target_index, :2]
    in_box = (regions_xyxy - corner.repeat(1, 2)) / size.repeat(1, 2) * grids.shape[-1]
    padded = torch.nn.functional.pad(grids.float() / 255, (1, 1, 1, 1))[:, None]
    return _aligned(padded, torch.cat([target_index[:, None].to(in_box.dtype), in_box + 1], dim=1), side)


def map_masks(grids: Tensor, boxes_xyxy: Tensor, shape_hw: tuple[int, ...], stride: int) -> Tensor:
    """Draw the masks of a view on a map of its padded pixels.

    Args:
        grids: uint8 ``[N, cells, cells]`` of the view's boxes.
        boxes_xyxy: ``[N, 4]``, pixels of the view.
        shape_hw: cells of the map.
        stride: pixels per cell of the map.

    Returns:
        float32 ``[N, h, w]`` in [0, 1], the share of each cell that is the object.
    """
    x1, y1, x2, y2 = boxes_xyxy.unbind(dim=1)
    down = _overlaps(y1, y2, grids.shape[1], shape_hw[0], stride)
    across = _overlaps(x1, x2, grids.shape[2], shape_hw[1], stride)
    return (down @ (grids.float() / 255) @ across.transpose(1, 2)).clamp(max=1)


def _overlaps(start: Tensor, end: Tensor, parts: int, cells: int, stride: int) -> Tensor:
    """Which share of each cell of a row lies in each of the equal parts of N intervals ``[N]``: ``[N, cells, parts]``."""
    places = torch.arange(max(parts, cells) + 1, device=start.device)
    edges = start[:, None] + (end - start)[:, None] * places[: parts + 1] / parts
    grid = (places[: cells + 1] * stride).float()
    low = torch.maximum(edges[:, None, :-1], grid[:-1, None])
    high = torch.minimum(edges[:, None, 1:], grid[1:, None])
    return (high - low).clamp(min=0) / stride


def _aligned(pixels: Tensor, regions: Tensor, side: int) -> Tensor:
    """Means over the cells of regions ``[R, 5]`` (picture, box) of pictures ``[P, 1, h, w]``: ``[R, side, side]``."""
    aligned: Tensor = roi_align(pixels, regions, side, sampling_ratio=-1, aligned=True)[:, 0]
    return aligned
