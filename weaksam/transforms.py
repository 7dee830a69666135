"""From a decoded image to the tensor a classifier sees: training augmentation (method of DeiT and WeakTr) and test view.

Every random choice of a training view comes from one seed, made from (training seed, epoch, image id): the view does not
depend on the process, the batch or the images before it, so that a resumed training sees what an uninterrupted one saw.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

Augmentation = Literal["none", "flip", "deit"]

# Channel statistics of ImageNet, in [0, 1], which every network here is fed with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_WIDEST_CROP = 4 / 3  # width to height, or the other way round
CROP_SHARE = 224 / 256  # test views: the central crop's share of the resized shorter side

# DeiT asks timm for "rand-m9-mstd0.5-inc1": two operations, each applied half the time, of magnitude 9 +- 0.5 on a scale of
# 10. torchvision's scale has 31 steps, 0..30. Its set of operations is the published RandAugment's (with identity, without
# timm's invert and solarize-add).
_RANDAUGMENT_OPERATIONS = 2
_RANDAUGMENT_PROBABILITY = 0.5
_RANDAUGMENT_MAGNITUDE = 27.0
_RANDAUGMENT_SPREAD = 1.5
_RANDAUGMENT_LARGEST = 30
_ERASING_PROBABILITY = 0.25


def training_view(
    image: NDArray[np.uint8], *, crop_size: int, min_crop_scale: float, augmentation: Augmentation, seed: int
) -> Tensor:
    """Return one augmented view of an image.

    Args:
        image: ``[H, W, 3]`` RGB.
        crop_size: side of the square view, pixels.
        min_crop_scale: smallest share of the image's area that a crop covers, in (0, 1]; the largest is 1.
        augmentation: "none" squeezes the whole image into the square, "flip" takes a random resized crop (sides 3:4 to
            4:3, bicubic) and mirrors half of them, "deit" adds two RandAugment operations and random erasing.
        seed: decides every random choice. The caller's random state is left as it was.

    Returns:
        float32 ``[3, crop_size, crop_size]``, normalised by ImageNet's statistics.
    """
    pixels = _to_chw(image)
    if augmentation == "none":
        return normalise(v2.functional.resize(pixels, [crop_size, crop_size], InterpolationMode.BICUBIC))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        crop = v2.RandomResizedCrop(crop_size, scale=(min_crop_scale, 1.0), interpolation=InterpolationMode.BICUBIC)
        pixels = v2.RandomHorizontalFlip(0.5)(crop(pixels))
        if augmentation == "flip":
            return normalise(pixels)
        return v2.RandomErasing(_ERASING_PROBABILITY, value="random")(normalise(_randaugment(pixels)))  # type: ignore[no-any-return]


def least_side(crop_size: int, min_crop_scale: float = 1.0) -> int:
    """Return how many pixels an image's shorter side must have so that no view of it is enlarged.

    Args:
        crop_size: side of the view, pixels.
        min_crop_scale: smallest share of the image's area that a crop covers; 1 is enough for test views, too.
    """
    return math.ceil(crop_size * math.sqrt(_WIDEST_CROP / min_crop_scale))


def evaluation_view(image: NDArray[np.uint8], *, crop_size: int) -> Tensor:
    """Return the central view for validation: shorter side resized to ``crop_size * 256 / 224``, centre crop, normalised.

    Takes ``[H, W, 3]`` RGB, returns float32 ``[3, crop_size, crop_size]``. Borders are cut off: an object there may be lost.
    """
    pixels = v2.functional.resize(_to_chw(image), [round(crop_size / CROP_SHARE)], InterpolationMode.BICUBIC)
    return normalise(v2.functional.center_crop(pixels, [crop_size, crop_size]))


def normalise(pixels: Tensor) -> Tensor:
    """Turn uint8 (0..255) or float (0..1) RGB ``[..., 3, H, W]`` into float32 by ImageNet's mean and standard deviation."""
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    mean = torch.tensor(IMAGENET_MEAN, device=values.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=values.device).view(3, 1, 1)
    return (values - mean) / std


def _to_chw(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _randaugment(pixels: Tensor) -> Tensor:
    for _ in range(_RANDAUGMENT_OPERATIONS):
        applied = torch.rand(()).item() < _RANDAUGMENT_PROBABILITY
        magnitude = round(_RANDAUGMENT_MAGNITUDE + _RANDAUGMENT_SPREAD * torch.randn(()).item())
        if applied:
            operation = v2.RandAugment(
                num_ops=1,
                magnitude=min(max(magnitude, 0), _RANDAUGMENT_LARGEST),
                num_magnitude_bins=_RANDAUGMENT_LARGEST + 1,
                interpolation=InterpolationMode.BILINEAR,
            )
            pixels = operation(pixels)
    return pixels
