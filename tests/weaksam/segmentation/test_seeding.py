"""Seeds: worked by hand, against a loop over masks, in any order, and only of classes that are there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.weaksam.segmentation.test_superpixels import ranges
from weaksam.segmentation.seeding import cut_along_colours, pixel_seed, sam_seed

MAPS = torch.tensor([[[0.9, 0.7, 0.2, -0.5, 0.1, 0.3]], [[0.1, 0.3, 0.8, 0.6, -0.2, 0.0]]])
TWO = torch.tensor([0, 1])


def test_six_pixels() -> None:
    masks = ranges(6, (0, 2), (2, 4), (1, 5))
    found = sam_seed(MAPS, TWO, masks, torch.tensor([2, 2, 1]), 0.6)
    assert found.label.tolist() == [1, 2, 0]
    assert found.confidence[2].item() == pytest.approx(0.698582, abs=1e-5)
    assert found.label_map[0].tolist() == [1, 1, 2, 2, 0, 0]
    assert not found.fallback


def test_a_whole_that_is_background_erases_a_part_below_it() -> None:
    masks = ranges(6, (0, 2), (0, 6), (2, 3))
    found = sam_seed(MAPS[:1], TWO[:1], masks, torch.tensor([0, 2, 2]), 0.6)
    assert found.label[0] == 1
    assert found.label_map[0].tolist() == [0] * 6


def test_of_one_level_the_more_confident_mask_lies_on_top() -> None:
    masks = ranges(6, (0, 3), (1, 4))
    found = sam_seed(MAPS, TWO, masks, torch.tensor([2, 2]), 0.6)
    assert found.label.tolist() == [1, 2]
    on_top = 1 if found.confidence[0] > found.confidence[1] else 2
    assert found.label_map[0, 1:3].tolist() == [on_top] * 2


@pytest.mark.parametrize(("value", "label"), [(0.2, 4), (-0.2, 0)])
def test_one_mask_alone_is_of_its_strongest_class_if_it_has_any(value: float, label: int) -> None:
    maps = torch.full((1, 1, 6), value)
    found = sam_seed(maps, torch.tensor([3]), ranges(6, (1, 4)), torch.tensor([2]), 0.6)
    assert found.label_map[0].tolist() == [0, label, label, label, 0, 0]


def test_without_masks_each_pixel_takes_its_own_class() -> None:
    none = torch.zeros(0, 1, 6, dtype=torch.bool)
    found = sam_seed(MAPS, TWO, none, torch.zeros(0, dtype=torch.int64), 1.0)
    assert found.fallback
    assert torch.equal(found.label_map, pixel_seed(MAPS, TWO, (1, 6), 1.0))
    assert found.label_map[0].tolist() == [1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_without_a_class_all_is_background(count: int) -> None:
    none, masks = torch.zeros(0, dtype=torch.int64), ranges(6, (0, 3), (3, 6)).view(2, 2, 3)[:count]
    found = sam_seed(torch.zeros(0, 2, 3), none, masks, torch.tensor([2, 2])[:count], 0.6)
    assert found.label_map.shape == (2, 3)
    assert (found.label_map == 0).all()


def test_maps_in_half_precision_are_summed_in_single() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, :2] = 1
    masks = torch.zeros(2, 400, 400, dtype=torch.bool)
    masks[0, :200] = masks[1, 200:] = True  # 80,000 pixels each: more than a half float holds
    level = torch.tensor([2, 2])
    found = sam_seed(maps.half(), torch.tensor([3]), masks, level, 0.6)
    assert found.label.tolist() == sam_seed(maps, torch.tensor([3]), masks, level, 0.6).label.tolist() == [4, 0]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_loop_over_masks_in_any_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps, class_index = torch.randn(3, 3, 4, generator=generator), torch.tensor([1, 4, 7])
    masks = torch.rand(9, 12, 16, generator=generator) < 0.2
    level = torch.randint(0, 3, (9,), generator=generator)
    large = F.interpolate(maps[None], (12, 16), mode="bilinear", align_corners=False)[0].clamp(min=0)
    means = [[float(of_class[mask].mean()) for mask in masks] for of_class in large]
    shares = [[(m - min(row)) / (max(row) - min(row) + 1e-7) for m in row] for row in means]
    labels, confidences = [], []
    for n in range(9):
        scores = [(1 - max(row[n] for row in shares)) ** 0.7, *(row[n] for row in shares)]
        labels.append([0, 2, 5, 8][scores.index(max(scores))])
        confidences.append(max(scores))
    found = sam_seed(maps, class_index, masks, level, 0.7)
    assert found.label.tolist() == labels
    torch.testing.assert_close(found.confidence, torch.tensor(confidences), rtol=1e-4, atol=1e-5)
    # Painted by the confidences found: the best mask of each class has nearly 1, which one is ahead is a matter of rounding.
    expected = torch.zeros(12, 16, dtype=torch.uint8)
    for n in sorted(range(9), key=lambda n: (int(level[n]), float(found.confidence[n]))):
        expected[masks[n]] = labels[n]
    assert torch.equal(found.label_map, expected)
    assert set(found.label_map.unique().tolist()) <= {0, 2, 5, 8}
    order = torch.randperm(9, generator=generator)
    assert sam_seed(maps, class_index, masks[order], level[order], 0.7).label.tolist() == found.label[order].tolist()


def two_squares() -> np.ndarray:
    """Red above, blue below, each 8 pixels wide, on grey: the objects of classes 1 and 4."""
    image = np.full((32, 16, 3), 120, np.uint8)
    image[4:12, 4:12], image[20:28, 4:12] = (220, 20, 20), (20, 20, 220)
    return image + np.indices((32, 16)).sum(axis=0)[..., None].astype(np.uint8) % 3  # a few colours more


def test_a_class_is_cut_out_along_the_colours_around_its_seed() -> None:
    maps = torch.zeros(2, 32, 16)
    maps[0, 2:14, 2:14], maps[1, 18:30, 2:14] = 0.4, 0.4  # round each object, less sure of its surroundings
    maps[0, 4:12, 4:10], maps[1, 20:28, 4:10] = 1, 1  # six of its eight columns
    class_index = torch.tensor([0, 3])
    seed = pixel_seed(maps, class_index, (32, 16), 0.6)
    expected = torch.zeros(32, 16, dtype=torch.uint8)
    expected[4:12, 4:10], expected[20:28, 4:10] = 1, 4
    assert torch.equal(seed, expected)
    expected[4:12, 4:12], expected[20:28, 4:12] = 1, 4
    assert torch.equal(cut_along_colours(two_squares(), seed, maps, class_index), expected)


def test_a_pixel_that_two_classes_are_given_is_of_the_higher_share() -> None:
    maps = torch.zeros(2, 32, 16)
    maps[:, 4:12, 4:12], maps[0, 4:12, 4:8], maps[1, 4:12, 8:12] = 0.5, 1, 1  # both of one object
    class_index = torch.tensor([0, 3])
    found = cut_along_colours(two_squares(), pixel_seed(maps, class_index, (32, 16), 0.6), maps, class_index)
    expected = torch.zeros(32, 16, dtype=torch.uint8)
    expected[4:12, 4:8], expected[4:12, 8:12] = 1, 4
    assert torch.equal(found, expected)


@pytest.mark.parametrize("number", [0, 4], ids=["no pixel of the class", "nothing but the class"])
def test_where_nothing_can_be_cut_a_class_keeps_its_seed(number: int) -> None:
    seed = torch.full((32, 16), number, dtype=torch.uint8)
    assert torch.equal(cut_along_colours(two_squares(), seed, torch.ones(1, 2, 2), torch.tensor([3])), seed)


def test_without_a_class_nothing_is_cut() -> None:
    seed, none = torch.zeros(32, 16, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    assert torch.equal(cut_along_colours(two_squares(), seed, torch.zeros(0, 2, 1), none), seed)
