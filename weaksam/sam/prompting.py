"""Many point prompts on one image through SAM: one encoding, large batches, and only numbers come back.

segment-anything's own ways, ``SamPredictor.predict`` per prompt and ``SamAutomaticMaskGenerator`` for a grid, give the
same boxes slower: they encode the image anew for each kind of prompt, copy it for each prompt of a batch, decode a mask
nobody asked for, and make masks and run-length codes of everything before most of it is filtered away. This module
calls the model's own layers in an order that shares what prompts of one image have in common. ``tests/weaksam/
test_prompting.py`` holds it to the stock calls, box by box; ``benchmarks/proposals.py`` times both.

Two halves with a seam of plain tensors: ``_PromptedDecoder`` turns a chunk of prompts into low-resolution logits, and
``measure_masks`` turns such logits into boxes and stability. Chunks never mix images and depend on nothing but the
model and the device, so whatever is computed beside an image, its own computation is the same one: on one machine's CPU,
with as many threads, its result is the same bit for bit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam, TwoWayTransformer
from segment_anything.modeling.transformer import Attention
from torch import Tensor

from weaksam.masks import masks_to_boxes

# What one step works on at a time. On a CPU tensors should stay near the cache, and below the 32 MB from which glibc asks
# the kernel for every one anew; a GPU needs hundreds of prompts at once to be busy.
_STEP_BYTES_CPU = 16 * 2**20
_STEP_BYTES_GPU = 2**30
_LOGITS_PER_TOKEN = 4  # along each side: the decoder doubles the grid of tokens twice


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """One image after SAM's encoder; everything that prompts share."""

    features: Tensor  # [1, C, h, w] on the model's device
    input_hw: tuple[int, int]  # pixels, the image as the encoder saw it, before padding to a square
    size_hw: tuple[int, int]  # pixels, the image itself


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What SAM answered: one row per prompt and mask, in the order of the prompts, masks of a prompt as asked for.

    Everything is on the CPU but ``low_res_logits``. Boxes are float32; other numbers are of the model's own precision.
    """

    boxes_xyxy: Tensor  # [N, 4], right and bottom exclusive; zeros where the mask is empty
    empty: Tensor  # bool [N], the mask has no pixel, or was not looked at
    predicted_iou: Tensor  # [N], SAM's own estimate; near [0, 1] but not bound to it
    stability: Tensor  # [N] in [0, 1], NaN for a mask with no pixel even at the lower threshold, or not looked at
    prompt_index: Tensor  # int64 [N]
    mask_index: Tensor  # int64 [N], of SAM's three masks: 0 sub-part, 1 part, 2 whole
    low_res_logits: Tensor | None  # [N, h', w'] on the model's device, only if asked for


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


@torch.inference_mode()
def decode_prompts(
    sam: Sam,
    encoded: EncodedImage,
    points_xy: Sequence[NDArray[np.float32]],
    *,
    mask_indices: Sequence[int] = (0, 1, 2),
    min_predicted_iou: float | None = None,
    stability_offset: float | None = None,
    keep_logits: bool = False,
) -> Decoded:
    """Ask SAM for the masks of any number of prompts on one image.

    Args:
        sam: the model that encoded the image.
        encoded: from ``encode_image``.
        points_xy: one ``[n, 2]`` array per prompt, n at least 1, pixels of the image itself; all points are positive and
            those of one prompt are prompted together. Prompts with the same n share batches.
        mask_indices: which of the three masks per prompt, each of 0..2.
        min_predicted_iou: a mask whose predicted IoU does not exceed it is not looked at: its row has no box, no stability
            and counts as empty. Most of a grid's points lie on background, and looking is most of the work. ``None``
            looks at all. With ``keep_logits`` those of a prompt without any other mask are zero.
        stability_offset: logits; stability compares the masks at this far above and below the threshold. ``None``
            leaves it unmeasured.
        keep_logits: also keep the low-resolution logits, from which ``full_masks`` makes masks; about 200 kB a mask.

    Returns:
        ``len(points_xy) * len(mask_indices)`` rows; of no prompts, none.
    """
    decoder = _PromptedDecoder(sam, encoded)
    shape = (len(points_xy), len(mask_indices))
    precision = encoded.features.dtype
    boxes_xyxy = torch.zeros(*shape, 4, device=sam.device)
    empty = torch.ones(shape, dtype=torch.bool, device=sam.device)
    predicted_iou = torch.zeros(shape, dtype=precision, device=sam.device)
    stability = torch.full(shape, torch.nan, dtype=precision, device=sam.device)
    low_res_logits = (
        torch.zeros(*shape, *decoder.logits_hw, dtype=precision, device=sam.device) if keep_logits else None
    )
    for prompt_index in _chunks(points_xy, decoder.prompts_at_once):
        points = torch.from_numpy(np.stack([points_xy[i] for i in prompt_index]))
        tokens, image, estimates = decoder.attend(points, mask_indices)
        predicted_iou[prompt_index] = estimates
        looked_at = estimates > (-torch.inf if min_predicted_iou is None else min_predicted_iou)
        (prompt,) = looked_at.any(dim=1).nonzero(as_tuple=True)
        rows, looked_at = torch.tensor(prompt_index, device=sam.device)[prompt], looked_at[prompt]
        logits = decoder.logits(tokens[prompt], image[prompt], mask_indices)
        row, mask = looked_at.nonzero(as_tuple=True)
        measured = rows[row], mask
        boxes_xyxy[measured], empty[measured], stability[measured] = measure_masks(
            sam, encoded, logits[row, mask], stability_offset
        )
        if low_res_logits is not None:
            low_res_logits[rows] = logits
    return Decoded(
        boxes_xyxy=boxes_xyxy.flatten(0, 1).cpu(),
        empty=empty.flatten().cpu(),
        predicted_iou=predicted_iou.flatten().cpu(),
        stability=stability.flatten().cpu(),
        prompt_index=torch.arange(len(points_xy)).repeat_interleave(len(mask_indices)),
        mask_index=torch.tensor(mask_indices).repeat(len(points_xy)),
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
        stability_offset: as in ``decode_prompts``.

    Returns:
        Boxes ``[N, 4]``, empty bool ``[N]`` and stability ``[N]`` on the device of the logits. Stability is the area
        above threshold + offset over the area above threshold - offset; 0 / 0 is NaN, which passes no filter.
    """
    boxes_xyxy = low_res_logits.new_zeros((len(low_res_logits), 4), dtype=torch.float32)
    empty = low_res_logits.new_zeros(len(low_res_logits), dtype=torch.bool)
    stability = low_res_logits.new_full((len(low_res_logits),), torch.nan)
    pixels = max(sam.image_encoder.img_size**2, encoded.size_hw[0] * encoded.size_hw[1])
    bytes_each = 4 * pixels * low_res_logits.itemsize  # both resizes, and the masks at three thresholds
    masks_at_once = _at_once(bytes_each, low_res_logits.device)
    for start in range(0, len(low_res_logits), masks_at_once):
        rows = slice(start, start + masks_at_once)
        logits = _full_logits(sam, encoded, low_res_logits[rows])
        boxes_xyxy[rows], empty[rows] = masks_to_boxes(logits > sam.mask_threshold)
        if stability_offset is not None:
            inner = _area(logits > sam.mask_threshold + stability_offset)
            outer = _area(logits > sam.mask_threshold - stability_offset)
            stability[rows] = inner / outer
    return boxes_xyxy, empty, stability


