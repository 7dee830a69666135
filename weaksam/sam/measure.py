"""From low-resolution masks to what is wanted of them: boxes, areas, stability, full-size masks.

Masks are measured at the image's own resolution, a few at a time, and let go; only numbers come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from weaksam.chunks import chunk_size, in_chunks
from weaksam.masks import encode_rles, masks_to_boxes
from weaksam.masks_np import Rle
from weaksam.sam.encode import EncodedImage
from weaksam.sam.prompt import THREE_MASKS, Prompt, decode_prompts, logits_hw

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MeasuredMasks:
    """What SAM answered: one row per prompt and mask, in the order of the prompts, masks of a prompt as asked for.

    Everything is on the CPU but ``low_res_logits``. Boxes are float32; other numbers are of the model's own precision.
    """

    boxes_xyxy: Tensor  # [N, 4], right and bottom exclusive; zeros where the mask is empty
    empty: Tensor  # bool [N], the mask has no pixel, or was not decoded
    predicted_iou: Tensor  # [N], SAM's own estimate; near [0, 1] but not bound to it
    stability: Tensor  # [N] in [0, 1], NaN for a mask with no pixel even at the lower threshold, or not measured
    prompt_index: Tensor  # int64 [N]
    mask_index: Tensor  # int64 [N], of SAM's masks: 0 sub-part, 1 part, 2 whole, 3 the single one
    low_res_logits: Tensor | None  # [N, h', w'] on the model's device, only if asked for; zeros where not decoded


@torch.inference_mode()
def measure_prompts(
    sam: Sam,
    encoded: EncodedImage,
    prompts: Sequence[Prompt],
    *,
    mask_indices: Sequence[int] = THREE_MASKS,
    min_predicted_iou: float | None = None,
    stability_offset: float | None = None,
    keep_logits: bool = False,
) -> MeasuredMasks:
    """Ask SAM for the masks of any number of prompts on one image, and measure them.

    Args:
        sam: the model that encoded the image.
        encoded: from ``encode_image``.
        prompts: in any order and of any form.
        mask_indices: which masks per prompt; see ``decode_prompts``.
        min_predicted_iou: a mask whose predicted IoU does not exceed it is neither decoded nor measured: its row has no
            box, no stability and counts as empty. Most of a grid's points lie on background, and measuring is most of
            the work. ``None`` measures all.
        stability_offset: logits; stability compares the masks at this far above and below the threshold. ``None``
            leaves it unmeasured.
        keep_logits: also keep the low-resolution logits, from which ``kept_masks`` makes masks; about 200 kB a mask.

    Returns:
        ``len(prompts) * len(mask_indices)`` rows; of no prompts, none.
    """
    shape = (len(prompts), len(mask_indices))
    precision = encoded.features.dtype
    boxes_xyxy = torch.zeros(*shape, 4, device=sam.device)
    empty = torch.ones(shape, dtype=torch.bool, device=sam.device)
    predicted_iou = torch.zeros(shape, dtype=precision, device=sam.device)
    stability = torch.full(shape, torch.nan, dtype=precision, device=sam.device)
    low_res_logits = (
        torch.zeros(*shape, *logits_hw(sam, encoded), dtype=precision, device=sam.device) if keep_logits else None
    )
    for decoded in decode_prompts(
        sam, encoded, prompts, mask_indices=mask_indices, min_predicted_iou=min_predicted_iou
    ):
        predicted_iou[decoded.prompt_index] = decoded.predicted_iou
        row, mask = decoded.chosen.nonzero(as_tuple=True)
        measured = decoded.prompt_index[row], mask
        boxes_xyxy[measured], empty[measured], stability[measured] = measure_masks(
            sam, encoded, decoded.low_res_logits, stability_offset
        )
        if low_res_logits is not None:
            low_res_logits[measured] = decoded.low_res_logits
    return MeasuredMasks(
        boxes_xyxy=boxes_xyxy.flatten(0, 1).cpu(),
        empty=empty.flatten().cpu(),
        predicted_iou=predicted_iou.flatten().cpu(),
        stability=stability.flatten().cpu(),
        prompt_index=torch.arange(len(prompts)).repeat_interleave(len(mask_indices)),
        mask_index=torch.tensor(mask_indices).repeat(len(prompts)),
        low_res_logits=None if low_res_logits is None else low_res_logits.flatten(0, 1),
    )


@torch.inference_mode()
def measure_masks(
    sam: Sam, encoded: EncodedImage, low_res_logits: Tensor, stability_offset: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Box, emptiness and stability of masks at the image's own resolution, a few masks at a time.

    Args:
        sam: for its threshold (logit 0) and its input side.
        encoded: the image the logits belong to.
        low_res_logits: ``[N, h', w']``; cropped as ``decode_prompts`` crops them, or whole.
        stability_offset: as in ``measure_prompts``.

    Returns:
        Boxes ``[N, 4]``, empty bool ``[N]`` and stability ``[N]`` on the device of the logits. Stability is the area
        above threshold + offset over the area above threshold - offset; 0 / 0 is NaN, which passes no filter.
    """
    boxes_xyxy = low_res_logits.new_zeros((len(low_res_logits), 4), dtype=torch.float32)
    empty = low_res_logits.new_zeros(len(low_res_logits), dtype=torch.bool)
    stability = low_res_logits.new_full((len(low_res_logits),), torch.nan)

    def measure(rows: slice, logits: Tensor) -> None:
        boxes_xyxy[rows], empty[rows] = masks_to_boxes(logits > sam.mask_threshold)
        if stability_offset is not None:
            stability[rows] = stability_of(sam, logits, stability_offset)

    for _ in in_full_size(sam, encoded, low_res_logits, measure):
        pass
    return boxes_xyxy, empty, stability


