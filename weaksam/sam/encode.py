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


@dataclass(frozen=True, kw_only=True)
class ResizedImage:
    """One image as SAM's encoder wants it, still in the memory of the CPU: what another thread can prepare."""

    pixels: Tensor  # uint8 [h, w, 3] RGB, the longest side as the model's own; pinned where the model is on a GPU
    size_hw: tuple[int, int]  # pixels, the image itself


def resize_image(sam: Sam, image: NDArray[np.uint8]) -> ResizedImage:
    """Resize an image for the encoder: longest side to the model's own, bilinear.

    Args:
        sam: that will encode it.
        image: ``[H, W, 3]`` RGB, both sides at least one pixel.
    """
    height, width = image.shape[:2]
    scale = sam.image_encoder.img_size / max(height, width)
    input_hw = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))  # segment-anything's rounding
    resized = np.array(Image.fromarray(image).resize(input_hw[::-1], Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(resized)
    return ResizedImage(pixels=pixels.pin_memory() if sam.device.type == "cuda" else pixels, size_hw=(height, width))


@torch.inference_mode()
def encode_image(sam: Sam, image: NDArray[np.uint8] | ResizedImage) -> EncodedImage:
    """Run SAM's image encoder, padding right and bottom.

    Args:
        sam: a model of segment-anything, in evaluation mode.
        image: ``[H, W, 3]`` RGB, both sides at least one pixel, or what ``resize_image`` made of it for this model.

    Returns:
        The features; for ViT-B/L/H ``[1, 256, 64, 64]``.
    """
    resized = image if isinstance(image, ResizedImage) else resize_image(sam, image)
    pixels = resized.pixels.to(sam.device, non_blocking=True).permute(2, 0, 1)
    features = sam.image_encoder(sam.preprocess(pixels)[None])
    height, width = resized.pixels.shape[:2]
    return EncodedImage(features=features, input_hw=(height, width), size_hw=resized.size_hw)
