"""What prompts are taught: to tell an image's classes from its others, and where in it a class is (FMA method 3.1, 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from weaksam.label_maps import BACKGROUND, IGNORED


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


def binary_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy of each class against the background alone, whatever the other classes: the mean of all.

    The probability of a class is that of the softmax over its prompt and those of the background. A sigmoid of the bare logit,
    100 times a cosine that is never near 0, would call every class present.

    Args:
        logits: ``[N, C + K]``, 100 times the cosine of image and prompt; the K >= 1 of the background last.
        positive: bool ``[N, C]``, the classes of each image.

    Returns:
        A scalar, 0 without an image.
    """
    num_classes = positive.shape[1]
    evidence = logits[:, :num_classes] - logits[:, num_classes:].logsumexp(dim=1, keepdim=True)
    losses = F.binary_cross_entropy_with_logits(evidence, positive.to(logits.dtype), reduction="sum")
    return losses / max(1, positive.numel())


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


def logits_of_maps(
    maps: Tensor, image: Tensor, class_index: Tensor, num_classes: int, size_nhw: tuple[int, int, int]
) -> Tensor:
    """Read maps as logits of pixels: 0 for the background, and no chance for a class that an image has no map of.

    Args:
        maps: ``[pairs, h, w]``, not normalised; enlarged here.
        image: int64 ``[pairs]``, which of the N images each map is of.
        class_index: int64 ``[pairs]``.
        num_classes: C.
        size_nhw: N, H and W of what is returned.

    Returns:
        ``[N, C + 1, H, W]``, background first.
    """
    images, *size_hw = size_nhw
    logits = maps.new_full((images, num_classes + 1, *size_hw), -float("inf"))
    logits[:, BACKGROUND] = maps.sum() * 0  # which keeps the graph where there is no map
    if len(maps):
        large = F.interpolate(maps[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]
        logits[image, class_index + 1] = large
    return logits
