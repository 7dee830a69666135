"""SAM in half precision: what is halved, and what stays in float32.

    image encoder   products in bfloat16, whose range holds the activations of any checkpoint; a ViT's residual stream and
                    norms are float32, TinyViT's (vit_t) are bfloat16 up to its neck, whose norms are float32
    mask decoder    the half precision of the device (``half_type``): its two-way transformer and its upscaling
    float32         prompt encoder, the heads for predicted IoUs and for the masks' weights, logits, boxes and scores

Softmax and the statistics of norms are summed in float32 everywhere, as PyTorch's kernels do whatever they are given.
"""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from weaksam.precision import half_type


class HalfEncoder(nn.Module):
    """SAM's image encoder under autocast, with the weights of its products stored in bfloat16."""

    def __init__(self, encoder: ImageEncoderViT) -> None:
        super().__init__()
        self.img_size: int = encoder.img_size  # pixels, as other modules ask of an encoder
        self.encoder = encoder
        for module in encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(torch.bfloat16)
            elif isinstance(module, LayerNorm2d):  # written in plain operations, which autocast lets pass as they come
                module.register_forward_pre_hook(_in_single)

    def forward(self, image: Tensor) -> Tensor:
        """Float32 images ``[B, 3, H, W]`` to float32 features."""
        with torch.autocast(image.device.type, torch.bfloat16):
            features: Tensor = self.encoder(image)
        return features.float()


def halve(sam: Sam) -> Sam:
    """Make ``sam``, on its device already, compute in half precision as this file says, and return it."""
    sam.image_encoder = HalfEncoder(sam.image_encoder)
    half = half_type(sam.device)
    sam.mask_decoder.transformer.to(half)
    sam.mask_decoder.output_upscaling.to(half)
    return sam


def _in_single(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(given.float() for given in inputs)
