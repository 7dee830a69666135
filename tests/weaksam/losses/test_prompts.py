"""Losses of learnable prompts: worked by hand, against loops, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam.losses.prompts import activation_loss, contrastive_loss


def test_the_contrastive_loss_of_three_images_of_which_one_has_all_classes() -> None:
    logits = torch.tensor([[2.0, 1, 0], [0.5, -1, 3], [1, 1, 1]])
    positive = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]]).bool()
    assert contrastive_loss(logits, positive).item() == pytest.approx((0.313262 + 1.313262 + 4.095674) / 3, abs=1e-6)


def test_the_contrastive_loss_is_a_loop_over_images_and_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, positive = 30 * torch.randn(9, 5, generator=generator), torch.rand(9, 5, generator=generator) < 0.4
    positive[0], positive[1] = True, False
    terms = []
    for row, present in zip(logits.tolist(), positive.tolist(), strict=True):
        negatives = [s for s, is_there in zip(row, present, strict=True) if not is_there]
        for s, is_there in zip(row, present, strict=True):
            if is_there and negatives:
                top = max(s, *negatives)
                total = math.exp(s - top) + sum(math.exp(other - top) for other in negatives)
                terms.append(top - s + math.log(total))
    assert contrastive_loss(logits, positive).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize("positive", [True, False], ids=["all classes", "none"])
def test_images_without_a_pair_cost_nothing_and_keep_the_graph(positive: bool) -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = contrastive_loss(logits, torch.full((2, 3), positive))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_gradients_of_both_losses() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0]]).bool()
    assert torch.autograd.gradcheck(lambda given: contrastive_loss(given, positive), (logits,))
    maps = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    seeds = torch.tensor([[0, 1, 1, 255], [0, 1, 2, 0], [2, 2, 0, 255], [0, 0, 0, 1]], dtype=torch.uint8)[None]

    def loss(given: Tensor) -> Tensor:
        # Peaks are constants to the gradient, and so they must be to the differences that it is held against.
        return sum(activation_loss(given, seeds, torch.tensor([0, 0]), torch.tensor([5, 6])), given.new_zeros(()))

    assert torch.autograd.gradcheck(loss, (maps,))  # of classes that the seed does not show: the background's part


def test_pixels_of_an_object_are_pulled_up_and_their_peak_stays() -> None:
    maps = torch.tensor([[[3.0, 1, -2], [0.5, -1, 4]]], requires_grad=True)
    seeds = torch.tensor([[[1, 1, 1], [0, 255, 0]]], dtype=torch.uint8)
    pull = activation_loss(maps, seeds, torch.tensor([0]), torch.tensor([0])).object
    (gradient,) = torch.autograd.grad(pull, maps)
    assert gradient[0].flatten().tolist() == pytest.approx([0, -1 / 5, -1 / 5, 0, 0, 0])


def test_the_activation_loss_of_six_pixels() -> None:
    maps = torch.tensor([[[3.0, 1, -2], [0.5, -1, 4]]])
    seeds = torch.tensor([[[1, 1, 0], [0, 255, 0]]], dtype=torch.uint8)
    found = activation_loss(maps, seeds, torch.tensor([0]), torch.tensor([0]))
    assert found.object.item() == pytest.approx(0.4)
    assert found.background.item() == pytest.approx(0.9)


def test_the_activation_loss_is_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(3, 2, 3, generator=generator)
    seeds = torch.randint(0, 4, (2, 8, 9), generator=generator).to(torch.uint8)
    seeds[0, 0] = 255
    image, class_index = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    large = F.interpolate(maps[:, None], (8, 9), mode="bilinear", align_corners=False)[:, 0]
    pulled = pushed = count = 0.0
    for of_map, n, c in zip(large, image, class_index, strict=True):
        cells = [
            (v, s) for v, s in zip(of_map.flatten().tolist(), seeds[n].flatten().tolist(), strict=True) if s != 255
        ]
        peak = max([0.0, *(v for v, s in cells if s == c + 1)])
        pulled += sum(abs(peak - v) for v, s in cells if s == c + 1)
        pushed += sum(max(v, 0) for v, s in cells if s != c + 1)
        count += len(cells)
    found = activation_loss(maps, seeds, image, class_index)
    assert found.object.item() == pytest.approx(pulled / count, rel=1e-5)
    assert found.background.item() == pytest.approx(pushed / count, rel=1e-5)


def test_no_maps_cost_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    found = activation_loss(torch.zeros(0, 2, 2), torch.zeros(1, 4, 4, dtype=torch.uint8), none, none)
    assert found.object.item() == found.background.item() == 0
