"""From boxes to masks: SAM is shown each box, and with it points inside if there are any (method 8.1).

The image is encoded once, its boxes are prompted together, and a mask leaves the device as the lengths of its runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

from weaksam.config import SegmentConfig
from weaksam.masks import encode_rles, masks_to_boxes
from weaksam.masks_np import Rle
from weaksam.sam.encode import EncodedImage, ResizedImage, encode_image
from weaksam.sam.measure import areas, in_full_size, stability_of
from weaksam.sam.prompt import SINGLE_MASK, THREE_MASKS, Prompt, decode_prompts
from weaksam.structures import Prompts


@dataclass(frozen=True, kw_only=True)
class BoxMasks:
    """The masks of N boxes of one image, in their order."""

    mask_rle: Sequence[Rle]  # [N]
    boxes_xyxy: NDArray[np.float32]  # [N, 4] around each mask; zeros where it is empty
    area: NDArray[np.int32]  # [N] pixels
    predicted_iou: NDArray[np.float32]  # [N] SAM's own estimate; near [0, 1] but not bound to it
    stability: NDArray[np.float32]  # [N] in [0, 1]; NaN for a mask with no pixel even at the lower threshold


@torch.inference_mode()
def segment_boxes(
    sam: Sam,
    image: NDArray[np.uint8] | ResizedImage | EncodedImage,
    boxes_xyxy: NDArray[np.float32],
    points_xy: Sequence[NDArray[np.float32]],
    config: SegmentConfig,
) -> BoxMasks:
    """Make a mask of each box.

    Args:
        sam: a model of segment-anything in evaluation mode, on any device.
        image: ``[H, W, 3]`` RGB, or what ``resize_image`` or ``encode_image`` made of it.
        boxes_xyxy: ``[N, 4]`` pixels of the image; N may be 0.
        points_xy: of each box the points on its object ``[n, 2]`` that prompt beside it; n may be 0.
        config: which mask is taken, and what becomes of it.

    Returns:
        One mask for each box, empty ones too. Stability is that of the mask before it is cut to its box. Without a box the
        image is not encoded.
    """
    if not len(boxes_xyxy):
        none = np.zeros(0, np.float32)
        return BoxMasks(
            mask_rle=[], boxes_xyxy=boxes_xyxy, area=none.astype(np.int32), predicted_iou=none, stability=none
        )
    encoded = image if isinstance(image, EncodedImage) else encode_image(sam, image)
    prompts = [
        Prompt(box_xyxy=box, points_xy=points if len(points) else None)
        for box, points in zip(boxes_xyxy, points_xy, strict=True)
    ]
    logits, predicted_iou = _best_masks(sam, encoded, prompts, config, whole=config.refine)
    if config.refine:
        prompts = [replace(prompt, mask_logits=own) for prompt, own in zip(prompts, logits, strict=True)]
        logits, predicted_iou = _best_masks(sam, encoded, prompts, config)
    return _measured(sam, encoded, logits, predicted_iou, torch.from_numpy(boxes_xyxy).to(sam.device), config)


def peaks_inside(
    boxes_xyxy: NDArray[np.float32], class_index: NDArray[np.int64], prompts: Sequence[Prompts], max_points: int
) -> list[NDArray[np.float32]]:
    """Return for each box the peaks of its class that lie inside it: the first ``[n, 2]`` ones, n up to ``max_points``.

    A prompt of all peaks of a class together repeats them, and adds none.
    """
    peaks = [
        (of_class, point)
        for of_source in prompts
        for points, kind, of_class in zip(of_source.points_xy, of_source.kind, of_source.class_index, strict=True)
        if kind not in ("grid", "class-joint")
        for point in points
    ]
    classes = np.array([of_class for of_class, _ in peaks], np.int64)
    points_xy = np.array([point for _, point in peaks], np.float32).reshape(-1, 2)
    found = []
    for box, wanted in zip(boxes_xyxy, class_index, strict=True):
        inside = (points_xy >= box[:2]).all(axis=1) & (points_xy < box[2:]).all(axis=1) & (classes == wanted)
        chosen = list(dict.fromkeys(map(tuple, points_xy[inside].tolist())))[:max_points]
        found.append(np.array(chosen, np.float32).reshape(-1, 2))
    return found


def _best_masks(
    sam: Sam, encoded: EncodedImage, prompts: Sequence[Prompt], config: SegmentConfig, *, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """Return one mask of each prompt: low-resolution logits ``[N, h', w']`` and predicted IoU ``[N]``."""
    mask_indices = THREE_MASKS if config.best_of_three else (SINGLE_MASK,)
    order, logits, estimates = [], [], []
    for decoded in decode_prompts(sam, encoded, prompts, mask_indices=mask_indices, whole=whole):
        best = decoded.predicted_iou.argmax(dim=1)
        of_each = torch.arange(len(best), device=best.device)
        order.append(decoded.prompt_index)
        of_prompt = decoded.low_res_logits.view(len(best), len(mask_indices), *decoded.low_res_logits.shape[1:])
        logits.append(of_prompt[of_each, best])
        estimates.append(decoded.predicted_iou[of_each, best])
    back = torch.cat(order).argsort()
    return torch.cat(logits)[back], torch.cat(estimates)[back]


def _measured(
    sam: Sam, encoded: EncodedImage, logits: Tensor, predicted_iou: Tensor, prompted_xyxy: Tensor, config: SegmentConfig
) -> BoxMasks:
    """Make masks of logits at the image's own size, a few at a time."""
    height, width = encoded.size_hw
    x = torch.arange(width, device=sam.device)
    y = torch.arange(height, device=sam.device)

    def measure(rows: slice, full_logits: Tensor) -> tuple[list[Rle], Tensor, Tensor, Tensor]:
        masks = full_logits > sam.mask_threshold
        if config.clip:  # a pixel is inside if its centre is
            x1, y1, x2, y2 = (side[:, None] for side in prompted_xyxy[rows].unbind(dim=1))
            inside_x, inside_y = (x + 0.5 > x1) & (x + 0.5 < x2), (y + 0.5 > y1) & (y + 0.5 < y2)
            masks &= inside_y[:, :, None] & inside_x[:, None, :]
        stability = stability_of(sam, full_logits, config.stability_offset)
        return encode_rles(masks), masks_to_boxes(masks)[0].cpu(), areas(masks).cpu(), stability.cpu()

    rles, boxes, area, stability = zip(*in_full_size(sam, encoded, logits, measure), strict=True)
    return BoxMasks(
        mask_rle=[rle for of_some in rles for rle in of_some],
        boxes_xyxy=torch.cat(boxes).numpy(),
        area=torch.cat(area).numpy(),
        predicted_iou=predicted_iou.float().cpu().numpy(),
        stability=torch.cat(stability).float().numpy(),
    )
