"""From an image to its embedding: the only place that calls an image encoder.

One image at a time on every device, because a batch of images would round otherwise than each image alone; see the
package's docstring. A GPU is kept busy by preparing the next image meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """One image after SAM's encoder; everything that prompts share."""

    features: Tensor  # [1, C, h, w] on the model's device
    input_hw: tuple[int, int]  # pixels, the image as the encoder saw it, before padding to a square
    size_hw: tuple[int, int]  # pixels, the image itself


@torch.inference_mode()
def encode_image(sam: Sam, image: NDArray[np.uint8]) -> EncodedImage:
    """Run SAM's image encoder: longest side to the model's own, bilinear, padded right and bottom.

    Args:
        sam: a model of segment-anything, in evaluation mode.
        image: ``[H, W, 3]`` RGB, both sides at least one pixel.

    Returns:
        The features; for ViT-B/L/H ``[1, 256, 64, 64]``.
    """
    height, width = image.shape[:2]
    scale = sam.image_encoder.img_size / max(height, width)
    input_hw = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))  # segment-anything's rounding
    resized = np.asarray(Image.fromarray(image).resize(input_hw[::-1], Image.Resampling.BILINEAR))
    pixels = torch.tensor(resized, device=sam.device).permute(2, 0, 1)
    features = sam.image_encoder(sam.preprocess(pixels)[None])
    return EncodedImage(features=features, input_hw=input_hw, size_hw=(height, width))
