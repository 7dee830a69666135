"""How the weights of a network want their pixels, and images of several sizes as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from weaksam.transforms import IMAGENET_MEAN, IMAGENET_STD

SIDES_MULTIPLE = 32  # pixels, of the sides of the images that a backbone is fed with (published code)


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How the weights of a network want their input; light enough to travel to the processes that read images."""

    bgr: bool
    white: float  # what the brightest pixel is before the mean is taken off
    mean: tuple[float, float, float]  # in the order of the channels
    std: tuple[float, float, float]

    def normalise(self, image: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
        """Turn RGB ``[H, W, 3]``, uint8 in 0..255 or float in 0..1, into float32 ``[3, H, W]``."""
        values = torch.from_numpy(np.ascontiguousarray(image[..., ::-1] if self.bgr else image)).permute(2, 0, 1)
        unit = values / 255 if values.dtype == torch.uint8 else values
        return (unit * self.white - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


def padded_batch(views: Sequence[Tensor]) -> Tensor:
    """Lay views ``[C, h, w]`` out as one batch ``[B, C, H, W]``: 0 right and below, up to multiples of ``SIDES_MULTIPLE``."""
    height, width = (-(-max(view.shape[axis] for view in views) // SIDES_MULTIPLE) * SIDES_MULTIPLE for axis in (1, 2))
    return torch.stack([F.pad(view, (0, width - view.shape[2], 0, height - view.shape[1])) for view in views])


IMAGENET = PixelFormat(bgr=False, white=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
