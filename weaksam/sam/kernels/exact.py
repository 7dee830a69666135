"""The decoder's arithmetic reordered by exact algebra: the same numbers up to rounding, a multiple faster, anywhere.

What the prompts of an image share is computed once, projections of the image are folded into the few tokens that meet it,
and image tokens stay ``[prompts, tokens, channels]`` in memory throughout, which both the attention and, read as a
channels-last picture, the convolutions want.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from segment_anything.modeling.transformer import Attention
from torch import Tensor


class ExactKernels:
    """``DecoderKernels`` in plain PyTorch."""

    def runs(self, sam: Sam) -> bool:  # noqa: ARG002
        """Any SAM, anywhere."""
        return True

    def attend(
        self, transformer: TwoWayTransformer, tokens: Tensor, image: Tensor, image_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``DecoderKernels``; the image has a batch dimension only once prompts have marked it."""
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

    def mask_logits(self, decoder: MaskDecoder, image: Tensor, weights: Tensor) -> Tensor:
        """See ``DecoderKernels``; channels stay last in memory."""
        double, norm, activation, double_again, last_activation = decoder.output_upscaling
        doubled = double(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        normed = F.layer_norm(doubled, norm.weight.shape, norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
        upscaled: Tensor = last_activation(double_again(activation(normed))).permute(0, 2, 3, 1)
        logits = weights @ upscaled.flatten(1, 2).transpose(1, 2)
        return logits.view(*weights.shape[:2], *upscaled.shape[1:3])


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
