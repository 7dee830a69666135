import math

import numpy as np
import pytest
import torch

from tests.support.tolerances import near
from weaksam.transforms import IMAGENET_MEAN, IMAGENET_STD, evaluation_view, least_side, normalise, training_view

AUGMENTATIONS = ["none", "flip", "deit"]


def picture(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def view(image, augmentation, seed=1, crop_size=32, min_crop_scale=0.3):
    return training_view(
        image, crop_size=crop_size, min_crop_scale=min_crop_scale, augmentation=augmentation, seed=seed
    )


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_view_depends_on_its_seed_alone(augmentation):
    first = view(picture(), augmentation)
    torch.rand(100)  # whatever else drew from the global generator
    assert torch.equal(first, view(picture(), augmentation))
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("augmentation", ["flip", "deit"])
def test_another_seed_gives_another_view(augmentation):
    views = {view(picture(), augmentation, seed=seed).numpy().tobytes() for seed in range(8)}
    assert len(views) == 8


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_random_state_of_the_caller_is_left_alone(augmentation):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    view(picture(), augmentation)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 50), (50, 1), (7, 300)])
def test_images_of_any_shape_give_a_finite_view(augmentation, size_hw):
    assert torch.isfinite(view(picture(*size_hw), augmentation)).all()


def test_flip_mirrors_about_half_of_the_views():
    ramp = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 64, 3)).copy()
    rising = [
        bool(v[0, 0, -1] > v[0, 0, 0]) for v in (view(ramp, "flip", seed=s, min_crop_scale=1.0) for s in range(60))
    ]
    assert 15 < sum(rising) < 45


def test_deit_views_sometimes_hold_erased_noise():
    # On a flat image every operation keeps single pixels equal to their neighbours inside; erasing writes unit noise.
    flat = np.full((64, 64, 3), 128, np.uint8)
    rough = [(view(flat, "deit", seed=s).diff(dim=2).abs() > 0.5).float().mean() > 0.01 for s in range(80)]
    assert 8 <= sum(map(bool, rough)) <= 34  # a quarter of 80 is 20


def test_normalising_zero_and_full_gives_the_published_numbers():
    values = normalise(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2).expand(3, 1, 2))
    for channel in range(3):
        expected = [
            -IMAGENET_MEAN[channel] / IMAGENET_STD[channel],
            (1 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel],
        ]
        assert values[channel, 0].tolist() == near(expected, length=4)


def test_the_evaluation_view_is_the_centre():
    # 64 x 128 at crop 56: the shorter side becomes 64, the crop keeps columns 36..92; the outer thirds never show.
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 36:92] = 255
    result = evaluation_view(image, crop_size=56)
    assert result.shape == (3, 56, 56)
    assert torch.allclose(result, normalise(torch.ones(3, 56, 56)), atol=0.02)


@pytest.mark.parametrize(("crop_size", "min_crop_scale", "side"), [(224, 1.0, 259), (224, 0.5, 366), (100, 0.25, 231)])
def test_no_view_enlarges_an_image_of_the_least_side(crop_size: int, min_crop_scale: float, side: int) -> None:
    # A crop of a share s of a square of side S is, at 4:3, sqrt(3 / 4 * s) * S high; a test view takes 224 of 256.
    assert least_side(crop_size, min_crop_scale) == side
    assert math.sqrt(3 / 4 * min_crop_scale) * side >= crop_size
    assert side >= crop_size * 256 / 224
