"""Probabilities at an image's own size, strip by strip, and the label maps that are made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.automatic_masks import mask_runs
from tests.weaksam.segmentation.test_superpixels import ranges
from weaksam.config import PredictMapsConfig, SegmenterConfig
from weaksam.errors import ConfigError
from weaksam.segmentation import inference
from weaksam.segmentation.inference import (
    ClassProbabilities,
    class_probabilities,
    label_map_of,
    superpixel_label_map,
)
from weaksam.segmentation.segmenters.base import Segmenter


def whole(passes: tuple[Tensor, ...], size_hw: tuple[int, int]) -> Tensor:
    """The slow way: each pass at the image's size, all at once."""
    return torch.stack([F.interpolate(p[None], size_hw, mode="bilinear", align_corners=False)[0] for p in passes]).mean(
        0
    )


@pytest.mark.parametrize("rows", [1, 3, 1000], ids=["row by row", "three rows", "one strip"])
@pytest.mark.parametrize(
    ("cells_hw", "size_hw"),
    [((4, 5), (37, 23)), ((8, 8), (8, 8)), ((16, 8), (5, 3)), ((2, 2), (1, 1)), ((1, 3), (9, 2))],
    ids=["larger", "the same", "smaller", "one pixel", "one row of cells"],
)
def test_strips_are_the_whole(
    rows: int, cells_hw: tuple[int, int], size_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "chunk_size", lambda *_args, **_kwargs: rows)
    passes = tuple(torch.rand(3, *cells_hw, generator=torch.Generator().manual_seed(n)) for n in range(2))
    strips = list(ClassProbabilities(passes=passes, size_hw=size_hw).strips())
    assert [strip.shape[1] for strip in strips] == [min(rows, size_hw[0] - at) for at in range(0, size_hw[0], rows)]
    assert torch.cat(strips, dim=1) == pytest.approx(whole(passes, size_hw), abs=1e-6)


def test_a_strip_is_small_whatever_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def in_chunks(_count: int, size: int, _compute: object) -> list[Tensor]:
        asked.append(size)
        return []

    monkeypatch.setattr(inference, "in_chunks", in_chunks)
    list(ClassProbabilities(passes=(torch.rand(81, 2, 2),), size_hw=(40_000, 6_000)).strips())
    assert asked == [16 * 2**20 // (81 * 6_000 * 4)]
    list(ClassProbabilities(passes=(torch.rand(255, 2, 2),), size_hw=(2, 2**20)).strips())
    assert asked[1] == 1


def test_the_most_probable_class_is_taken_and_of_equal_ones_the_first() -> None:
    strips = [
        torch.tensor([[[0.5, 0.2]], [[0.1, 0.4]], [[0.4, 0.4]]]),
        torch.tensor([[[0.1, 1 / 3]], [[0.2, 1 / 3]], [[0.7, 1 / 3]]]),
    ]
    found = label_map_of(strips)
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 1], [2, 0]]
    assert label_map_of([torch.cat(strips, dim=1)]).tolist() == found.tolist()


# Six pixels in a row, background and two classes.
SIX = torch.tensor(
    [[[0.6, 0.3, 0.1, 0.5, 0.2, 0.8]], [[0.3, 0.5, 0.2, 0.1, 0.1, 0.1]], [[0.1, 0.2, 0.7, 0.4, 0.7, 0.1]]]
)


@pytest.mark.parametrize(
    ("masks", "level", "numbers"),
    [
        ([(0, 2), (2, 4)], [2, 2], [0, 0, 2, 2, 2, 0]),  # means .45 .4 .15 and .3 .15 .55; two pixels are of no superpixel
        ([(1, 2), (0, 6)], [1, 2], [0, 0, 0, 0, 0, 0]),  # a whole lies over a part
        ([(0, 6), (1, 2)], [1, 2], [0, 1, 0, 0, 0, 0]),
        ([(2, 3), (1, 4)], [2, 2], [0, 2, 2, 2, 2, 0]),  # of the same class
        ([(0, 4), (3, 6)], [1, 1], [0, 0, 0, 0, 0, 0]),  # of background
        ([(0, 2), (1, 4)], [2, 2], [0, 0, 2, 2, 2, 0]),  # background .45, and the second class .43
        ([], [], [0, 1, 2, 0, 2, 0]),
    ],
)  # fmt: skip
def test_a_superpixel_takes_the_class_that_is_most_probable_in_it(
    masks: list[tuple[int, int]], level: list[int], numbers: list[int]
) -> None:
    found = superpixel_label_map([SIX], mask_runs(ranges(6, *masks).numpy()), level)
    assert found.dtype == np.uint8
    assert found.tolist() == [numbers]


@pytest.mark.parametrize("rows", [1, 5, 12], ids=["row by row", "five rows", "one strip"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_a_loop_over_superpixels_whatever_the_strips(rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(4, 12, 16, generator=generator).softmax(dim=0)
    masks = torch.rand(7, 12, 16, generator=generator) < 0.2
    level = torch.randint(0, 3, (7,), generator=generator).tolist()
    means = [[float(of_class[mask].mean()) for of_class in probabilities] for mask in masks]
    expected = label_map_of([probabilities])
    for n in sorted(range(7), key=lambda n: (level[n], max(means[n]))):
        expected[masks[n].numpy()] = means[n].index(max(means[n]))
    found = superpixel_label_map(probabilities.split(rows, dim=1), mask_runs(masks.numpy()), level)
    assert found.tolist() == expected.tolist()


class LeftIsBright(Segmenter):
    """Says how bright each cell of stride 4 is, and remembers what it was shown."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config, 1)
        self.seen: list[tuple[int, ...]] = []

    def training_losses(self, images: Tensor, label_maps: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def probabilities(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape[2:]))
        bright = F.avg_pool2d(images.mean(dim=1, keepdim=True), 4).sigmoid()
        return torch.cat([1 - bright, bright], dim=1)


def halves(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 255
    return image


@pytest.mark.parametrize("flip", [False, True])
def test_views_have_whole_cells_and_maps_the_size_of_the_image(flip: bool) -> None:
    segmenter = LeftIsBright(SegmenterConfig(side=64, max_side=256)).eval()
    image = halves(100, 240)
    found = class_probabilities(segmenter, image, PredictMapsConfig(scales=(1.0, 0.5), flip=flip))
    assert segmenter.seen == [(64, 160)] * (1 + flip) + [(32, 64)] * (1 + flip)  # of 64 x 153.6 and 32 x 76.8
    label_map = label_map_of(found.strips())
    assert label_map.shape == (100, 240)
    assert label_map[:, :117].all()
    assert not label_map[:, 123:].any()


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 500), (500, 3)])
def test_the_oddest_pictures_have_maps(size_hw: tuple[int, int]) -> None:
    segmenter = LeftIsBright(SegmenterConfig(side=64, max_side=128)).eval()
    found = class_probabilities(segmenter, halves(*size_hw), PredictMapsConfig())
    assert label_map_of(found.strips()).shape == size_hw
    assert all(side % 32 == 0 and side <= 128 for side in segmenter.seen[0])


def test_damaged_weights_are_told() -> None:
    class Broken(LeftIsBright):
        def probabilities(self, images: Tensor) -> Tensor:
            return super().probabilities(images) * float("nan")

    with pytest.raises(ConfigError, match=r"predict_maps\.precision: expected finite numbers"):
        class_probabilities(Broken(SegmenterConfig()).eval(), halves(8, 8), PredictMapsConfig())
