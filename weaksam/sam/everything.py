"""Masks of everything in an image, whatever it is: SAM prompted with a grid of points (Kirillov et al. 2023, appendix B).

These masks divide an image into regions without asking what they show, which superpixels are made of and a person can look
at; object proposals come from ``weaksam/proposals``, which adds prompts of its own and keeps boxes. The behaviour is that
of segment-anything's ``SamAutomaticMaskGenerator`` with its defaults, on the encoder, decoder and measures of this package:

1. Each point of a grid asks for SAM's three masks: of a subpart, a part and a whole. A mask keeps this level.
2. Masks of a low predicted IoU and unstable ones are let go; of those whose boxes overlap, the best predicted one stays.
3. If asked for, the same is done with overlapping crops of the image, layer by layer in more and smaller ones. Masks that
   a crop cuts off are let go, and where masks of several crops overlap, the one of the smaller crop stays.
4. If asked for, small holes are filled and small islands dropped; of masks whose boxes overlap then, one that nothing was
   done to stays.

Boxes end one past their last pixel here, where the generator's end in it, so that a few decisions within a pixel of a
threshold fall otherwise. Two options favour wholes in step 2, as superpixels want it (FMA method 5.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.utils.amg import remove_small_regions
from torch import Tensor
from torchvision.ops import nms

from weaksam.boxes import area
from weaksam.config import EverythingConfig
from weaksam.grids import grid_points
from weaksam.masks import encode_rles
from weaksam.masks_np import Rle, decode_rle, encode_rle, rle_area, rle_boxes
from weaksam.sam.encode import EncodedImage, encode_image
from weaksam.sam.measure import in_full_size, measure_masks
from weaksam.sam.prompt import THREE_MASKS, Prompt, decode_prompts
from weaksam.structures import WHOLE, AutomaticMasks

EDGE_TOLERANCE = 20  # pixels from a crop's edge within which a mask counts as cut off (segment-anything)

Crop = tuple[int, int, int, int]  # XYXY in pixels of the image, right and bottom exclusive


@torch.inference_mode()
def segment_everything(sam: Sam, image: NDArray[np.uint8], config: EverythingConfig) -> AutomaticMasks:
    """Find masks of everything in one image.

    Args:
        sam: a model of segment-anything in evaluation mode, on any device.
        image: ``[H, W, 3]`` RGB, both sides at least one pixel.
        config: grid, filters, suppression, crops and small regions.

    Returns:
        Masks, the best predicted IoU first, but with ``wholes_first`` wholes before others; with crops those of the
        smallest crops first and so within a crop; with ``min_region_area`` those first that nothing was done to. Where
        nothing passes, none.
    """
    size_hw = (image.shape[0], image.shape[1])
    found = [
        _in_crop(sam, image, crop, max(1, config.points_per_side // config.crop_points_downscale**layer), config)
        for crop, layer in crop_boxes(size_hw, config.crop_layers, config.crop_overlap)
    ]
    kept = [crop.take(rows) for crop, rows in _over_crops(found, config.crop_nms_iou)]
    mask_rle = [rle for crop in kept for rle in _drawn(sam, crop, size_hw)]
    masks = AutomaticMasks(
        size_hw=size_hw,
        mask_rle=mask_rle,
        level=torch.cat([crop.level for crop in kept]).numpy().astype(np.int8),
        area=rle_area(mask_rle).astype(np.int32),
        boxes_xyxy=torch.cat([crop.boxes_xyxy for crop in kept]).numpy(),
        predicted_iou=torch.cat([crop.predicted_iou for crop in kept]).float().numpy(),
        stability=torch.cat([crop.stability for crop in kept]).float().numpy(),
        point_xy=torch.cat([crop.points_xy for crop in kept]).numpy(),
        crop_xyxy=np.concatenate([np.tile(np.array(crop.crop_xyxy, np.float32), (len(crop), 1)) for crop in kept]),
    )
    return without_small_regions(masks, config) if config.min_region_area else masks


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


def without_small_regions(masks: AutomaticMasks, config: EverythingConfig) -> AutomaticMasks:
    """Fill small holes and drop small islands; of masks whose boxes overlap then, one that nothing was done to stays.

    Args:
        masks: of one image; one at a time is drawn.
        config: with ``min_region_area`` pixels, which a region has at least to stay. Of a mask that has no such region the
            largest stays. Boxes may overlap by ``nms_iou`` or ``crop_nms_iou``, whichever is more.

    Returns:
        The masks that stay, those first that nothing was done to, else in their order.
    """
    mask_rle: list[Rle] = []
    unchanged: list[bool] = []
    for rle in masks.mask_rle:
        filled, had_holes = remove_small_regions(decode_rle(rle), config.min_region_area, "holes")
        mended, had_islands = remove_small_regions(filled, config.min_region_area, "islands")
        unchanged.append(not (had_holes or had_islands))
        mask_rle.append(rle if unchanged[-1] else encode_rle(mended))
    boxes_xyxy = rle_boxes(mask_rle)
    area_px = rle_area(mask_rle).astype(np.int32)
    kept = nms(
        torch.from_numpy(boxes_xyxy),
        torch.tensor(unchanged, dtype=torch.float32),
        max(config.nms_iou, config.crop_nms_iou),
    )
    return replace(masks, mask_rle=mask_rle, area=area_px, boxes_xyxy=boxes_xyxy).take(kept.tolist())


@dataclass(frozen=True, kw_only=True)
class _InCrop:
    """The N masks of one crop, in the order of their suppression; on the CPU but for the logits."""

    crop_xyxy: Crop
    encoded: EncodedImage  # of the crop
    low_res_logits: Tensor  # [N, h', w']
    level: Tensor  # int64 [N]
    boxes_xyxy: Tensor  # [N, 4], pixels of the image
    predicted_iou: Tensor  # [N]
    stability: Tensor  # [N]
    points_xy: Tensor  # [N, 2], pixels of the image

    def __len__(self) -> int:
        return len(self.level)

    def take(self, rows: Tensor) -> _InCrop:
        """Return some of the masks."""
        return replace(
            self,
            low_res_logits=self.low_res_logits[rows.to(self.low_res_logits.device)],
            level=self.level[rows],
            boxes_xyxy=self.boxes_xyxy[rows],
            predicted_iou=self.predicted_iou[rows],
            stability=self.stability[rows],
            points_xy=self.points_xy[rows],
        )


def _in_crop(
    sam: Sam, image: NDArray[np.uint8], crop_xyxy: Crop, points_per_side: int, config: EverythingConfig
) -> _InCrop:
    """Prompt one crop with its grid; filter and suppress. What fails is let go chunk by chunk, for logits are large."""
    left, top, right, bottom = crop_xyxy
    encoded = encode_image(sam, image[top:bottom, left:right])
    grid_xy = grid_points((bottom - top, right - left), points_per_side)
    bonus = [config.whole_iou_bonus if level == WHOLE else 0.0 for level in THREE_MASKS]
    passed: list[tuple[Tensor, ...]] = []
    for decoded in decode_prompts(
        sam,
        encoded,
        [Prompt(points_xy=point_xy[None]) for point_xy in grid_xy],
        min_predicted_iou=[config.min_predicted_iou - of_level for of_level in bonus],
    ):
        boxes_xyxy, empty, stability = measure_masks(sam, encoded, decoded.low_res_logits, config.stability_offset)
        boxes_xyxy += boxes_xyxy.new_tensor([left, top, left, top])
        passes = (stability >= config.min_stability) & ~empty & ~cut_off(boxes_xyxy, crop_xyxy, image.shape[:2])
        row, level = decoded.chosen.nonzero(as_tuple=True)
        of_chosen = (level, boxes_xyxy, decoded.predicted_iou[row, level], stability, decoded.prompt_index[row])
        passed.append((decoded.low_res_logits[passes], *(column[passes].cpu() for column in of_chosen)))
    low_res_logits, level, boxes_xyxy, predicted_iou, stability, prompt = map(torch.cat, zip(*passed, strict=True))
    every = _InCrop(
        crop_xyxy=crop_xyxy,
        encoded=encoded,
        low_res_logits=low_res_logits,
        level=level,
        boxes_xyxy=boxes_xyxy,
        predicted_iou=predicted_iou,
        stability=stability,
        points_xy=torch.from_numpy(grid_xy + np.array([left, top], np.float32))[prompt],
    )
    return every.take(suppress(boxes_xyxy, predicted_iou, level, config))


def suppress(boxes_xyxy: Tensor, predicted_iou: Tensor, level: Tensor, config: EverythingConfig) -> Tensor:
    """Choose among the masks of one crop: of those whose boxes overlap, the one that comes first.

    Args:
        boxes_xyxy: ``[N, 4]``.
        predicted_iou: ``[N]``, by which masks are put in order, the best first; of equals the one before.
        level: int64 ``[N]``; with ``wholes_first`` 1 is added to the predicted IoU of wholes.
        config: as said, and how much masks may overlap.

    Returns:
        int64 ``[K]``, the masks that stay, in order.
    """
    score = predicted_iou + (level == WHOLE) if config.wholes_first else predicted_iou
    kept: Tensor = nms(boxes_xyxy.to(score.dtype), score, config.nms_iou)
    return kept


def _over_crops(found: list[_InCrop], iou_threshold: float) -> Iterator[tuple[_InCrop, Tensor]]:
    """Suppress between crops, if there are several, and yield each, the smallest first, with the rows that stay of it."""
    if len(found) == 1:
        yield found[0], torch.arange(len(found[0]))
        return
    sizes = torch.tensor([len(crop) for crop in found])
    smallness = 1 / area(torch.tensor([crop.crop_xyxy for crop in found], dtype=torch.float32))
    kept = nms(torch.cat([crop.boxes_xyxy for crop in found]), smallness.repeat_interleave(sizes), iou_threshold)
    begins = (sizes.cumsum(0) - sizes).tolist()
    for n in smallness.argsort(descending=True, stable=True).tolist():
        yield found[n], kept[(kept >= begins[n]) & (kept < begins[n] + len(found[n]))] - begins[n]


def _drawn(sam: Sam, crop: _InCrop, size_hw: tuple[int, int]) -> Iterator[Rle]:
    """Make the masks of a crop at the image's own size, a few at a time."""
    height, width = size_hw
    left, top, right, bottom = crop.crop_xyxy

    def encode(_: slice, logits: Tensor) -> list[Rle]:
        return encode_rles(F.pad(logits > sam.mask_threshold, (left, width - right, top, height - bottom)))

    for some in in_full_size(sam, crop.encoded, crop.low_res_logits, encode):
        yield from some
