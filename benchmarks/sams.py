"""What comparisons with the stock ways of segment-anything share."""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torchvision.ops import batched_nms

from weaksam.config import SamConfig
from weaksam.sam import SAMS
from weaksam.sam.load import load_sam


def sam_called(name: str) -> Sam:
    """Return the built-in SAM, or another one with random weights, which take as long as trained ones."""
    if name == "builtin":
        return load_sam(SamConfig(name="builtin"))
    torch.manual_seed(0)
    return SAMS[name].build().eval().requires_grad_(False)


def exclusive_nms(boxes: Tensor, scores: Tensor, categories: Tensor, iou_threshold: float) -> Tensor:
    """Suppress as the stock generator does, but with boxes that end one past their last pixel, as they do here."""
    kept: Tensor = batched_nms(boxes.to(scores.dtype) + torch.tensor([0, 0, 1, 1]), scores, categories, iou_threshold)
    return kept