def _area(masks: Tensor) -> Tensor:
    """Pixels of each mask; summing rows into the shortest integer that holds them is several times faster on a CPU."""
    row_type = torch.int16 if masks.shape[-1] < 2**15 else torch.int32
    return masks.sum(dim=-1, dtype=row_type).sum(dim=-1, dtype=torch.int32)


@torch.inference_mode()
def full_masks(sam: Sam, encoded: EncodedImage, low_res_logits: Tensor) -> Iterator[NDArray[np.bool_]]:
    """The masks behind kept logits at the image's own resolution, bool ``[H, W]``, one after the other."""
    for logits in low_res_logits:
        yield (_full_logits(sam, encoded, logits[None])[0] > sam.mask_threshold).cpu().numpy()


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


def _chunks(points_xy: Sequence[NDArray[np.float32]], prompts_at_once: int) -> Iterator[list[int]]:
    """Indices of prompts to decode together: equally many points, at most ``prompts_at_once``, order kept.

    Padding shorter prompts instead would change their answer, because the decoder attends to padding.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, points in enumerate(points_xy):
        by_length[len(points)].append(index)
    for indices in by_length.values():
        for start in range(0, len(indices), prompts_at_once):
            yield indices[start : start + prompts_at_once]


def _at_once(bytes_each: int, device: torch.device) -> int:
    """How many things of this size to work on together."""
    return max(1, (_STEP_BYTES_CPU if device.type == "cpu" else _STEP_BYTES_GPU) // bytes_each)


class _PromptedDecoder:
    """SAM's prompt encoder and mask decoder on one image.

    Image tokens are kept ``[prompts, tokens, channels]`` in memory throughout, which both the attention and, read as a
    channels-last picture, the convolutions want.
    """

    def __init__(self, sam: Sam, encoded: EncodedImage) -> None:
        self._sam = sam
        self._decoder = sam.mask_decoder
        self._encoded = encoded
        features = encoded.features + sam.prompt_encoder.no_mask_embed.weight[..., None, None]
        self._image = features.flatten(2).transpose(1, 2).contiguous()  # [1, N, C]
        self._image_pe = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2).contiguous()
        self._grid_hw = features.shape[-2:]
        self._kept_hw = tuple(
            self._tokens_in_use(pixels, tokens) for pixels, tokens in zip(encoded.input_hw, self._grid_hw, strict=True)
        )
        self.prompts_at_once = _at_once(self._image.nbytes, self._image.device)

    @property
    def logits_hw(self) -> tuple[int, int]:
        """Height and width of the logits: those rows and columns that the image, not its padding, is made of."""
        return self._kept_hw[0] * _LOGITS_PER_TOKEN, self._kept_hw[1] * _LOGITS_PER_TOKEN

    def _tokens_in_use(self, input_pixels: int, tokens: int) -> int:
        """Rows (or columns) of tokens that reach the image; the resize reads one logit beyond its last pixel."""
        input_side: int = self._sam.image_encoder.img_size
        logits = math.floor((input_pixels - 0.5) * tokens * _LOGITS_PER_TOKEN / input_side - 0.5) + 2
        return min(tokens, math.ceil(logits / _LOGITS_PER_TOKEN))

    def attend(self, points_xy: Tensor, mask_indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Let a chunk of prompts and the image attend to each other, which is enough to estimate the masks' IoU.

        Args:
            points_xy: ``[P, n, 2]`` on the CPU, pixels of the image.
            mask_indices: which K of SAM's masks.

        Returns:
            Tokens ``[P, T, C]`` and image tokens ``[P, N, C]`` for ``logits``, and predicted IoU ``[P, K]``.
        """
        decoder = self._decoder
        prompt_tokens = self._prompt_tokens(points_xy)
        output_tokens = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
        tokens = torch.cat((output_tokens.expand(len(prompt_tokens), -1, -1), prompt_tokens), dim=1)
        tokens, image = two_way_transformer(decoder.transformer, tokens, self._image, self._image_pe)
        # Token 0 predicts the IoUs, token 1 is the mask for unambiguous prompts, 2..4 are the three masks wanted here.
        return tokens, image, decoder.iou_prediction_head(tokens[:, 0])[:, [1 + m for m in mask_indices]]

    def logits(self, tokens: Tensor, image: Tensor, mask_indices: Sequence[int]) -> Tensor:
        """Logits ``[P, K, h', w']`` with ``logits_hw`` of the K masks asked for, from what ``attend`` returned."""
        mlps = self._decoder.output_hypernetworks_mlps
        kernels = torch.stack([mlps[1 + m](tokens[:, 2 + m]) for m in mask_indices], dim=1)  # [P, K, c]
        logits = kernels @ self._upscale(image).flatten(1, 2).transpose(1, 2)
        return logits.view(*kernels.shape[:2], *self.logits_hw)

    def _prompt_tokens(self, points_xy: Tensor) -> Tensor:
        """``[P, n + 1, C]``: the points at the scale of the encoder's input, all positive, and SAM's padding token."""
        height, width = self._encoded.size_hw
        scale_xy = torch.tensor(
            [self._encoded.input_hw[1] / width, self._encoded.input_hw[0] / height], dtype=torch.float64
        )
        # Scaled in double, prompted in single precision, as SamPredictor does.
        points = (points_xy * scale_xy).to(self._sam.device, torch.float32)
        labels = torch.ones(points.shape[:2], dtype=torch.int32, device=points.device)
        sparse: Tensor = self._sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)[0]
        return sparse

    def _upscale(self, image: Tensor) -> Tensor:
        """Image tokens ``[P, N, C]`` to features ``[P, h', w', c]`` of the part in use."""
        rows, columns = self._kept_hw
        used = image.view(len(image), *self._grid_hw, image.shape[-1])[:, :rows, :columns].permute(0, 3, 1, 2)
        double, norm, activation, double_again, last_activation = self._decoder.output_upscaling
        doubled = double(used).permute(0, 2, 3, 1)
        normed = F.layer_norm(doubled, norm.weight.shape, norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
        upscaled: Tensor = last_activation(double_again(activation(normed)))
        return upscaled.permute(0, 2, 3, 1)


def two_way_transformer(
    transformer: TwoWayTransformer, tokens: Tensor, image: Tensor, image_pe: Tensor
) -> tuple[Tensor, Tensor]:
    """SAM's two-way transformer, reordered so that the image has a batch dimension only once prompts have marked it.

    Args:
        transformer: its layers are used as they are.
        tokens: ``[P, T, C]``.
        image: ``[1, N, C]``, shared by all prompts.
        image_pe: ``[1, N, C]``.

    Returns:
        Tokens ``[P, T, C]`` and image ``[P, N, C]``.
    """
    queries, keys = tokens, image
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(queries, queries, queries)
        else:
            positioned = queries + tokens
            queries = queries + layer.self_attn(positioned, positioned, queries)
        queries = layer.norm1(queries)
        keys_pe = keys + image_pe
        queries = queries + _tokens_to_image(layer.cross_attn_token_to_image, queries + tokens, keys_pe, keys)
        queries = layer.norm2(queries)
        queries = layer.norm3(queries + layer.mlp(queries))
        keys = _image_to_tokens(layer.cross_attn_image_to_token, keys, keys_pe, queries + tokens, queries)
        keys = layer.norm4(keys)
    attended = _tokens_to_image(transformer.final_attn_token_to_image, queries + tokens, keys + image_pe, keys)
    return transformer.norm_final_attn(queries + attended), keys


def _tokens_to_image(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of few tokens ``[P, T, C]`` to many image tokens ``[1 or P, N, C]``.

    The same numbers as ``attention(query, key, value)`` up to rounding. An image shared by the prompts is projected
    once. Else the image's projections are folded into the T * H rows of the tokens: a score ``q . (W k)`` is
    ``(W^T q) . k``, the key's bias adds the same to every score of a row and cancels in the softmax, and the value's
    passes through, because weights sum to 1.
    """
    if len(key) == 1:
        shared: Tensor = attention(query.reshape(1, -1, query.shape[-1]), key, value)
        return shared.view(query.shape)
    prompts, tokens, channels = query.shape
    heads = attention.num_heads
    q = _scaled_heads(attention.q_proj(query), heads)
    q = torch.einsum("pthd,hdc->pthc", q, attention.k_proj.weight.view(heads, -1, channels)).flatten(1, 2)
    weights = (q @ key.transpose(1, 2)).softmax(dim=-1)
    v = (weights @ value).view(prompts, tokens, heads, channels)
    v = torch.einsum("pthc,hdc->pthd", v, attention.v_proj.weight.view(heads, -1, channels))
    v = v + attention.v_proj.bias.view(heads, -1)
    attended: Tensor = attention.out_proj(v.flatten(2))
    return attended


def _image_to_tokens(attention: Attention, image: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``image + attention(query, key, value)`` with image and query ``[1 or P, N, C]``, key and value ``[P, T, C]``.

    Folded like ``_tokens_to_image``, with one difference: the query's bias meets a different key in each column, so it
    stays. The softmax runs over the tokens within each head, so columns are laid out token by token, heads inside.
    """
    prompts, tokens, channels = key.shape
    heads = attention.num_heads
    k = _scaled_heads(attention.k_proj(key), heads)
    bias = torch.einsum("pthd,hd->pth", k, attention.q_proj.bias.view(heads, -1)).flatten(1)
    k = torch.einsum("pthd,hdc->pthc", k, attention.q_proj.weight.view(heads, -1, channels)).flatten(1, 2)
    scores = torch.baddbmm(bias[:, None], query.expand(prompts, -1, -1), k.transpose(1, 2))
    weights = scores.view(prompts, -1, tokens, heads).softmax(dim=2).flatten(2)
    v = attention.v_proj(value).view(prompts, tokens, heads, -1)
    v = torch.einsum("pthd,chd->pthc", v, attention.out_proj.weight.view(channels, heads, -1)).flatten(1, 2)
    return torch.baddbmm((image + attention.out_proj.bias).expand(prompts, -1, -1), weights, v)


def _scaled_heads(projected: Tensor, heads: int) -> Tensor:
    """``[P, T, H * d]`` to ``[P, T, H, d]``, divided as the scores of the attention are."""
    split = projected.view(*projected.shape[:2], heads, -1)
    return split / math.sqrt(split.shape[-1])
