"""From an image and its label map to what a segmenter learns from: a window of fixed size, at a random scale.

Every random choice of a view comes from one seed, as in ``transforms.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from weaksam.config import SegmenterConfig
from weaksam.label_maps import IGNORED, require_map_of
from weaksam.networks.pixels import PixelFormat

# By up to how much: as mmsegmentation's photometric distortion, which makes each change half of the time alone, and adds to the
# brightness; 18 of its 180 steps of hue are a tenth of the circle.
_COLOURS = {"brightness": 32 / 255, "contrast": 0.5, "saturation": 0.5, "hue": 18 / 180}


class MapBatch(NamedTuple):
    """Views of several images; the arguments of a segmenter."""

    images: Tensor  # float32 [B, 3, S, S], 0 (the mean colour) right of and below each view
    label_maps: Tensor  # uint8 [B, S, S], ignored there


def map_sample(
    image: NDArray[np.uint8], label_map: NDArray[np.uint8], config: SegmenterConfig, pixels: PixelFormat, seed: int
) -> tuple[Tensor, Tensor]:
    """Make one training view: scaled, cut to a random window, mirrored half of the time, its colours changed, normalised.

    Args:
        image: ``[H, W, 3]`` RGB.
        label_map: ``[H, W]``; scaled with the image, to the nearest pixel.
        config: ``side``, ``max_side``, ``resize``, ``crop_side``, ``flip`` and ``colour_jitter`` are read.
        pixels: how the segmenter's weights want them.
        seed: decides every random choice.

    Returns:
        the view, float32 ``[3, S, S]``, and its label map, uint8 ``[S, S]``; S is ``crop_side``. What lies right of and below a
        scaled image that is smaller is the mean colour, and ignored.

    Raises:
        ImageError: the label map is of another picture.
    """
    require_map_of(image, label_map)
    random = np.random.default_rng(seed)
    factor = float(random.uniform(*config.resize))
    size = scaled_size(image.shape[:2], factor * config.side, config.max_side)
    view = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    labels = torch.from_numpy(np.ascontiguousarray(label_map))[None]
    view = v2.functional.resize(view, list(size), InterpolationMode.BILINEAR)
    labels = v2.functional.resize(labels, list(size), InterpolationMode.NEAREST_EXACT)
    top, left = (int(random.integers(max(0, side - config.crop_side), endpoint=True)) for side in size)
    window = (slice(None), slice(top, top + config.crop_side), slice(left, left + config.crop_side))
    view, labels = view[window], labels[window]
    if config.flip and random.random() < 0.5:
        view, labels = view.flip(-1), labels.flip(-1)
    if config.colour_jitter:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.integers(2**32)))
            view = v2.ColorJitter(**_COLOURS)(view)
    right, below = (config.crop_side - side for side in (view.shape[2], view.shape[1]))
    normalised = pixels.normalise(view.permute(1, 2, 0).numpy())
    return F.pad(normalised, (0, right, 0, below)), F.pad(labels[0], (0, right, 0, below), value=IGNORED)


def collate_maps(samples: Sequence[tuple[Tensor, Tensor]]) -> MapBatch:
    """Lay views out as one batch."""
    views, label_maps = zip(*samples, strict=True)
    return MapBatch(torch.stack(views), torch.stack(label_maps))


def scaled_size(size_hw: tuple[int, ...], shorter_side: float, max_side: int) -> tuple[int, int]:
    """Return the size of an image once its shorter side is that long, or less where the longer exceeds ``max_side``."""
    factor = min(shorter_side / min(size_hw), max_side / max(size_hw))
    height, width = (max(1, round(side * factor)) for side in size_hw)
    return height, width
