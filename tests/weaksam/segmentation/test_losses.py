"""The cross-entropy of pixels, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from weaksam.label_maps import IGNORED
from weaksam.segmentation.losses import balanced_cross_entropy, pixel_cross_entropy

LOG2, LOG5 = math.log(2), math.log(5)


def test_each_image_has_the_mean_of_its_decided_pixels() -> None:
    logits = torch.zeros(3, 2, 1, 4)
    logits[0, 0, 0, 1] = math.log(4)  # four to one for background
    maps = torch.tensor(
        [[[0, 0, IGNORED, IGNORED]], [[1, 0, 1, 0]], [[1, IGNORED, IGNORED, IGNORED]]], dtype=torch.uint8
    )
    assert pixel_cross_entropy(logits, maps).tolist() == pytest.approx([(LOG2 + LOG5 - math.log(4)) / 2, LOG2, LOG2])


def test_objects_of_an_image_count_as_much_as_its_background() -> None:
    logits = torch.zeros(4, 3, 1, 4)
    logits[0, 2, 0, 3] = math.log(4)  # four of six for the second class
    maps = torch.tensor(
        [[[0, 0, 0, 2]], [[1, 2, IGNORED, IGNORED]], [[0, 0, IGNORED, 0]], [[IGNORED] * 4]], dtype=torch.uint8
    )
    log3 = math.log(3)
    assert balanced_cross_entropy(logits, maps).tolist() == pytest.approx([log3 + math.log(6 / 4), log3, log3, 0])


def test_an_image_without_a_decided_pixel_says_0_and_has_a_gradient_of_0() -> None:
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    maps = torch.full((2, 2, 2), IGNORED, dtype=torch.uint8)
    losses = pixel_cross_entropy(logits, maps) + balanced_cross_entropy(logits, maps)
    assert losses.tolist() == [0, 0]
    losses.sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_an_ignored_pixel_may_say_what_it_likes() -> None:
    maps = torch.tensor([[[0, IGNORED]]], dtype=torch.uint8)
    wild = torch.tensor([[[[0.0, 1e30]], [[0.0, -1e30]]]], requires_grad=True)
    loss = (pixel_cross_entropy(wild, maps) + balanced_cross_entropy(wild, maps)).sum()
    loss.backward()
    assert loss.item() == pytest.approx(2 * LOG2)
    assert wild.grad is not None
    assert wild.grad[..., 1].tolist() == [[[0], [0]]]
