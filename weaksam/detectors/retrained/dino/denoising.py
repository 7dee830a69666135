"""Contrastive denoising: queries that start from disturbed boxes and must repair them, or see that there is nothing to repair.

Every object of an image starts a pair of queries: a positive one, near it, which has to find it again, and a negative one,
further away, which has to be background (DINO, section 3.3). The pairs of all objects form a group, positives first; there are
as many groups as the budget allows. Ordinary queries must not see them, for they hold the answers, nor groups each other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from weaksam.config import DinoConfig
from weaksam.detectors.retrained.dino.boxes import BACKGROUND, Objects, to_xyxy


class Denoising(NamedTuple):
    """The D = groups * 2 * N denoising queries of a batch whose fullest image has N objects."""

    class_index: Tensor  # int64 [B, D], disturbed
    boxes_cxcywh: Tensor  # float32 [B, D, 4], disturbed
    present: Tensor  # bool [B, D], False where an image has fewer objects than the fullest
    wanted: Objects  # class_index [B, D], BACKGROUND for negatives; boxes_cxcywh [B, D, 4], undisturbed
    group: Tensor  # int64 [D], from 0


def denoising_queries(objects: list[Objects], num_classes: int, config: DinoConfig) -> Denoising:
    """Disturb the objects of a batch.

    A query's class is drawn anew, from all classes, with half of ``label_noise`` as probability. Each of its box's sides moves
    in or out, by less than ``box_noise`` times half the box for a positive, by as much or up to twice that for a negative, but
    never out of the image.

    Args:
        objects: of each of the B images.
        num_classes: C.
        config: ``denoising_queries``, ``label_noise`` and ``box_noise`` are read.
    """
    most = max(len(own.class_index) for own in objects)
    groups = max(1, config.denoising_queries // max(most, 1)) if config.denoising_queries else 0
    classes = pad_sequence([own.class_index for own in objects], batch_first=True, padding_value=BACKGROUND)
    boxes = pad_sequence([own.boxes_cxcywh for own in objects], batch_first=True)
    classes, boxes = classes.repeat(1, 2 * groups), boxes.repeat(1, 2 * groups, 1)
    present = classes != BACKGROUND
    place = torch.arange(groups * 2 * most, device=classes.device)
    negative = place // max(most, 1) % 2 == 1

    drawn = torch.randint(num_classes, classes.shape, device=classes.device)
    anew = present & (torch.rand(classes.shape, device=classes.device) < config.label_noise / 2)
    sign = torch.randint(2, boxes.shape, device=boxes.device) * 2 - 1
    distance = torch.rand(boxes.shape, device=boxes.device) + negative[:, None]
    half_sides = boxes[..., 2:].repeat(1, 1, 2) / 2
    corners = (to_xyxy(boxes) + sign * distance * config.box_noise * half_sides).clamp(0, 1)
    top_left, bottom_right = corners[..., :2], corners[..., 2:]
    return Denoising(
        class_index=torch.where(anew, drawn, classes.clamp(min=0)),
        # The sides of a negative may have changed places: a negative length, which counts as the smallest there is.
        boxes_cxcywh=torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1),
        present=present,
        wanted=Objects(classes.masked_fill(negative, BACKGROUND), boxes),
        group=place // max(2 * most, 1),
    )


def hidden_queries(group: Tensor, queries: int) -> Tensor:
    """Say which query may not see which: bool ``[D + Q, D + Q]``, rows look at columns, the denoising queries come first.

    Args:
        group: int64 ``[D]`` of the denoising queries.
        queries: Q, the ordinary ones, which every query sees.
    """
    of_all = torch.cat([group, group.new_full((queries,), -1)])
    return (of_all[:, None] != of_all) & (of_all != -1)
