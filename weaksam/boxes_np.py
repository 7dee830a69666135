"""Arithmetic on boxes in float64 and without torch, for labels and figures; ``boxes.py`` is for what learns.

Boxes are XYXY with exclusive right and bottom. In float64 a ratio of areas of whole pixels is the number nearest to the true
ratio, so that 17/20 does reach .85.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def intersection_area(a_xyxy: NDArray[np.float64], b_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area in square pixels that each box shares with its partner: ``[..., 4]``, ``[..., 4]`` -> ``[...]``, broadcast."""
    width = np.minimum(a_xyxy[..., 2], b_xyxy[..., 2]) - np.maximum(a_xyxy[..., 0], b_xyxy[..., 0])
    height = np.minimum(a_xyxy[..., 3], b_xyxy[..., 3]) - np.maximum(a_xyxy[..., 1], b_xyxy[..., 1])
    shared: NDArray[np.float64] = width.clip(min=0) * height.clip(min=0)
    return shared


def paired_iou(a_xyxy: NDArray[np.float64], b_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of each box with its partner: ``[..., 4]``, ``[..., 4]`` -> ``[...]`` in [0, 1], broadcast; 0 for two empty boxes."""
    shared = intersection_area(a_xyxy, b_xyxy)
    union = intersection_area(a_xyxy, a_xyxy) + intersection_area(b_xyxy, b_xyxy) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def resized_boxes(
    boxes_xyxy: NDArray[np.float32], from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> NDArray[np.float32]:
    """Boxes ``[N, 4]`` of an image of one height and width, in pixels of the same image at another."""
    ratio = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]] * 2, dtype=np.float32)
    return boxes_xyxy.astype(np.float32) * ratio


def iou_float64(a_xyxy: NDArray[np.float32], b_xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of every box of one set with every box of another, ``[N, 4]``, ``[M, 4]`` -> ``[N, M]``, computed in float64."""
    return paired_iou(a_xyxy[:, None].astype(np.float64), b_xyxy.astype(np.float64))


def inside_float64(a_xyxy: NDArray[np.float32], b_xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of each box's area inside each box of another set, ``[N, 4]``, ``[M, 4]`` -> ``[N, M]``; 0 for an empty box."""
    a, b = a_xyxy[:, None].astype(np.float64), b_xyxy.astype(np.float64)
    shared, area = np.broadcast_arrays(intersection_area(a, b), intersection_area(a, a))
    shares: NDArray[np.float64] = np.divide(shared, area, out=np.zeros_like(shared), where=area > 0)
    return shares
