"""What a segmenter learns from: image and label map stay together, whatever is done to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from weaksam.config import SegmenterConfig
from weaksam.errors import ImageError
from weaksam.label_maps import IGNORED
from weaksam.networks.pixels import IMAGENET
from weaksam.segmentation.segmenters.samples import collate_maps, map_sample, scaled_size

PLAIN = SegmenterConfig(side=64, resize=(1.0, 1.0), crop_side=64, flip=False, colour_jitter=False)


def picture(height: int = 64, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A bright rectangle of class 1 left of the middle, and its map."""
    image, label_map = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    part = (slice(height // 4, height // 2), slice(width // 8, width // 2))
    image[part], label_map[part] = 255, 1
    return image, label_map


def test_a_view_at_its_own_size_is_the_image() -> None:
    image, label_map = picture()
    view, labels = map_sample(image, label_map, PLAIN, IMAGENET, 0)
    assert torch.equal(view, IMAGENET.normalise(image))
    assert labels.dtype == torch.uint8
    assert labels.tolist() == label_map.tolist()


def test_a_mirrored_view_has_a_mirrored_map() -> None:
    image, label_map = picture()
    maps = {
        tuple(map_sample(image, label_map, replace(PLAIN, flip=True), IMAGENET, n)[1].flatten().tolist())
        for n in range(20)
    }
    assert maps == {tuple(label_map.flatten().tolist()), tuple(label_map[:, ::-1].flatten().tolist())}


@pytest.mark.parametrize("seed", range(8))
def test_a_scaled_and_cut_view_shows_what_its_map_says(seed: int) -> None:
    config = replace(PLAIN, resize=(0.5, 2.0), flip=True)
    view, labels = map_sample(*picture(), config, IMAGENET, seed)
    assert view.shape == (3, 64, 64)
    bright = view.mean(dim=0) > IMAGENET.normalise(np.full((1, 1, 3), 127, np.uint8)).mean()
    known = labels != IGNORED
    assert set(labels.unique().tolist()) <= {0, 1, IGNORED}
    assert ((labels == 1) != bright)[known].float().mean() < 0.03  # but for the pixels of the edges


def test_what_lies_beside_a_small_view_is_the_mean_colour_and_ignored() -> None:
    view, labels = map_sample(*picture(32, 48), replace(PLAIN, side=32), IMAGENET, 0)
    assert (labels[32:] == IGNORED).all()
    assert (labels[:, 48:] == IGNORED).all()
    assert not (labels[:32, :48] == IGNORED).any()
    assert not view[:, 32:].any()
    assert not view[:, :, 48:].any()


def test_colours_change_and_the_map_does_not() -> None:
    image, label_map = picture()
    image = image // 3 + np.uint8(80)  # which may become darker and brighter
    view, labels = map_sample(image, label_map, replace(PLAIN, colour_jitter=True), IMAGENET, 0)
    assert not torch.equal(view, IMAGENET.normalise(image))
    assert labels.tolist() == label_map.tolist()


def test_a_seed_decides_a_view_and_leaves_the_random_state_alone() -> None:
    config, before = replace(PLAIN, resize=(0.5, 2.0), flip=True, colour_jitter=True), torch.get_rng_state()
    (one, of_one), (again, of_again), (other, _) = (map_sample(*picture(), config, IMAGENET, n) for n in (3, 3, 4))
    assert torch.equal(one, again)
    assert torch.equal(of_one, of_again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_picture_of_one_pixel_is_a_view() -> None:
    view, labels = map_sample(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 5, np.uint8), PLAIN, IMAGENET, 0)
    assert view.shape == (3, 64, 64)
    assert (labels == 5).all()


def test_a_map_of_another_picture_is_refused_for_this_image_alone() -> None:
    with pytest.raises(
        ImageError, match=r"another size: 64 x 32 pixels \(height x width\), the picture has 64 x 64"
    ) as caught:
        map_sample(picture()[0], picture(64, 32)[1], PLAIN, IMAGENET, 0)
    assert caught.value.reason == "label map of another size"


@pytest.mark.parametrize(
    ("size_hw", "shorter", "most", "expected"),
    [
        ((100, 200), 50, 1000, (50, 100)),
        ((100, 200), 50, 80, (40, 80)),
        ((1, 1000), 10, 100, (1, 100)),
        ((3, 7), 6, 99, (6, 14)),
    ],
)
def test_sizes_are_those_of_the_shorter_side_within_the_most(
    size_hw: tuple[int, int], shorter: float, most: int, expected: tuple[int, int]
) -> None:
    assert scaled_size(size_hw, shorter, most) == expected


def test_views_are_laid_out_as_one_batch() -> None:
    batch = collate_maps([map_sample(*picture(), PLAIN, IMAGENET, n) for n in range(2)])
    assert (batch.images.shape, batch.label_maps.shape) == ((2, 3, 64, 64), (2, 64, 64))