@torch.inference_mode()
def in_full_size(
    sam: Sam, encoded: EncodedImage, low_res_logits: Tensor, compute: Callable[[slice, Tensor], T]
) -> Iterator[T]:
    """Compute on logits at the image's own resolution, a few masks at a time, and yield the result of each few.

    Args:
        sam: as in ``measure_masks``, like the next two.
        encoded: as in ``measure_masks``.
        low_res_logits: as in ``measure_masks``.
        compute: called with which rows these are and their logits ``[n, H, W]``. It may hold masks of them at three thresholds.
    """
    pixels = max(sam.image_encoder.img_size**2, encoded.size_hw[0] * encoded.size_hw[1])
    bytes_each = 4 * pixels * low_res_logits.itemsize  # both resizes, and the masks at three thresholds
    at_once = chunk_size(low_res_logits.device, tensor_bytes=bytes_each, peak_bytes=bytes_each)

    def of_rows(rows: slice) -> T:
        return compute(rows, _full_logits(sam, encoded, low_res_logits[rows]))

    yield from in_chunks(len(low_res_logits), at_once, of_rows)


def stability_of(sam: Sam, logits: Tensor, offset: float) -> Tensor:
    """Return the area above threshold + offset over that above threshold - offset, ``[N]`` of logits ``[N, H, W]``."""
    return areas(logits > sam.mask_threshold + offset) / areas(logits > sam.mask_threshold - offset)


def areas(masks: Tensor) -> Tensor:
    """Pixels of each mask; summing rows into the shortest integer that holds them is several times faster on a CPU."""
    row_type = torch.int16 if masks.shape[-1] < 2**15 else torch.int32
    return masks.sum(dim=-1, dtype=row_type).sum(dim=-1, dtype=torch.int32)


@torch.inference_mode()
def kept_masks(sam: Sam, encoded: EncodedImage, low_res_logits: Tensor) -> list[Rle]:
    """The masks behind kept logits at the image's own resolution, run-length encoded a few at a time."""

    def encode(_: slice, logits: Tensor) -> list[Rle]:
        return encode_rles(logits > sam.mask_threshold)

    return [rle for some in in_full_size(sam, encoded, low_res_logits, encode) for rle in some]


def _full_logits(sam: Sam, encoded: EncodedImage, low_res_logits: Tensor) -> Tensor:
    """Logits ``[N, h', w']`` at the image's own resolution ``[N, H, W]``, by the published two resizes.

    One resize would not do: the second point-samples what the first made, and weak specks live or die by that.
    """
    side, low_res_side = sam.image_encoder.img_size, sam.prompt_encoder.mask_input_size[0]
    height, width = low_res_logits.shape[-2:]
    at_input = F.interpolate(
        low_res_logits[:, None],
        (height * side // low_res_side, width * side // low_res_side),
        mode="bilinear",
        align_corners=False,
    )
    at_input = at_input[..., : encoded.input_hw[0], : encoded.input_hw[1]]
    return F.interpolate(at_input, encoded.size_hw, mode="bilinear", align_corners=False)[:, 0]
