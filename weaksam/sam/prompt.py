"""From prompts on an encoded image to low-resolution masks and predicted IoUs.

A prompt is one or more points, on the object or beside it, a box, or both, as segment-anything's prompt encoder defines
them, and with them the logits of an earlier answer if wanted. Prompts of one form are decoded together in chunks; ``measure``
makes boxes and scores of what comes out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

from weaksam.chunks import chunk_size, in_chunks
from weaksam.errors import DataError
from weaksam.sam.encode import EncodedImage
from weaksam.sam.kernels import choose_kernels

THREE_MASKS = (0, 1, 2)  # sub-part, part and whole: SAM's answers to a prompt that may mean several things
SINGLE_MASK = 3  # SAM's one answer to a prompt that leaves no doubt, such as a box

_MASK_TOKENS = (1, 2, 3, 0)  # which of the decoder's mask tokens makes which mask
_LOGITS_PER_TOKEN = 4  # along each side: the decoder doubles the grid of tokens twice
# What a prompt holds at most, in copies of the image's N tokens of C channels. Upscaling takes most: the tokens of all prompts
# and of those worth decoding (2), 4 N of C / 4 before and after their norm (2), 16 N of C / 8 before and after their
# activation (4), and logits or scores (1); attention holds 5. In float32 that is 38 MB for ViT-B, L and H (N = 4,096, C = 256)
# and 0.9 MB for the built-in SAM (N = 256, C = 96).
_PEAK_IN_IMAGES = 9


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One thing to segment, in pixels of the image itself.

    Raises:
        DataError: there is neither a point nor a box, a shape is another one, or labels are not one per point.
    """

    points_xy: NDArray[np.float32] | None = None  # [n, 2], n at least 1
    labels: NDArray[np.int32] | None = None  # [n], 1 on the object, 0 beside it; None: all on it
    box_xyxy: NDArray[np.float32] | None = None  # [4]; its corners are prompted as they are, right and bottom exclusive
    mask_logits: Tensor | None = None  # [h', w'] that were decoded whole for the same image: what is to be made better

    def __post_init__(self) -> None:
        if self.points_xy is None and self.box_xyxy is None:
            raise DataError("Prompt: expected points, a box or both, got neither")
        if self.points_xy is not None and (self.points_xy.shape[1:] != (2,) or not len(self.points_xy)):
            raise DataError(f"Prompt: expected points of shape (n, 2) with n at least 1, got {self.points_xy.shape}")
        if self.box_xyxy is not None and self.box_xyxy.shape != (4,):
            raise DataError(f"Prompt: expected a box of shape (4,), got {self.box_xyxy.shape}")
        points = 0 if self.points_xy is None else len(self.points_xy)
        if self.labels is not None and (self.labels.shape != (points,) or not np.isin(self.labels, (0, 1)).all()):
            raise DataError(f"Prompt: expected {points} labels of 0 or 1, one per point, got {self.labels.tolist()}")


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """SAM's answers to a chunk of P prompts, K masks each, of which M were worth decoding. On the model's device."""

    prompt_index: Tensor  # int64 [P]
    predicted_iou: Tensor  # [P, K], SAM's own estimate; near [0, 1] but not bound to it
    chosen: Tensor  # bool [P, K], M times true: the predicted IoU exceeds the minimum
    low_res_logits: Tensor  # [M, h', w'] of the chosen masks, prompt by prompt; cropped to ``logits_hw``, or whole


