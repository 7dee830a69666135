"""Masks of everything in an image, whatever it is: SAM prompted with a grid of points (Kirillov et al. 2023, appendix B).

These masks divide an image into regions without asking what they show, which superpixels are made of and a person can look
at; object proposals come from ``weaksam/proposals``, which adds prompts of its own and keeps boxes. The behaviour is that
of segment-anything's ``SamAutomaticMaskGenerator`` with its defaults, on the encoder, decoder and measures of this package:

1. Each point of a grid asks for SAM's three masks.
2. Masks of a low predicted IoU and unstable ones are let go; of those whose boxes overlap, the best predicted one stays.
3. If asked for, the same is done with overlapping crops of the image, layer by layer in more and smaller ones. Masks that
   a crop cuts off are let go, and where masks of several crops overlap, the one of the smaller crop stays.

Two differences: boxes end one past their last pixel here, where the generator's end in it, so that a few decisions within
a pixel of a threshold fall otherwise; and masks are as SAM made them, because small regions and holes are not removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor
from torchvision.ops import nms

from weaksam.boxes import area
from weaksam.config import EverythingConfig
from weaksam.masks_np import encode_rle
from weaksam.sam.encode import EncodedImage, encode_image
from weaksam.sam.measure import full_masks, measure_masks
from weaksam.sam.prompt import Prompt, decode_prompts

EDGE_TOLERANCE = 20  # pixels from a crop's edge within which a mask counts as cut off (segment-anything)

Crop = tuple[int, int, int, int]  # XYXY in pixels of the image, right and bottom exclusive


@dataclass(frozen=True, kw_only=True)
class AutomaticMask:
    """One mask that was found, and what is known of it; coordinates are pixels of the whole image."""

    mask: NDArray[np.bool_]  # [H, W], with at least one pixel
    box_xyxy: NDArray[np.float32]  # [4], tight around the mask
    predicted_iou: float  # SAM's own estimate; near [0, 1] but not bound to it
    stability: float  # in [0, 1]
    point_xy: NDArray[np.float32]  # [2], the prompt
    crop_xyxy: Crop  # the part of the image that SAM saw

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    def rle(self) -> dict[str, object]:
        """The mask in COCO's compressed run-length encoding."""
        return encode_rle(self.mask)


