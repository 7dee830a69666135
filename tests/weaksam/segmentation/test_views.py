"""Views that prompts are taught on: image and label map are cut alike, and chance comes from the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weaksam.config import PromptTrainingConfig
from weaksam.errors import ImageError
from weaksam.networks.clip.towers import CLIP_PIXELS
from weaksam.segmentation.views import prompt_view

SMALL = PromptTrainingConfig(long_side=(48, 96), crop_size=32, colour_jitter=False)


def halves(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image that is white where its label map says 1, and black elsewhere."""
    seeds = np.zeros((height, width), np.uint8)
    seeds[: height // 2] = 1
    return np.repeat(255 * seeds[..., None], 3, axis=2), seeds


@pytest.mark.parametrize("size_hw", [(40, 80), (80, 40), (10, 10), (1, 1), (1, 200)])
def test_views_have_their_size_whatever_the_image_has(size_hw: tuple[int, int]) -> None:
    image, seeds = halves(*size_hw)
    pixels, cut = prompt_view(image, seeds, SMALL, 3)
    assert pixels.shape == (3, 32, 32)
    assert cut.shape == (32, 32)
    assert set(np.unique(cut)) <= {0, 1}


def test_a_label_map_is_cut_as_its_image_is() -> None:
    image, seeds = halves(64, 64)
    std, mean = (torch.tensor(values)[:, None, None] for values in (CLIP_PIXELS.std, CLIP_PIXELS.mean))
    both = 0
    for seed in range(20):
        pixels, cut = prompt_view(image, seeds, SMALL, seed)
        white = (pixels * std + mean).mean(dim=0) > 0.5
        assert (white == (cut == 1)).float().mean() > 0.9  # a row or two at the border of the halves
        both += 0 < int(cut.sum()) < cut.numel()
    assert both  # views that hold some of both


def test_a_view_follows_its_seed_and_nothing_else() -> None:
    image, seeds = halves(64, 50)
    jittered = PromptTrainingConfig(long_side=(48, 96), crop_size=32)
    torch.manual_seed(1)
    first = prompt_view(image, seeds, jittered, 5)
    torch.manual_seed(2)
    again = prompt_view(image, seeds, jittered, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], prompt_view(image, seeds, jittered, 6)[0])


def test_without_seeds_there_is_no_label_map() -> None:
    assert prompt_view(halves(40, 40)[0], None, SMALL, 0)[1].shape == (0, 0)


def test_a_label_map_of_another_picture_is_refused_for_this_image_alone() -> None:
    with pytest.raises(ImageError, match=r"20 x 40 pixels \(height x width\), the picture has 40 x 40") as caught:
        prompt_view(halves(40, 40)[0], halves(20, 40)[1], SMALL, 0)
    assert caught.value.reason == "label map of another size"