@torch.inference_mode()
def decode_prompts(
    sam: Sam,
    encoded: EncodedImage,
    prompts: Sequence[Prompt],
    *,
    mask_indices: Sequence[int] = THREE_MASKS,
    min_predicted_iou: float | Sequence[float] | None = None,
    whole: bool = False,
) -> Iterator[Decoded]:
    """Ask SAM for the masks of any number of prompts on one image, chunk by chunk.

    Args:
        sam: the model that encoded the image.
        encoded: from ``encode_image``.
        prompts: those with as many points, and with or without a box, share chunks.
        mask_indices: which masks per prompt: some of ``THREE_MASKS``, ``SINGLE_MASK``, or both.
        min_predicted_iou: a mask whose predicted IoU does not exceed it is not decoded; one for all, or one for each of
            ``mask_indices``. ``None`` decodes all.
        whole: decode logits of the padding, too: a prompt takes none but such.

    Yields:
        Every prompt in one chunk, chunks of one form after the other, in each the order of ``prompts``. Of no prompts,
        nothing.
    """
    decoder = _PromptedDecoder(sam, encoded, whole)

    def answer(form: Sequence[int], chunk: slice) -> Decoded:
        chosen_prompts = [prompts[index] for index in form[chunk]]
        tokens, image, estimates = decoder.attend(chosen_prompts, mask_indices)
        chosen = estimates > estimates.new_tensor(-torch.inf if min_predicted_iou is None else min_predicted_iou)
        (row,) = chosen.any(dim=1).nonzero(as_tuple=True)
        logits = decoder.logits(tokens[row], image[row], mask_indices)
        return Decoded(
            prompt_index=torch.tensor(form[chunk], device=sam.device),
            predicted_iou=estimates,
            chosen=chosen,
            low_res_logits=logits[chosen[row].nonzero(as_tuple=True)],
        )

    for form in _by_form(prompts):
        yield from in_chunks(len(form), decoder.prompts_at_once, partial(answer, form))


def logits_hw(sam: Sam, encoded: EncodedImage) -> tuple[int, int]:
    """Height and width of decoded logits: the rows and columns that the image, not its padding, is made of."""
    rows, columns = _tokens_in_use(sam, encoded)
    return rows * _LOGITS_PER_TOKEN, columns * _LOGITS_PER_TOKEN


def _tokens_in_use(sam: Sam, encoded: EncodedImage) -> tuple[int, int]:
    """Rows and columns of tokens that reach the image; the resize reads one logit beyond its last pixel."""
    input_side: int = sam.image_encoder.img_size

    def in_use(input_pixels: int, tokens: int) -> int:
        logits = math.floor((input_pixels - 0.5) * tokens * _LOGITS_PER_TOKEN / input_side - 0.5) + 2
        return min(tokens, math.ceil(logits / _LOGITS_PER_TOKEN))

    rows, columns = encoded.features.shape[-2:]
    return in_use(encoded.input_hw[0], rows), in_use(encoded.input_hw[1], columns)


def _by_form(prompts: Iterable[Prompt]) -> Iterable[list[int]]:
    """Indices of the prompts that have equally many tokens of the same meaning, in their order.

    Padding shorter prompts instead would change their answer, because the decoder attends to padding.
    """
    by_form: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        points = 0 if prompt.points_xy is None else len(prompt.points_xy)
        by_form[points, prompt.box_xyxy is not None, prompt.mask_logits is not None].append(index)
    return by_form.values()