@torch.inference_mode()
def segment_everything(sam: Sam, image: NDArray[np.uint8], config: EverythingConfig) -> Iterator[AutomaticMask]:
    """Find masks of everything in one image.

    Args:
        sam: a model of segment-anything in evaluation mode, on any device.
        image: ``[H, W, 3]`` RGB, both sides at least one pixel.
        config: grid, filters, suppression and crops.

    Yields:
        Masks, each made at full size when it is asked for: without crops the best predicted IoU first, with crops those of
        the smallest crops first and within a crop by predicted IoU. Where nothing passes, none.
    """
    height, width = image.shape[:2]
    found = [
        _in_crop(sam, image, crop, max(1, config.points_per_side // config.crop_points_downscale**layer), config)
        for crop, layer in crop_boxes((height, width), config.crop_layers, config.crop_overlap)
    ]
    for crop, row in _over_crops(found, config.crop_nms_iou):
        (in_crop,) = full_masks(sam, crop.encoded, crop.low_res_logits[row : row + 1])
        left, top, right, bottom = crop.crop_xyxy
        mask = np.zeros((height, width), np.bool_)
        mask[top:bottom, left:right] = in_crop
        yield AutomaticMask(
            mask=mask,
            box_xyxy=crop.boxes_xyxy[row].numpy(),
            predicted_iou=crop.predicted_iou[row].item(),
            stability=crop.stability[row].item(),
            point_xy=crop.points_xy[row],
            crop_xyxy=crop.crop_xyxy,
        )


def crop_boxes(size_hw: tuple[int, int], layers: int, overlap: float) -> list[tuple[Crop, int]]:
    """The image and its crops, each with its layer.

    Args:
        size_hw: pixels of the image.
        layers: how many layers of crops; layer n has ``2^n`` by ``2^n``, fewer where there are not as many pixels.
        overlap: in [0, 1), share of the image's shorter side by which crops of layer 1 overlap; layer n's overlap by
            ``2^(n - 1)`` times less.

    Returns:
        The whole image as layer 0, then layer by layer, columns from left to right and each from top to bottom.
    """
    height, width = size_hw
    crops: list[tuple[Crop, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        per_side = 2**layer
        overlap_px = int(overlap * min(size_hw) * 2 / per_side)
        crops += [
            ((left, top, right, bottom), layer)
            for left, right in _pieces(width, per_side, overlap_px)
            for top, bottom in _pieces(height, per_side, overlap_px)
        ]
    return crops


def _pieces(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """Start and end of ``count`` equal pieces that overlap by so much and cover ``length``; the last may be shorter."""
    size = math.ceil((length + overlap * (count - 1)) / count)
    starts = range(0, min(count * (size - overlap), length), size - overlap)
    return [(start, min(start + size, length)) for start in starts]


def cut_off(boxes_xyxy: Tensor, crop_xyxy: Crop, size_hw: tuple[int, int]) -> Tensor:
    """Which boxes come so near to an edge of their crop that the thing in them seems to go on beyond it.

    Args:
        boxes_xyxy: ``[N, 4]``, pixels of the image.
        crop_xyxy: that the boxes were found in.
        size_hw: of the image, whose own edges cut nothing off.

    Returns:
        Bool ``[N]``.
    """
    height, width = size_hw
    near_crop, near_image = (
        (boxes_xyxy - boxes_xyxy.new_tensor(edges)).abs() <= EDGE_TOLERANCE
        for edges in (crop_xyxy, (0, 0, width, height))
    )
    return (near_crop & ~near_image).any(dim=1)


@dataclass(frozen=True, kw_only=True)
class _InCrop:
    """The N masks of one crop, best predicted IoU first; on the CPU but for the logits."""

    crop_xyxy: Crop
    encoded: EncodedImage  # of the crop
    low_res_logits: Tensor  # [N, h', w']
    boxes_xyxy: Tensor  # [N, 4], pixels of the image
    predicted_iou: Tensor  # [N]
    stability: Tensor  # [N]
    points_xy: NDArray[np.float32]  # [N, 2], pixels of the image


def _in_crop(
    sam: Sam, image: NDArray[np.uint8], crop_xyxy: Crop, points_per_side: int, config: EverythingConfig
) -> _InCrop:
    """Prompt one crop with its grid; filter and suppress. What fails is let go chunk by chunk, for logits are large."""
    left, top, right, bottom = crop_xyxy
    encoded = encode_image(sam, image[top:bottom, left:right])
    grid_xy = _grid((bottom - top, right - left), points_per_side)
    corner_xy = np.array([left, top], np.float32)
    passed: list[tuple[Tensor, ...]] = []
    for decoded in decode_prompts(
        sam,
        encoded,
        [Prompt(points_xy=point_xy[None]) for point_xy in grid_xy],
        min_predicted_iou=config.min_predicted_iou,
    ):
        boxes_xyxy, empty, stability = measure_masks(sam, encoded, decoded.low_res_logits, config.stability_offset)
        boxes_xyxy += boxes_xyxy.new_tensor([left, top, left, top])
        passes = (stability >= config.min_stability) & ~empty & ~cut_off(boxes_xyxy, crop_xyxy, image.shape[:2])
        prompt, _ = decoded.chosen.nonzero(as_tuple=True)
        of_chosen = (boxes_xyxy, decoded.predicted_iou[decoded.chosen], stability, decoded.prompt_index[prompt])
        passed.append((decoded.low_res_logits[passes], *(column[passes].cpu() for column in of_chosen)))
    low_res_logits, boxes_xyxy, predicted_iou, stability, prompt = map(torch.cat, zip(*passed, strict=True))
    kept = nms(boxes_xyxy.to(predicted_iou.dtype), predicted_iou, config.nms_iou)
    return _InCrop(
        crop_xyxy=crop_xyxy,
        encoded=encoded,
        low_res_logits=low_res_logits[kept.to(low_res_logits.device)],
        boxes_xyxy=boxes_xyxy[kept],
        predicted_iou=predicted_iou[kept],
        stability=stability[kept],
        points_xy=grid_xy[prompt[kept].numpy()] + corner_xy,
    )


def _grid(size_hw: tuple[int, int], points_per_side: int) -> NDArray[np.float32]:
    """Centres ``[n², 2]`` of n by n equal cells of a picture, row by row."""
    height, width = size_hw
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    y, x = np.meshgrid(centres * height, centres * width, indexing="ij")
    return np.stack((x.ravel(), y.ravel()), axis=1).astype(np.float32)


def _over_crops(found: list[_InCrop], iou_threshold: float) -> Iterator[tuple[_InCrop, int]]:
    """Suppress between crops, if there are several, and yield what stays as a crop and a row of it."""
    rows = [(crop, row) for crop in found for row in range(len(crop.boxes_xyxy))]
    if len(found) == 1:
        yield from rows
        return
    smallness = torch.cat(
        [1 / area(crop.boxes_xyxy.new_tensor(crop.crop_xyxy)).expand(len(crop.boxes_xyxy)) for crop in found]
    )
    kept = nms(torch.cat([crop.boxes_xyxy for crop in found]), smallness, iou_threshold)
    yield from (rows[index] for index in kept.tolist())
