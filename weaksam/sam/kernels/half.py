"""The decoder's arithmetic in half precision: the exact algebra, between casts."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from torch import Tensor

from weaksam.precision import require_finite
from weaksam.sam.kernels.exact import ExactKernels


class HalfKernels(ExactKernels):
    """``DecoderKernels`` whose tokens, weights and logits are float32 outside, and whose image tokens stay halved."""

    def runs(self, sam: Sam) -> bool:
        """A SAM whose decoder ``sam/precision.py`` halved."""
        return _type_of(sam.mask_decoder.transformer) in (torch.float16, torch.bfloat16)

    def attend(
        self, transformer: TwoWayTransformer, tokens: Tensor, image: Tensor, image_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``DecoderKernels``.

        Raises:
            ConfigError: a number was too large for the type.
        """
        half = _type_of(transformer)
        tokens, image = super().attend(transformer, tokens.to(half), image.to(half), image_pe.to(half))
        require_finite(tokens, "sam.precision", "fast")
        return tokens.float(), image

    def mask_logits(self, decoder: MaskDecoder, image: Tensor, weights: Tensor) -> Tensor:
        """See ``DecoderKernels``; raises as ``attend`` does."""
        logits = super().mask_logits(decoder, image, weights.to(image.dtype))
        require_finite(logits, "sam.precision", "fast")
        return logits.float()


def _type_of(transformer: TwoWayTransformer) -> torch.dtype:
    weight: Tensor = transformer.final_attn_token_to_image.q_proj.weight
    return weight.dtype
