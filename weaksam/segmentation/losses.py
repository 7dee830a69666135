"""What a segmenter is taught: the class of every pixel that somebody has decided about."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from weaksam.label_maps import BACKGROUND, IGNORED


def pixel_cross_entropy(logits: Tensor, label_maps: Tensor) -> Tensor:
    """Cross-entropy of the decided pixels of each image, their mean.

    Args:
        logits: ``[B, C + 1, H, W]``, background first.
        label_maps: uint8 ``[B, H, W]``, see ``weaksam.label_maps``; ignored pixels teach nothing.

    Returns:
        ``[B]``; 0, and still a part of the graph, for an image without a decided pixel.
    """
    return _mean_where(_cross_entropy(logits, label_maps), label_maps != IGNORED)


def balanced_cross_entropy(logits: Tensor, label_maps: Tensor) -> Tensor:
    """Cross-entropy of each image's objects, their mean, and that of its background, which is most of an image, added.

    The balanced seed loss of Huang et al., "Weakly-Supervised Semantic Segmentation Network with Deep Seeded Region Growing",
    CVPR 2018, equation 2.

    Args:
        logits: as in ``pixel_cross_entropy``.
        label_maps: as in ``pixel_cross_entropy``.

    Returns:
        ``[B]``; an image without the one or the other has the mean of what it has, 0 of nothing.
    """
    losses, background = _cross_entropy(logits, label_maps), label_maps == BACKGROUND
    objects = ~background & (label_maps != IGNORED)
    return _mean_where(losses, objects) + _mean_where(losses, background)


def _cross_entropy(logits: Tensor, label_maps: Tensor) -> Tensor:
    """Of each pixel ``[B, H, W]``; 0 of those that are ignored."""
    return F.cross_entropy(logits, label_maps.long(), ignore_index=IGNORED, reduction="none")


def _mean_where(losses: Tensor, chosen: Tensor) -> Tensor:
    """Of each image ``[B]``, the mean of its chosen pixels; 0 without one."""
    sums = (losses * chosen).flatten(1).sum(dim=1)
    mean: Tensor = sums / chosen.flatten(1).sum(dim=1).clamp(min=1)
    return mean
