"""Arithmetic on boxes: area, clipping, IoU, suppression without scores.

Boxes are float32 XYXY with exclusive right and bottom (``structures.py``), so the plain IoU computed here equals the
published "legacy" one, which adds 1 to the sides of inclusive boxes. Suppression *with* scores is
``torchvision.ops.nms``; nothing here repeats it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def area(boxes_xyxy: Tensor) -> Tensor:
    """Area of each box in square pixels.

    Args:
        boxes_xyxy: ``[..., 4]``; a box whose right is left of its left counts as empty.

    Returns:
        ``[...]``, 0 or more.
    """
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).prod(dim=-1)


def clip_boxes(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Boxes cut to an image of ``size_hw``; one that lies outside becomes empty on the border.

    Args:
        boxes_xyxy: ``[N, 4]``, any coordinates.
        size_hw: height and width of the image in pixels.

    Returns:
        ``[N, 4]`` within ``[0, W] x [0, H]``.
    """
    height, width = size_hw
    limit = boxes_xyxy.new_tensor([width, height, width, height])
    return boxes_xyxy.clamp(min=0).minimum(limit)


def iou_matrix(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union of every box of one set with every box of another.

    Args:
        a_xyxy: ``[..., N, 4]``.
        b_xyxy: ``[..., M, 4]``; leading dimensions are pairs of sets.

    Returns:
        ``[..., N, M]`` in [0, 1]. Two empty boxes have IoU 0, not NaN. No boxes give ``[..., 0, M]`` or ``[..., N, 0]``.
    """
    a, b = a_xyxy[..., :, None, :], b_xyxy[..., None, :, :]
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    union = area(a) + area(b) - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def nms_in_order(boxes_xyxy: Tensor, iou_threshold: float) -> Tensor:
    """Suppression without scores: the first box stays and removes every later one that overlaps it too much.

    The published pipeline thins the boxes of cross-attention prompts in this way. It adds 1 to the sides of inclusive boxes,
    so that the box of zeros that it keeps for an empty mask is a pixel: two of them are duplicates, and one stays.

    Args:
        boxes_xyxy: ``[N, 4]``, the better known first; one without area counts as the pixel at its left and top.
        iou_threshold: in [0, 1]; a box goes when its IoU with a kept one is strictly above it. Lower is stricter; 1
            keeps even duplicates.

    Returns:
        Ascending int64 indices of the boxes kept, ``[K]``; of no boxes, none.
    """
    falling_scores = torch.arange(len(boxes_xyxy), 0, -1, dtype=torch.float32, device=boxes_xyxy.device)
    left_top = boxes_xyxy[:, :2]
    as_pixels = torch.cat([left_top, left_top + 1], dim=1)
    kept: Tensor = nms(torch.where(area(boxes_xyxy)[:, None] > 0, boxes_xyxy, as_pixels), falling_scores, iou_threshold)
    return kept
