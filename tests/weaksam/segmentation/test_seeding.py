"""Seeds: worked by hand, against a loop over masks, in any order, and only of classes that are there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.automatic_masks import mask_runs
from tests.weaksam.segmentation.test_superpixels import ranges
from weaksam.mask_runs import MaskRuns
from weaksam.segmentation.seeding import cut_along_colours, pixel_seed, sam_seed

MAPS = torch.tensor([[[0.9, 0.7, 0.2, -0.5, 0.1, 0.3]], [[0.1, 0.3, 0.8, 0.6, -0.2, 0.0]]])
TWO = [0, 1]


def runs(*spans: tuple[int, int]) -> MaskRuns:
    """Masks of an image of six pixels in a row."""
    return mask_runs(ranges(6, *spans).numpy())


def test_six_pixels() -> None:
    superpixels = runs((0, 2), (2, 4), (1, 5))
    found = sam_seed(MAPS, TWO, superpixels, [2, 2, 1], 0.6)
    assert found.label.tolist() == [1, 2, 0]
    assert found.confidence[2].item() == pytest.approx(0.698582, abs=1e-5)
    assert found.label_map[0].tolist() == [1, 1, 2, 2, 0, 0]
    assert not found.fallback


@pytest.mark.parametrize("scale", [1e-6, 1e-12, 1e6])
def test_how_large_maps_are_does_not_matter(scale: float) -> None:
    superpixels, level = runs((0, 2), (2, 4), (1, 5)), [2, 2, 1]
    expected, found = (sam_seed(maps, TWO, superpixels, level, 0.6) for maps in (MAPS, MAPS * scale))
    assert found.label.tolist() == expected.label.tolist() == [1, 2, 0]
    assert found.confidence.tolist() == pytest.approx(expected.confidence.tolist(), rel=1e-4)
    assert not sam_seed(MAPS * 0, TWO, superpixels, level, 0.6).label_map.any()


def test_a_whole_that_is_background_erases_a_part_below_it() -> None:
    superpixels = runs((0, 2), (0, 6), (2, 3))
    found = sam_seed(MAPS[:1], TWO[:1], superpixels, [0, 2, 2], 0.6)
    assert found.label[0] == 1
    assert found.label_map[0].tolist() == [0] * 6


def test_of_one_level_the_more_confident_mask_lies_on_top() -> None:
    found = sam_seed(MAPS, TWO, runs((0, 3), (1, 4)), [2, 2], 0.6)
    assert found.label.tolist() == [1, 2]
    on_top = 1 if found.confidence[0] > found.confidence[1] else 2
    assert found.label_map[0, 1:3].tolist() == [on_top] * 2


@pytest.mark.parametrize(("value", "label"), [(0.2, 4), (-0.2, 0)])
def test_one_mask_alone_is_of_its_strongest_class_if_it_has_any(value: float, label: int) -> None:
    maps = torch.full((1, 1, 6), value)
    found = sam_seed(maps, [3], runs((1, 4)), [2], 0.6)
    assert found.label_map[0].tolist() == [0, label, label, label, 0, 0]


def test_without_masks_each_pixel_takes_its_own_class() -> None:
    found = sam_seed(MAPS, TWO, runs(), [], 1.0)
    assert found.fallback
    assert found.label_map.tolist() == pixel_seed(MAPS, TWO, (1, 6), 1.0).tolist()
    assert found.label_map[0].tolist() == [1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_without_a_class_all_is_background(count: int) -> None:
    masks = ranges(6, (0, 3), (3, 6)).view(2, 2, 3)[:count]
    found = sam_seed(torch.zeros(0, 2, 3), [], mask_runs(masks.numpy()), [2, 2][:count], 0.6)
    assert found.label_map.shape == (2, 3)
    assert (found.label_map == 0).all()


def test_maps_in_half_precision_are_summed_in_single() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, :2] = 1
    masks = torch.zeros(2, 400, 400, dtype=torch.bool)
    masks[0, :200] = masks[1, 200:] = True  # 80,000 pixels each: more than a half float holds
    superpixels = mask_runs(masks.numpy())
    found = sam_seed(maps.half(), [3], superpixels, [2, 2], 0.6)
    assert found.label.tolist() == sam_seed(maps, [3], superpixels, [2, 2], 0.6).label.tolist() == [4, 0]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_loop_over_masks_in_any_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps, class_index = torch.randn(3, 3, 4, generator=generator), [1, 4, 7]
    masks = torch.rand(9, 12, 16, generator=generator) < 0.2
    level = torch.randint(0, 3, (9,), generator=generator).tolist()
    large = F.interpolate(maps[None], (12, 16), mode="bilinear", align_corners=False)[0].clamp(min=0)
    means = [[float(of_class[mask].mean()) for mask in masks] for of_class in large]
    shares = [[(m - min(row)) / (max(row) - min(row)) for m in row] for row in means]
    labels, confidences = [], []
    for n in range(9):
        scores = [(1 - max(row[n] for row in shares)) ** 0.7, *(row[n] for row in shares)]
        labels.append([0, 2, 5, 8][scores.index(max(scores))])
        confidences.append(max(scores))
    found = sam_seed(maps, class_index, mask_runs(masks.numpy()), level, 0.7)
    assert found.label.tolist() == labels
    assert found.confidence == pytest.approx(confidences, rel=1e-4, abs=1e-5)
    # Painted by the confidences found: the best mask of each class has nearly 1, which one is ahead is a matter of rounding.
    expected = np.zeros((12, 16), np.uint8)
    for n in sorted(range(9), key=lambda n: (level[n], found.confidence[n])):
        expected[masks[n].numpy()] = labels[n]
    assert found.label_map.tolist() == expected.tolist()
    order = torch.randperm(9, generator=generator).tolist()
    other = sam_seed(maps, class_index, mask_runs(masks[order].numpy()), [level[n] for n in order], 0.7)
    assert other.label.tolist() == found.label[order].tolist()
    # Nor does order decide a pixel, but between masks of one level that are equally sure but for rounding.
    top, equal = np.full((12, 16), -1), np.zeros((12, 16), np.bool_)
    for n in sorted(range(9), key=lambda n: (level[n], found.confidence[n])):
        top[masks[n].numpy()] = n
    for n, m in itertools.permutations(range(9), 2):
        if level[n] == level[m] and abs(found.confidence[n] - found.confidence[m]) < 1e-5:
            equal |= (top == n) & masks[m].numpy()
    assert (other.label_map == found.label_map)[~equal].all()
    assert equal.mean() < 0.5


def two_squares() -> np.ndarray:
    """Red above, blue below, each 8 pixels wide, on grey: the objects of classes 1 and 4."""
    image = np.full((32, 16, 3), 120, np.uint8)
    image[4:12, 4:12], image[20:28, 4:12] = (220, 20, 20), (20, 20, 220)
    return image + np.indices((32, 16)).sum(axis=0)[..., None].astype(np.uint8) % 3  # a few colours more


def test_a_class_is_cut_out_along_the_colours_around_its_seed() -> None:
    maps = torch.zeros(2, 32, 16)
    maps[0, 2:14, 2:14], maps[1, 18:30, 2:14] = 0.4, 0.4  # round each object, less sure of its surroundings
    maps[0, 4:12, 4:10], maps[1, 20:28, 4:10] = 1, 1  # six of its eight columns
    class_index = [0, 3]
    seed = pixel_seed(maps, class_index, (32, 16), 0.6)
    expected = np.zeros((32, 16), np.uint8)
    expected[4:12, 4:10], expected[20:28, 4:10] = 1, 4
    assert seed.tolist() == expected.tolist()
    expected[4:12, 4:12], expected[20:28, 4:12] = 1, 4
    assert cut_along_colours(two_squares(), seed, maps, class_index).tolist() == expected.tolist()


def test_a_pixel_that_two_classes_are_given_is_of_the_higher_share() -> None:
    maps = torch.zeros(2, 32, 16)
    maps[:, 4:12, 4:12], maps[0, 4:12, 4:8], maps[1, 4:12, 8:12] = 0.5, 1, 1  # both of one object
    class_index = [0, 3]
    found = cut_along_colours(two_squares(), pixel_seed(maps, class_index, (32, 16), 0.6), maps, class_index)
    expected = np.zeros((32, 16), np.uint8)
    expected[4:12, 4:8], expected[4:12, 8:12] = 1, 4
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("number", [0, 4], ids=["no pixel of the class", "nothing but the class"])
def test_where_nothing_can_be_cut_a_class_keeps_its_seed(number: int) -> None:
    seed = np.full((32, 16), number, np.uint8)
    assert cut_along_colours(two_squares(), seed, torch.ones(1, 2, 2), [3]).tolist() == seed.tolist()


def test_without_a_class_nothing_is_cut() -> None:
    seed = np.zeros((32, 16), np.uint8)
    assert cut_along_colours(two_squares(), seed, torch.zeros(0, 2, 1), []).tolist() == seed.tolist()
