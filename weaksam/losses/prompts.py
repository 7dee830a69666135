"""What prompts are taught: to tell an image's classes from its others, and where in it a class is (FMA method 3.1, 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from weaksam.label_maps import IGNORED


def contrastive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Multi-label contrastive loss: each present class of an image against all of its absent ones; their mean (FMA method 3.1).

    Args:
        logits: ``[N, C]``, 100 times the cosine of image and prompt.
        positive: bool ``[N, C]``, the classes of each image. One without a class, or with all of them, teaches nothing.

    Returns:
        A scalar, 0 where nothing teaches.
    """
    anchors = positive.any(dim=1) & ~positive.all(dim=1)
    if not anchors.any():
        return logits.sum() * 0
    logits, positive = logits[anchors], positive[anchors]
    negative = logits.masked_fill(positive, -float("inf")).logsumexp(dim=1, keepdim=True)
    losses: Tensor = F.softplus(negative - logits)
    return losses[positive].mean()


class ActivationLoss(NamedTuple):
    """The two parts of ``activation_loss``; scalars."""

    object: Tensor
    background: Tensor


def activation_loss(maps: Tensor, seeds: Tensor, image: Tensor, class_index: Tensor) -> ActivationLoss:
    """CAM activation loss: on its object a map is to reach its own peak there, beside it nothing above 0 (FMA method 3.3).

    Args:
        maps: ``[pairs, h, w]``, not normalised; enlarged to the seeds' size here.
        seeds: uint8 ``[N, H, W]``, 0 background, ``class_index + 1``, 255 ignored.
        image: int64 ``[pairs]``, the row in ``seeds`` of each map.
        class_index: int64 ``[pairs]``.

    Returns:
        sums over the pixels of all maps, divided by the number of pixels that are not ignored; 0 without any.
    """
    if not len(maps):
        return ActivationLoss(maps.sum() * 0, maps.sum() * 0)
    maps = F.interpolate(maps[:, None], seeds.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    wanted = seeds[image].long()
    inside = wanted == class_index[:, None, None] + 1
    beside = ~inside & (wanted != IGNORED)
    peaks = maps.detach().masked_fill(~inside, 0).clamp(min=0).amax(dim=(1, 2), keepdim=True)
    pixels = (inside | beside).sum().clamp(min=1)
    return ActivationLoss(
        object=((peaks - maps).abs() * inside).sum() / pixels,
        background=(maps.clamp(min=0) * beside).sum() / pixels,
    )
