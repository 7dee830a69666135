"""How good a seed is where nobody knows the true map: whether it stays the same in other views, and what CLIP sees in it.

Settings of seeds are chosen by these from image labels alone. Neither knows how large an object is: seeds that fill every image
agree perfectly, so that a setting is to be chosen among few that are sensible, and not searched for at any price.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from weaksam.networks.clip.towers import CLIP_PIXELS
from weaksam.segmentation.class_maps import PromptMapper
from weaksam.segmentation.seeding import Seed

SMALLER = 0.75  # scale of the smaller view, of that of the image
_MEAN_COLOUR = np.array([round(255 * mean) for mean in CLIP_PIXELS.mean], np.uint8)  # which CLIP sees as 0, nearly


class CheckedSeed(NamedTuple):
    """What is known of a seed without a true map; each in [0, 1], NaN of an image without a class."""

    agreement: float  # see ``seed_agreement``
    clip_score: float  # see ``clip_score``


NOT_CHECKED = CheckedSeed(math.nan, math.nan)


def check_seed(
    mapper: PromptMapper,
    image: NDArray[np.uint8],
    class_index: Sequence[int],
    seed: Seed,
    paint: Callable[[Tensor], Seed],
) -> CheckedSeed:
    """Measure the seed of one image.

    The views are the mirror image and a smaller one. The superpixels of the mirror image are the mirrored superpixels, those of
    the smaller one the same at the image's own size: views differ in the maps alone, which are brought back and then painted.

    Args:
        mapper: that the maps come from.
        image: ``[H, W, 3]`` RGB.
        class_index: N, the image's classes, ascending.
        seed: of the image.
        paint: makes a seed of maps ``[N, h, w]`` as that of the image was made.
    """
    mirrored = mapper(np.ascontiguousarray(image[:, ::-1]), class_index).flip(2)
    smaller = mapper(image, class_index, zoom=SMALLER)
    views = [paint(maps).label_map for maps in (mirrored, smaller)]
    return CheckedSeed(
        agreement=seed_agreement(seed.label_map, views, class_index),
        clip_score=clip_score(image, seed.label_map, class_index, mapper.probabilities),
    )


def seed_agreement(seed: NDArray[np.uint8], views: Sequence[NDArray[np.uint8]], class_index: Sequence[int]) -> float:
    """Return how far the seed of an image and those of its views agree.

    The mean, over the image's classes and the views, of the pixels that both call the class over those that either does. A
    class that neither shows counts as 0: the image has it.

    Args:
        seed: label map ``[H, W]``.
        views: V >= 1 of the same size, brought back.
        class_index: N; NaN for none.
    """
    shares = []
    for number in (c + 1 for c in class_index):
        for view in views:
            either = int(((seed == number) | (view == number)).sum())
            both = int(((seed == number) & (view == number)).sum())
            shares.append(both / either if either else 0.0)
    return _mean(shares)


def clip_score(
    image: NDArray[np.uint8],
    label_map: NDArray[np.uint8],
    class_index: Sequence[int],
    probabilities: Callable[[NDArray[np.uint8], Sequence[int]], Tensor],
) -> float:
    """Return how sure CLIP is of each class where it sees nothing but what the seed calls so.

    The mean, over the image's classes, of the probability of the class, among all of them and the background, of the image
    whose other pixels have CLIP's mean colour. A class that the seed does not show counts as 0.

    Args:
        image: ``[H, W, 3]`` RGB.
        label_map: ``[H, W]``, its seed.
        class_index: N; NaN for none.
        probabilities: see ``PromptMapper.probabilities``.
    """
    kept = []
    for place, c in enumerate(class_index):
        region = label_map == c + 1
        kept.append(float(probabilities(shown_alone(image, region), class_index)[place]) if region.any() else 0.0)
    return _mean(kept)


def shown_alone(image: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return an image ``[H, W, 3]`` with CLIP's mean colour beside a region ``[H, W]``."""
    return np.where(region[..., None], image, _MEAN_COLOUR)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
