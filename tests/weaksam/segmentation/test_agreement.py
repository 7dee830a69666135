"""What is known of seeds without a true map: worked by hand, and of images that are their own mirror images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.small_clip import tiny_clip
from weaksam.config import AffinityConfig, ClipConfig, PromptLayoutConfig, SeedConfig
from weaksam.datasets.shapes import CLASS_NAMES
from weaksam.mask_runs import MaskRuns
from weaksam.segmentation.agreement import check_seed, clip_score, seed_agreement, shown_alone
from weaksam.segmentation.class_maps import PromptMapper
from weaksam.segmentation.prompted import PromptedClip
from weaksam.segmentation.seeding import Seed, sam_seed

NO_SUPERPIXELS = MaskRuns.of([], (24, 32))


def of(*numbers: int) -> NDArray[np.uint8]:
    return np.array([numbers], np.uint8)


@pytest.mark.parametrize(
    ("views", "classes", "expected"),
    [
        pytest.param([of(1, 1, 0, 3)], [0, 2], 1.0, id="the same"),
        pytest.param([of(1, 0, 0, 3)], [0], 0.5, id="half of a class"),
        pytest.param([of(1, 0, 0, 3)], [0, 2], 0.75, id="mean over classes"),
        pytest.param([of(1, 0, 0, 3), of(1, 1, 0, 3)], [0], 0.75, id="mean over views"),
        pytest.param([of(3, 3, 0, 1)], [0, 2], 0.0, id="nothing alike"),
        pytest.param([of(1, 1, 0, 3)], [0, 1], 0.5, id="a class that neither shows"),
        pytest.param([of(1, 1, 255, 3)], [0, 2], 1.0, id="undecided is no class"),
    ],
)
def test_agreement_is_what_both_call_a_class_of_what_either_does(
    views: list[NDArray[np.uint8]], classes: list[int], expected: float
) -> None:
    assert seed_agreement(of(1, 1, 0, 3), views, classes) == expected


def test_an_image_without_a_class_agrees_with_nothing() -> None:
    assert math.isnan(seed_agreement(of(0, 0), [of(0, 0)], []))
    image, label_map = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2), np.uint8)
    assert math.isnan(clip_score(image, label_map, [], lambda _image, _classes: torch.zeros(0)))


def test_beside_its_region_an_image_has_clips_mean_colour() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert shown_alone(image, np.array([[False, True]])).tolist() == [[[123, 117, 104], [3, 4, 5]]]


def test_each_class_is_looked_at_where_the_seed_shows_it_and_one_that_is_not_shown_counts_as_nothing() -> None:
    image = np.full((1, 4, 3), 200, np.uint8)
    seen: list[list[bool]] = []

    def probabilities(shown: NDArray[np.uint8], class_index: Sequence[int]) -> Tensor:
        assert class_index == [1, 3, 4]
        seen.append((shown == 200).all(axis=2)[0].tolist())
        return torch.tensor([0.5, 0.25, 0.125])

    label_map = np.array([[2, 2, 0, 5]], np.uint8)  # of class 3 there is nothing
    assert clip_score(image, label_map, [1, 3, 4], probabilities) == pytest.approx((0.5 + 0.0 + 0.125) / 3)
    assert seen == [[True, True, False, False], [False, False, False, True]]


def mapper_of() -> PromptMapper:
    torch.manual_seed(0)
    config = ClipConfig(background=("ground", "blob"))
    prompted = PromptedClip(tiny_clip(), CLASS_NAMES, config, PromptLayoutConfig(length=4))
    return PromptMapper(prompted.eval(), SeedConfig(affinity=AffinityConfig(layers=2)))


def test_the_probabilities_of_an_image_are_those_among_its_classes_and_the_background() -> None:
    mapper = mapper_of()
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    both, one = mapper.probabilities(image, [1, 4]), mapper.probabilities(image, [1])
    assert both.shape == (2,)
    assert 0 < both[0] < one[0] < 1
    assert 0 < both.sum() < 1
    odds = both[0] / (1 - both.sum())  # to the background, which another class leaves as they are
    assert one[0] / (1 - one[0]) == pytest.approx(float(odds), rel=1e-4)
    assert mapper.probabilities(image, []).shape == (0,)


def test_views_are_brought_back_before_they_are_painted() -> None:
    mapper, painted = mapper_of(), list[Tensor]()
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)

    def paint(maps: Tensor) -> Seed:
        painted.append(maps)
        return sam_seed(maps, [1, 4], NO_SUPERPIXELS, [], 0.6)

    seed = sam_seed(mapper(image, [1, 4]), [1, 4], NO_SUPERPIXELS, [], 0.6)
    checked = check_seed(mapper, image, [1, 4], seed, paint)
    mirrored, smaller = painted
    assert torch.equal(mirrored.flip(2), mapper(np.ascontiguousarray(image[:, ::-1]), [1, 4]))
    assert (mirrored.shape, smaller.shape) == (
        (2, 3, 4),
        (2, 3, 3),
    )  # patches of 8 pixels; three quarters are rounded up
    views = [sam_seed(maps, [1, 4], NO_SUPERPIXELS, [], 0.6).label_map for maps in painted]
    assert checked.agreement == seed_agreement(seed.label_map, views, [1, 4])
    assert 0 <= checked.clip_score <= 1


def test_an_image_without_a_class_is_not_measured() -> None:
    mapper = mapper_of()
    image = np.zeros((24, 32, 3), np.uint8)

    def paint(maps: Tensor) -> Seed:
        return sam_seed(maps, [], NO_SUPERPIXELS, [], 0.6)

    assert all(math.isnan(value) for value in check_seed(mapper, image, [], paint(mapper(image, [])), paint))
