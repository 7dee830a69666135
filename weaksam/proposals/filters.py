"""From prompts to object proposals: masks to boxes, the filters of each source, one list (sections 3.2, 3.3).

The grid asks everywhere, so its masks are filtered by SAM's predicted IoU and by stability and then suppressed by box,
best predicted IoU first. Clue prompts ask where the classifier looked, so nothing of theirs is filtered; only the
boxes of cross-attention prompts, which come in swarms, are thinned in order. There is no suppression across sources.

The published grid suppression runs a plain IoU on inclusive corners, a pixel short on each side. Ours is the one IoU of
this package, so a few decisions near the threshold differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor
from torchvision.ops import nms

from weaksam.boxes import nms_in_order
from weaksam.config import ProposalsConfig
from weaksam.masks_np import Rle, encode_rle
from weaksam.sam.encode import EncodedImage, encode_image
from weaksam.sam.measure import MeasuredMasks, kept_masks, measure_prompts
from weaksam.sam.prompt import THREE_MASKS, Prompt
from weaksam.structures import SOURCES, WHOLE_IMAGE, Prompts, Proposals


def propose(
    sam: Sam, image: NDArray[np.uint8] | EncodedImage, prompts: Sequence[Prompts], config: ProposalsConfig
) -> Proposals:
    """Object proposals of one image from all its prompts; the image is encoded once.

    Args:
        sam: a model of segment-anything in evaluation mode, on any device.
        image: ``[H, W, 3]`` RGB, or what ``encode_image`` made of it, to prompt the same image several times.
        prompts: at most one per source, in any order; empty ones are fine.
        config: filters and suppression.

    Returns:
        The boxes of all sources in the order of ``structures.SOURCES``: those of the grid best predicted IoU first, the
        others prompt by prompt. ``discarded`` counts, where there are any, "predicted IoU", "stability", "empty mask"
        and "suppressed", in this order of filtering. An image left without a box gets one of its own size from no
        prompt and no mask, unless ``whole_image_if_empty`` is off.
    """
    ordered = sorted(prompts, key=lambda of_source: SOURCES.index(of_source.source))
    encoded = image if isinstance(image, EncodedImage) else encode_image(sam, image)
    parts: list[_Part] = []
    first_prompt = 0
    for of_source in ordered:
        parts.append(_part(sam, encoded, of_source, first_prompt, config))
        first_prompt += len(of_source)
    if config.whole_image_if_empty and not any(len(part.boxes_xyxy) for part in parts):
        parts.append(_whole_image(encoded.size_hw))
    return Proposals(
        size_hw=encoded.size_hw,
        boxes_xyxy=np.concatenate([np.empty((0, 4), np.float32), *(part.boxes_xyxy for part in parts)]),
        source=[part.source for part in parts for _ in part.boxes_xyxy],
        prompt_index=np.concatenate([np.empty(0, np.int32), *(part.prompt_index for part in parts)]),
        mask_index=np.concatenate([np.empty(0, np.int8), *(part.mask_index for part in parts)]),
        predicted_iou=np.concatenate([np.empty(0, np.float32), *(part.predicted_iou for part in parts)]),
        discarded={(part.source, reason): n for part in parts for reason, n in part.discarded.items() if n},
        prompts=ordered,
        mask_rle=[rle for part in parts for rle in part.mask_rle] if config.keep_masks else None,
    )


def select_masks(measured: MeasuredMasks, source: str, config: ProposalsConfig) -> tuple[Tensor, dict[str, int]]:
    """Which masks of one source become proposals (its filters are told at the top of this file).

    Args:
        measured: the answers to the source's prompts; stability is read for "grid" only.
        source: of ``structures.SOURCES``.
        config: predicted IoU must exceed its threshold, stability must reach its own (NaN never does), an overlap must
            exceed its own to suppress.

    Returns:
        Row numbers of ``measured`` in the order of the proposals, and how many others fell to which reason, each
        counted at the first filter it fails.
    """
    filters = [("empty mask", ~measured.empty | config.keep_empty)]
    if source == "grid":
        filters = [
            ("predicted IoU", measured.predicted_iou > config.min_predicted_iou),
            ("stability", measured.stability >= config.min_stability),
            *filters,
        ]
    passed = torch.ones_like(measured.empty)
    discarded: dict[str, int] = {}
    for reason, passes in filters:
        discarded[reason] = int((passed & ~passes).sum())
        passed &= passes
    candidates = passed.nonzero().squeeze(1)
    boxes_xyxy = measured.boxes_xyxy[candidates]
    rows = candidates
    if source == "grid":
        scores = measured.predicted_iou[candidates]
        rows = candidates[nms(boxes_xyxy.to(scores.dtype), scores, config.grid_nms_iou)]
    elif source == "cross":
        rows = candidates[nms_in_order(boxes_xyxy, config.cross_nms_iou)]
    discarded["suppressed"] = len(candidates) - len(rows)
    return rows, discarded


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The proposals of one source; fields as in ``Proposals``."""

    source: str
    boxes_xyxy: NDArray[np.float32]
    prompt_index: NDArray[np.int32]
    mask_index: NDArray[np.int8]
    predicted_iou: NDArray[np.float32]
    discarded: dict[str, int]  # reason -> boxes
    mask_rle: Sequence[Rle]  # empty where masks are not kept


def _part(sam: Sam, encoded: EncodedImage, prompts: Prompts, first_prompt: int, config: ProposalsConfig) -> _Part:
    """Segment the prompts of one source and keep what passes."""
    is_grid = prompts.source == "grid"
    measured = measure_prompts(
        sam,
        encoded,
        [Prompt(points_xy=points_xy) for points_xy in prompts.points_xy],
        mask_indices=THREE_MASKS if is_grid else config.clue_mask_indices,
        min_predicted_iou=config.min_predicted_iou if is_grid else None,
        stability_offset=config.stability_offset if is_grid else None,
        keep_logits=config.keep_masks,
    )
    rows, discarded = select_masks(measured, prompts.source, config)
    logits = measured.low_res_logits
    return _Part(
        source=prompts.source,
        boxes_xyxy=measured.boxes_xyxy[rows].numpy(),
        prompt_index=(first_prompt + measured.prompt_index[rows]).numpy().astype(np.int32),
        mask_index=measured.mask_index[rows].numpy().astype(np.int8),
        predicted_iou=measured.predicted_iou[rows].float().numpy(),
        discarded=discarded,
        mask_rle=() if logits is None else kept_masks(sam, encoded, logits[rows.to(logits.device)]),
    )


def _whole_image(size_hw: tuple[int, int]) -> _Part:
    """One box around everything."""
    height, width = size_hw
    return _Part(
        source=WHOLE_IMAGE,
        boxes_xyxy=np.array([[0, 0, width, height]], dtype=np.float32),
        prompt_index=np.array([-1], dtype=np.int32),
        mask_index=np.array([-1], dtype=np.int8),
        predicted_iou=np.array([np.nan], dtype=np.float32),
        discarded={},
        mask_rle=[encode_rle(np.ones(size_hw, dtype=np.bool_))],
    )
