"""Softmax Grad-CAM of CLIP: where an image looks like a class rather than like its others or the background (FMA method 3.2).

The map of a class is the sum over channels of the last block's normalised input, weighted by how much the class's probability
grows with each. Images of a batch do not interact, so that one backward pass serves a class of every image at once: as many
passes as the fullest image has classes, instead of one for each pair of an image and a class. ``found_maps`` does all of it for
images and texts.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from weaksam.networks.clip.towers import Clip


def masked_softmax(logits: Tensor, among: Tensor) -> Tensor:
    """Softmax over some of the columns; 0 at the others.

    Args:
        logits: float ``[N, G]``.
        among: bool ``[N, G]``, one or more of each row.
    """
    return logits.masked_fill(~among, -math.inf).softmax(dim=1)


def class_probabilities(logits: Tensor, present: Tensor) -> Tensor:
    """Return the probability of each present class among the image's present classes and all of the background.

    Args:
        logits: float ``[N, C + K]``, 100 times the cosines with the prompts of the C classes, then of the K of the background.
        present: bool ``[N, C]``, the classes of each image.

    Returns:
        ``[N, C]``, 0 for absent classes.
    """
    N, C = present.shape
    background = present.new_ones(N, logits.shape[1] - C)
    return masked_softmax(logits, torch.cat([present, background], dim=1))[:, :C]


def softmax_cam(activations: Tensor, probabilities: Tensor, present: Tensor, *, differentiable: bool = False) -> Tensor:
    """Compute the maps of every present class; neither cut at 0 nor normalised.

    Args:
        activations: float32 ``[N, 1 + P, D]`` that ``probabilities`` were computed from and that requires a gradient: the input
            of the last block's attention, the class token first.
        probabilities: ``[N, C]``, see ``class_probabilities``.
        present: bool ``[N, C]``.
        differentiable: whether the weights of the channels keep their graph; the activations never do.

    Returns:
        ``[pairs, P]``, of each image and class in the row-major order of ``present``; of no pair an empty one, with its graph.
    """
    number = present.cumsum(dim=1) * present  # of a class among those of its image, from 1
    patches = activations[:, 1:].detach()
    maps = patches.new_zeros(*present.shape, patches.shape[1])
    for rank in range(1, int(number.amax()) + 1 if number.numel() else 1):
        of_rank = number == rank
        (gradient,) = torch.autograd.grad(
            (probabilities * of_rank).sum(), activations, create_graph=differentiable, retain_graph=True
        )
        weights = gradient[:, 1:].mean(dim=1)
        found = torch.einsum("npd,nd->np", patches, weights)
        maps = torch.where(of_rank[..., None], found[:, None], maps)
    found = maps[present]
    return found + 0 * probabilities.sum() if differentiable and not len(found) else found


class FoundMaps(NamedTuple):
    """Maps of the present classes of a batch of images, and the attention between patches."""

    maps: Tensor  # [pairs, h, w], of each image and class in the row-major order of ``present``; neither cut nor normalised
    attention: Tensor  # [N, h * w, h * w], see ``BeforeLastBlock``; of patches alone


def found_maps(
    clip: Clip,
    pixels: Tensor,
    present: Tensor,
    texts: Tensor,
    *,
    attention_of: Collection[int] = (),
    differentiable: bool = False,
) -> FoundMaps:
    """Compute the class activation maps of images.

    Args:
        clip: whose towers embed them.
        pixels: ``[N, 3, H, W]``, see ``CLIP_PIXELS``; sides are multiples of a patch's.
        present: bool ``[N, C]``, the classes of each image.
        texts: embeddings ``[C + K, E]`` of what names the classes, then the background.
        attention_of: layers from 1 whose attention is wanted.
        differentiable: whether maps keep their graph to the texts.
    """
    tower, patch = clip.visual, clip.architecture.patch
    size_hw = (pixels.shape[2] // patch, pixels.shape[3] // patch)
    with torch.no_grad():
        known = tower.before_last_block(pixels, attention_of)
    with torch.enable_grad():
        # The last block and what follows in single precision: probabilities near 0 and 1 leave little to a gradient.
        activations = known.activations.float().detach().requires_grad_()
        with torch.autocast(pixels.device.type, enabled=False):
            embedding = tower.embedding(known.tokens.float(), activations)
            probabilities = class_probabilities(clip.logits(embedding, texts.float()), present)
            maps = softmax_cam(activations, probabilities, present, differentiable=differentiable)
    found = maps.view(-1, *size_hw)
    return FoundMaps(found if differentiable else found.detach(), known.attention[:, 1:, 1:])
