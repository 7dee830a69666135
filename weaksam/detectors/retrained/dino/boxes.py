"""DINO's own box format, which stays in this folder: cx, cy, w, h in shares of the image; and what goes with it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.boxes import area
from weaksam.detectors.retrained.base import Targets

CLOSEST = 1e-3  # a share stays this far from 0 and 1 where its logit is taken (Deformable DETR)
SMALLEST_AREA = 1e-12  # of the image, below which an area counts as this one where something is divided by it
BACKGROUND = -1  # the class index of a query that is to find nothing


class Objects(NamedTuple):
    """What is to be found in one image; may be empty."""

    class_index: Tensor  # int64 [N], 0..C-1
    boxes_cxcywh: Tensor  # float32 [N, 4]


def objects_of(targets: Targets, size_hw: Tensor) -> Objects:
    """Take the boxes of an image of ``size_hw`` (int64 ``[2]``) as shares of it."""
    x1, y1, x2, y2 = (targets.boxes_xyxy.float() / size_hw.flip(0).repeat(2)).unbind(dim=1)
    return Objects(targets.class_index, torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1))


def to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Corners of boxes ``[..., 4]``, in their unit."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def generalised_iou(a_cxcywh: Tensor, b_cxcywh: Tensor) -> Tensor:
    """IoU minus the share of the smallest box around both that neither covers (Rezatofighi et al., CVPR 2019).

    Args:
        a_cxcywh: ``[..., 4]``.
        b_cxcywh: ``[..., 4]``; the leading dimensions are broadcast.

    Returns:
        ``[...]`` in [-1, 1]; 1 for equal boxes, and 0 where both are the same point.
    """
    a, b = to_xyxy(a_cxcywh), to_xyxy(b_cxcywh)
    common = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = common.clamp(min=0).prod(dim=-1)
    union = area(a) + area(b) - intersection
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(dim=-1)
    return intersection / union.clamp(min=SMALLEST_AREA) - (around - union) / around.clamp(min=SMALLEST_AREA)


def logits_of(shares: Tensor) -> Tensor:
    """The numbers whose sigmoid these shares are; those at or outside the borders count as just inside."""
    return shares.clamp(CLOSEST, 1 - CLOSEST).logit()
