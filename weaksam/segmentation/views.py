"""Views of images that prompts are taught on: recoloured, resized, cut, mirrored, and seeds with them (FMA method 6)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from weaksam.config import PromptTrainingConfig
from weaksam.label_maps import require_map_of
from weaksam.networks.clip.towers import CLIP_PIXELS

_PROBABILITY = 0.5  # of each change of colours, and of the mirror
_BRIGHTNESS = 25  # of 255, added at the most
_CONTRAST = (0.6, 1.4)
_SATURATION = (0.5, 1.5)
_HUE = 25 / 255  # of the circle


def prompt_view(
    image: NDArray[np.uint8], seeds: NDArray[np.uint8] | None, config: PromptTrainingConfig, seed: int
) -> tuple[Tensor, Tensor]:
    """Cut a random view of an image, and the same of its label map.

    Args:
        image: ``[H, W, 3]`` RGB.
        seeds: label map ``[H, W]``; None where none is learnt from.
        config: sizes of image and view.
        seed: decides every random choice.

    Returns:
        float32 ``[3, S, S]``, see ``CLIP_PIXELS``, and uint8 ``[S, S]``, empty ``[0, 0]`` without seeds.

    Raises:
        ImageError: the label map is of another picture.
    """
    if seeds is not None:
        require_map_of(image, seeds)
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    low, high = config.long_side
    size = config.crop_size
    scale = max(int(rng.integers(low, high + 1)) / max(height, width), size / min(height, width))
    size_wh = (max(size, round(width * scale)), max(size, round(height * scale)))
    top, left = int(rng.integers(size_wh[1] - size + 1)), int(rng.integers(size_wh[0] - size + 1))
    mirrored = rng.random() < _PROBABILITY
    coloured = _recoloured(image, rng) if config.colour_jitter else image
    view = np.array(Image.fromarray(coloured).resize(size_wh, Image.Resampling.BICUBIC))
    view = view[top : top + size, left : left + size]
    cut: NDArray[np.uint8] = np.zeros((0, 0), np.uint8)
    if seeds is not None:
        resized = np.asarray(Image.fromarray(seeds).resize(size_wh, Image.Resampling.NEAREST))
        cut = resized[top : top + size, left : left + size]
    if mirrored:
        view, cut = view[:, ::-1], cut[:, ::-1]
    return CLIP_PIXELS.normalise(view), torch.from_numpy(cut.copy())


def _recoloured(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue, each half of the time, in any order."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    for change in rng.permutation(4).tolist():
        if rng.random() >= _PROBABILITY:
            continue
        if change == 0:
            pixels = (pixels.int() + int(rng.integers(-_BRIGHTNESS, _BRIGHTNESS + 1))).clamp(0, 255).to(torch.uint8)
        elif change == 1:
            pixels = tv.adjust_contrast(pixels, float(rng.uniform(*_CONTRAST)))
        elif change == 2:
            pixels = tv.adjust_saturation(pixels, float(rng.uniform(*_SATURATION)))
        else:
            pixels = tv.adjust_hue(pixels, float(rng.uniform(-_HUE, _HUE)))
    return pixels.permute(1, 2, 0).numpy()
