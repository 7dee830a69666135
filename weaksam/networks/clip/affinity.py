"""Class-aware affinity: a class's map, spread to patches that attend to each other (FMA method 4; Lin et al., CVPR 2023).

attention of several layers -> Sinkhorn normalisation -> symmetric affinity
map -> its strongest parts -> boxes around them -> only what lies in the boxes is spread
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import find_objects, label
from torch import Tensor

from weaksam.config import AffinityConfig

_EIGHT_CONNECTED = np.ones((3, 3))


def attention_affinity(attention: Tensor, rounds: int) -> Tensor:
    """Normalise the attention between patches and make it symmetric.

    Args:
        attention: ``[P, P]``, a query's in each row, mean over heads and layers, without the class token.
        rounds: of Sinkhorn's normalisation: columns, then rows, are divided by their sums.

    Returns:
        ``[P, P]``.
    """
    for _ in range(rounds):
        attention = attention / attention.sum(dim=0, keepdim=True)
        attention = attention / attention.sum(dim=1, keepdim=True)
    return (attention + attention.T) / 2


def normalised_scores(maps: Tensor) -> Tensor:
    """Cut each map ``[N, h, w]`` at 0 and bring it to [0, 1], however small it is; 0 where it is nowhere above its least."""
    maps = maps.clamp(min=0)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def box_mask(scores: Tensor, threshold: float) -> Tensor:
    """Mark what lies in the box of some part of a map that is strong enough.

    Args:
        scores: ``[N, h, w]`` in [0, 1].
        threshold: share of a map's maximum; both are rounded down to 255ths. A part is 8-connected, its box whole.

    Returns:
        bool ``[N, h, w]``.
    """
    levels = (scores * 255).floor().to(torch.uint8).cpu().numpy()
    inside = np.zeros(levels.shape, np.bool_)
    for of_map, mask in zip(levels, inside, strict=True):
        parts, _ = label(of_map > int(threshold * of_map.max()), _EIGHT_CONNECTED)
        for box in find_objects(parts):
            mask[box] = True
    return torch.from_numpy(inside).to(scores.device)


def refine(maps: Tensor, affinity: Tensor, *, threshold: float, power: int, of_scores: bool) -> Tensor:
    """Spread maps by the affinity of patches: every patch receives, those in a class's boxes send.

    Args:
        maps: ``[N, h, w]``, of softmax Grad-CAM.
        affinity: ``[h * w, h * w]``, see ``attention_affinity``.
        threshold: see ``box_mask``.
        power: how often.
        of_scores: whether the normalised scores are spread, or the maps themselves, which may be negative.

    Returns:
        ``[N, h, w]``, not normalised; 0 for a map that is nowhere positive.
    """
    scores = normalised_scores(maps)
    sent = (scores if of_scores else maps) * box_mask(scores, threshold)
    spread = sent.flatten(1).T
    for _ in range(power):
        spread = affinity @ spread
    return spread.T.reshape(maps.shape)


def layers_attended(config: AffinityConfig, layers: int) -> range:
    """Return which of a tower's layers, from 1, give the attention that maps are spread by; none where none are."""
    return range(max(1, layers - config.layers + 1), layers + 1) if config.enabled else range(0)


def spread(maps: Tensor, attention: Tensor, config: AffinityConfig) -> Tensor:
    """Spread an image's maps ``[N, h, w]`` by the attention ``[h * w, h * w]`` of its patches; see ``refine``.

    Where ``config`` says that none are spread, they come back as they are.
    """
    if not config.enabled:
        return maps
    affinity = attention_affinity(attention, config.rounds)
    return refine(maps, affinity, threshold=config.threshold, power=config.power, of_scores=config.of_scores)
