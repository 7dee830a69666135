"""From an image and its proposals to what a detector is fed with: scaling, mirroring, lighting, padding (method 4.7).

Every random choice of a training view comes from one seed, as in ``transforms.py``: the view does not depend on the
process, the batch or the images before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from weaksam.boxes import clip_boxes
from weaksam.boxes_np import resized_boxes
from weaksam.config import MilConfig
from weaksam.losses.mil import pad, real_proposals
from weaksam.networks.pixels import padded_batch

# Principal components of ImageNet's RGB values in [0, 1], and the standard deviations along them (AlexNet, section 4.1).
LIGHTING_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], dtype=np.float32
)
LIGHTING_VALUES = np.array([0.2175, 0.0188, 0.0045], dtype=np.float32)


class Normaliser(Protocol):
    """What knows how the weights want their pixels: a ``RoiBackbone``, or its ``PixelFormat`` alone."""

    def normalise(self, image: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
        """Return RGB ``[H, W, 3]`` (uint8, or float in 0..1) as float32 ``[3, H, W]``."""


class View(NamedTuple):
    """One image as a detector is fed with it."""

    image: Tensor  # float32 [3, H, W], normalised
    boxes_xyxy: Tensor  # float32 [R, 4], pixels of this view


class Batch(NamedTuple):
    """Views of several images, padded to one size; the arguments of a detector."""

    images: Tensor  # float32 [B, 3, H, W], 0 (the mean colour) right of and below each view
    boxes_xyxy: Tensor  # float32 [B, R, 4]
    real: Tensor  # bool [B, R]


def prepare_proposals(
    boxes_xyxy: NDArray[np.float32], size_hw: tuple[int, int], min_box_side: int
) -> NDArray[np.float32]:
    """Filter the proposals of an image before a detector sees them (method 4.7).

    Of exact duplicates the first one stays; the rest is cut to the image; what is then empty or has a side below
    ``min_box_side`` goes. If nothing is left, the whole image is the one proposal, however small it is.

    Args:
        boxes_xyxy: ``[N, 4]`` pixels of the image.
        size_hw: height and width of the image.
        min_box_side: pixels; higher is stricter. 0 and 1 still drop empty boxes.

    Returns:
        ``[M, 4]``, at least one, in their order.
    """
    _, first = np.unique(boxes_xyxy, axis=0, return_index=True)
    boxes = clip_boxes(torch.from_numpy(boxes_xyxy[np.sort(first)].astype(np.float32)), size_hw)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = boxes[((sides > 0) & (sides >= min_box_side)).all(dim=1)]
    if len(kept) == 0:
        kept = torch.tensor([[0.0, 0.0, size_hw[1], size_hw[0]]])
    return kept.numpy()


def training_sample(
    image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], config: MilConfig, body: Normaliser, seed: int
) -> View:
    """Return a random view: one of the scales, mirrored or not, its lighting changed, normalised.

    Args:
        image: ``[H, W, 3]`` RGB.
        boxes_xyxy: ``[R, 4]`` pixels of the image.
        config: ``scales``, ``max_side``, ``flip`` and ``lighting`` are read.
        body: of the detector, or its ``pixels``.
        seed: decides every random choice.
    """
    random = np.random.default_rng(seed)
    scale = int(random.choice(config.scales))
    mirror = random.random() < 0.5
    alphas = random.standard_normal(3, dtype=np.float32)
    image, boxes_xyxy = scaled(image, boxes_xyxy, scale, config.max_side)
    if mirror and config.flip:
        image, boxes_xyxy = mirrored(image, boxes_xyxy)
    if config.lighting:
        shift: NDArray[np.float32] = LIGHTING_VECTORS @ (LIGHTING_VALUES * alphas * np.float32(config.lighting))
        return View(body.normalise(image.astype(np.float32) / np.float32(255) + shift), torch.from_numpy(boxes_xyxy))
    return View(body.normalise(image), torch.from_numpy(boxes_xyxy))


def scaled(
    image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], shorter_side: int, max_side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Scale an image (bilinear) and its boxes to that shorter side, or less where the longer one would exceed ``max_side``.

    Args:
        image: ``[H, W, 3]``.
        boxes_xyxy: ``[R, 4]``; scaled by what the sides became, which are whole pixels.
        shorter_side: pixels.
        max_side: pixels.
    """
    height, width = image.shape[:2]
    factor = min(shorter_side / min(height, width), max_side / max(height, width))
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    resized = v2.functional.resize(pixels, size, InterpolationMode.BILINEAR).permute(1, 2, 0).numpy()
    return resized, resized_boxes(boxes_xyxy, (height, width), (size[0], size[1]))


def mirrored(
    image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Exchange left and right of an image ``[H, W, 3]`` and its boxes ``[R, 4]``."""
    x1, y1, x2, y2 = boxes_xyxy.T
    width = np.float32(image.shape[1])
    return image[:, ::-1], np.stack([width - x2, y1, width - x1, y2], axis=1)


def collate(views: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Lay views out as one batch: images padded right and below to a multiple of 32 pixels, boxes to the most proposals."""
    images, boxes_xyxy = zip(*views, strict=True)
    counts = [len(boxes) for boxes in boxes_xyxy]
    return Batch(
        images=padded_batch(images),
        boxes_xyxy=pad(torch.cat(boxes_xyxy), counts),
        real=real_proposals(counts),
    )
