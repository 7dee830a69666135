"""What a segmenter is taught: the class of every pixel that somebody has decided about."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from weaksam.label_maps import IGNORED


def pixel_cross_entropy(logits: Tensor, label_maps: Tensor) -> Tensor:
    """Cross-entropy of the decided pixels of each image, their mean.

    Args:
        logits: ``[B, C + 1, H, W]``, background first.
        label_maps: uint8 ``[B, H, W]``, see ``weaksam.label_maps``; ignored pixels teach nothing.

    Returns:
        ``[B]``; 0, and still a part of the graph, for an image without a decided pixel.
    """
    wanted = label_maps.long()
    losses = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="none").flatten(1)
    decided = (wanted != IGNORED).flatten(1).sum(dim=1)
    mean: Tensor = losses.sum(dim=1) / decided.clamp(min=1)
    return mean