class _PromptedDecoder:
    """SAM's prompt encoder and mask decoder on one image; image tokens are ``[prompts, tokens, channels]`` throughout."""

    def __init__(self, sam: Sam, encoded: EncodedImage, whole: bool) -> None:
        self._sam = sam
        self._decoder = sam.mask_decoder
        self._kernels = choose_kernels(sam)
        self._encoded = encoded
        self._image = self._image_tokens(sam.prompt_encoder.no_mask_embed.weight[..., None, None])
        self._image_pe = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2).contiguous()
        self._grid_hw = encoded.features.shape[-2:]
        self._used_hw = self._grid_hw if whole else _tokens_in_use(sam, encoded)
        image_bytes = self._image.numel() * next(self._decoder.transformer.parameters()).itemsize
        self.prompts_at_once = chunk_size(
            self._image.device, tensor_bytes=image_bytes, peak_bytes=_PEAK_IN_IMAGES * image_bytes
        )

    def attend(self, prompts: Sequence[Prompt], mask_indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Let P prompts of one form and the image attend to each other, which is enough to estimate the masks' IoU.

        Returns:
            Tokens ``[P, T, C]`` and image tokens ``[P, N, C]`` for ``logits``, and predicted IoU ``[P, K]``.
        """
        decoder = self._decoder
        prompt_tokens = self._prompt_tokens(prompts)
        output_tokens = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
        tokens = torch.cat((output_tokens.expand(len(prompt_tokens), -1, -1), prompt_tokens), dim=1)
        if prompts[0].mask_logits is None:
            tokens, image = self._kernels.attend(decoder.transformer, tokens, self._image, self._image_pe)
        else:  # which change the image itself: each prompt has its own
            attended = [
                self._kernels.attend(decoder.transformer, own[None], self._image_with(prompt), self._image_pe)
                for own, prompt in zip(tokens, prompts, strict=True)
            ]
            tokens, image = (torch.cat(parts) for parts in zip(*attended, strict=True))
        estimates: Tensor = decoder.iou_prediction_head(tokens[:, 0])
        return tokens, image, estimates[:, [_MASK_TOKENS[m] for m in mask_indices]]

    def logits(self, tokens: Tensor, image: Tensor, mask_indices: Sequence[int]) -> Tensor:
        """Logits ``[P, K, h', w']`` of the K masks asked for, from what ``attend`` returned."""
        mlps = self._decoder.output_hypernetworks_mlps
        weights = torch.stack([mlps[_MASK_TOKENS[m]](tokens[:, 1 + _MASK_TOKENS[m]]) for m in mask_indices], dim=1)
        rows, columns = self._used_hw
        used = image.view(len(image), *self._grid_hw, image.shape[-1])[:, :rows, :columns]
        return self._kernels.mask_logits(self._decoder, used, weights)

    def _image_tokens(self, mask_embedding: Tensor) -> Tensor:
        """``[1, N, C]``: the image, to which what is known of a mask is added, ``[1, C, h, w]`` or one for all places."""
        return (self._encoded.features + mask_embedding).flatten(2).transpose(1, 2).contiguous()

    def _image_with(self, prompt: Prompt) -> Tensor:
        assert prompt.mask_logits is not None
        downscaling = self._sam.prompt_encoder.mask_downscaling
        logits = prompt.mask_logits[None, None].to(self._sam.device, next(downscaling.parameters()).dtype)
        return self._image_tokens(downscaling(logits).to(self._encoded.features.dtype))

    def _prompt_tokens(self, prompts: Sequence[Prompt]) -> Tensor:
        """``[P, n, C]``: a token for each point, and for a box its two corners or, without one, SAM's padding token."""
        points = boxes_xyxy = None
        if prompts[0].points_xy is not None:
            points_xy = np.stack([prompt.points_xy for prompt in prompts if prompt.points_xy is not None])
            labels = np.stack(
                [np.ones(points_xy.shape[1]) if prompt.labels is None else prompt.labels for prompt in prompts]
            )
            points = self._at_input(points_xy), torch.from_numpy(labels).to(self._sam.device, torch.int32)
        if prompts[0].box_xyxy is not None:
            corners_xy = np.stack([prompt.box_xyxy for prompt in prompts if prompt.box_xyxy is not None])
            boxes_xyxy = self._at_input(corners_xy.reshape(-1, 2, 2)).flatten(1)
        sparse: Tensor = self._sam.prompt_encoder(points=points, boxes=boxes_xyxy, masks=None)[0]
        return sparse

    def _at_input(self, points_xy: NDArray[np.float32]) -> Tensor:
        """Points ``[..., 2]`` of the image at the scale of the encoder's input, on the model's device."""
        height, width = self._encoded.size_hw
        scale_xy = torch.tensor(
            [self._encoded.input_hw[1] / width, self._encoded.input_hw[0] / height], dtype=torch.float64
        )
        # Scaled in double, prompted in single precision, as SamPredictor does.
        return (torch.from_numpy(points_xy) * scale_xy).to(self._sam.device, torch.float32)
