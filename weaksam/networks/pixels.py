"""How the weights of a network want their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam.transforms import IMAGENET_MEAN, IMAGENET_STD


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


IMAGENET = PixelFormat(bgr=False, white=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
