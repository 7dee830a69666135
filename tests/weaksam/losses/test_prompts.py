"""Losses of learnable prompts: worked by hand, against loops, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam.losses.prompts import activation_loss, binary_loss, contrastive_loss, logits_of_maps
from weaksam.segmentation.losses import pixel_cross_entropy


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


def test_gradients_of_the_losses() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0]]).bool()
    assert torch.autograd.gradcheck(lambda given: contrastive_loss(given, positive), (logits,))
    assert torch.autograd.gradcheck(lambda given: binary_loss(given, positive[:, :2]), (logits,))


def test_gradients_of_the_activation_loss_leave_peaks_alone() -> None:
    maps = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    seeds = torch.tensor([[0, 1, 1, 255], [0, 1, 2, 0], [2, 2, 0, 255], [0, 0, 0, 1]], dtype=torch.uint8)[None]
    inside = torch.stack([seeds[0] == 1, seeds[0] == 2])
    beside = ~inside & (seeds[0] != 255)

    def enlarged(given: Tensor) -> Tensor:
        return F.interpolate(given[:, None], (4, 4), mode="bilinear", align_corners=False)[:, 0]

    peaks = torch.stack([large[own].max().clamp(min=0) for large, own in zip(enlarged(maps), inside, strict=True)])
    peaks = peaks.detach()[:, None, None]  # constants to the gradient, and so to the differences it is held against

    def of_fixed_peaks(given: Tensor) -> Tensor:
        large = enlarged(given)
        return ((peaks - large).abs()[inside].sum() + large.clamp(min=0)[beside].sum()) / (2 * 14)

    loss = sum(activation_loss(maps, seeds, torch.tensor([0, 0]), torch.tensor([0, 1])), maps.new_zeros(()))
    torch.testing.assert_close(loss, of_fixed_peaks(maps))
    assert torch.autograd.gradcheck(of_fixed_peaks, (maps,))
    torch.testing.assert_close(torch.autograd.grad(loss, maps), torch.autograd.grad(of_fixed_peaks(maps), maps))


def test_the_binary_loss_of_one_image_of_two_classes_before_two_backgrounds() -> None:
    # Evidence log 4 - log(1 + 1) = log 2, and 0 - log 2: probabilities 2/3 and 1/3.
    logits = torch.tensor([[math.log(4.0), 0, 0, 0]])
    assert binary_loss(logits, torch.tensor([[True, False]])).item() == pytest.approx(-math.log(2 / 3))
    assert binary_loss(logits, torch.tensor([[False, True]])).item() == pytest.approx(-math.log(1 / 3))
    assert binary_loss(logits, torch.tensor([[True, True]])).item() == pytest.approx(-math.log(2 / 9) / 2)


def test_the_binary_loss_does_not_mind_what_all_logits_share() -> None:
    logits, positive = torch.tensor([[2.0, -1, 0.5]]), torch.tensor([[True, False]])
    assert binary_loss(logits + 25, positive).item() == pytest.approx(binary_loss(logits, positive).item())


def test_the_binary_loss_without_an_image_keeps_the_graph() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = binary_loss(logits, torch.zeros(0, 2, dtype=torch.bool))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0


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


def test_maps_are_logits_beside_a_background_of_0() -> None:
    maps = torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]])
    found = logits_of_maps(maps, torch.tensor([0, 1]), torch.tensor([1, 0]), 2, (2, 2, 2))
    never = [[-math.inf] * 2] * 2
    assert found.tolist() == [
        [[[0, 0], [0, 0]], never, [[1, 2], [3, 4]]],
        [[[0, 0], [0, 0]], [[5, 6], [7, 8]], never],
    ]


def test_the_cross_entropy_of_pixels_and_its_gradient() -> None:
    maps = torch.tensor([[[math.log(3.0), 0, -9]]], dtype=torch.float64, requires_grad=True)
    seeds = torch.tensor([[[1, 0, 255]]], dtype=torch.uint8)
    image, class_index = torch.tensor([0]), torch.tensor([0])

    def loss(given: Tensor) -> Tensor:
        return pixel_cross_entropy(logits_of_maps(given, image, class_index, 2, (1, 1, 3)), seeds).mean()

    assert loss(maps).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert torch.autograd.gradcheck(loss, (maps,))


@pytest.mark.parametrize(("pairs", "seed"), [(0, 0), (0, 255), (1, 255)], ids=["no map", "neither", "all ignored"])
def test_pixels_that_say_nothing_cost_nothing_and_keep_the_graph(pairs: int, seed: int) -> None:
    maps = torch.zeros(pairs, 2, 2, requires_grad=True)
    which = torch.zeros(pairs, dtype=torch.int64)
    seeds = torch.full((1, 4, 4), seed, dtype=torch.uint8)
    loss = pixel_cross_entropy(logits_of_maps(maps, which, which, 1, (1, 4, 4)), seeds).mean()
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert maps.grad is not None
    assert (maps.grad == 0).all()
