import numpy as np
import pytest
import torch

from tests.support.tolerances import assert_near
from weaksam.config import MilConfig
from weaksam.detectors.mil.samples import collate, mirrored, prepare_proposals, scaled, training_sample
from weaksam.networks.pixels import IMAGENET, PixelFormat

RAW = PixelFormat(bgr=False, white=255.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # pixels as they are
PLAIN = MilConfig(scales=(40,), flip=False, lighting=0.0)


def boxes_of(*rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def ramp(height=40, width=60):
    """An image whose red tells the column and whose green tells the row."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        pytest.param([], [[0, 0, 100, 80]], id="nothing-becomes-the-whole-image"),
        pytest.param([[1, 1, 30, 30], [1, 1, 30, 30]], [[1, 1, 30, 30]], id="duplicates"),
        pytest.param(
            [[9, 9, 40, 40], [1, 1, 30, 30], [9, 9, 40, 40]], [[9, 9, 40, 40], [1, 1, 30, 30]], id="the-first-stays"
        ),
        pytest.param([[1, 1, 30, 30], [1, 1, 30, 30.5]], [[1, 1, 30, 30], [1, 1, 30, 30.5]], id="nearly-duplicates"),
        pytest.param([[-5, -5, 30, 30]], [[0, 0, 30, 30]], id="cut-to-the-image"),
        pytest.param([[90, 10, 130, 40]], [[0, 0, 100, 80]], id="too-narrow-once-cut"),
        pytest.param([[10, 10, 30, 30], [10, 10, 29, 60]], [[10, 10, 30, 30]], id="20-pixels-are-enough"),
        pytest.param([[50, 50, 20, 20]], [[0, 0, 100, 80]], id="inside-out"),
        pytest.param([[200, 200, 300, 300]], [[0, 0, 100, 80]], id="outside"),
    ],
)
def test_proposals_are_filtered(boxes, expected):
    found = prepare_proposals(boxes_of(*boxes), (80, 100), 20)
    assert found.dtype == np.float32
    assert found.tolist() == expected


def test_without_a_smallest_side_empty_boxes_still_go():
    boxes = boxes_of([5, 5, 5, 9], [5, 5, 5.5, 9])
    assert prepare_proposals(boxes, (80, 100), 0).tolist() == [[5, 5, 5.5, 9]]


def test_an_image_smaller_than_the_smallest_side_is_its_own_proposal():
    assert prepare_proposals(boxes_of([0, 0, 8, 8]), (8, 9), 20).tolist() == [[0, 0, 9, 8]]


@pytest.mark.parametrize(
    ("shorter", "longest", "size", "box"),
    [
        pytest.param(80, 2000, (80, 120), [20, 40, 40, 60], id="twice"),
        pytest.param(80, 90, (60, 90), [15, 30, 30, 45], id="the-longer-side-decides"),
        pytest.param(40, 2000, (40, 60), [10, 20, 20, 30], id="as-it-is"),
        # 40 * 27 / 40 = 27, 60 * 27 / 40 = 40.5 -> 40: the boxes follow what the sides became
        pytest.param(27, 2000, (27, 40), [10 * 40 / 60, 13.5, 20 * 40 / 60, 20.25], id="rounded"),
    ],
)
def test_images_and_boxes_are_scaled_together(shorter, longest, size, box):
    image, boxes = scaled(ramp(), boxes_of([10, 20, 20, 30]), shorter, longest)
    assert image.shape == (*size, 3)
    assert_near(boxes, [box])


def test_a_very_flat_image_keeps_a_pixel():
    image, _ = scaled(ramp(1, 200), boxes_of(), 480, 50)
    assert image.shape == (1, 50, 3)


def test_a_mirrored_box_holds_the_same_pixels():
    image, boxes = mirrored(ramp(), boxes_of([10, 20, 25, 30]))
    assert boxes.tolist() == [[35, 20, 50, 30]]
    assert image[0, 35:50, 0].tolist() == list(range(24, 9, -1))
    again, same = mirrored(image, boxes)
    np.testing.assert_array_equal(again, ramp())
    assert same.tolist() == [[10, 20, 25, 30]]
    assert mirrored(ramp(), boxes_of())[1].shape == (0, 4)


def test_a_plain_view_is_the_image():
    view = training_sample(ramp(), boxes_of([1, 2, 3, 4]), PLAIN, RAW, seed=0)
    assert torch.equal(view.image, torch.from_numpy(ramp()).permute(2, 0, 1).float())
    assert view.boxes_xyxy.tolist() == [[1, 2, 3, 4]]


def test_views_follow_their_seed_alone():
    config = MilConfig(scales=(20, 40, 80), lighting=0.5)
    views = [training_sample(ramp(), boxes_of([1, 2, 3, 4]), config, IMAGENET, seed=s) for s in (0, 0, *range(1, 30))]
    assert torch.equal(views[0].image, views[1].image)
    assert torch.equal(views[0].boxes_xyxy, views[1].boxes_xyxy)
    assert {view.image.shape for view in views} == {(3, 20, 30), (3, 40, 60), (3, 80, 120)}
    lefts = {round(float(view.boxes_xyxy[0, 0]) / view.image.shape[2] * 60) for view in views}
    assert lefts == {1, 57}  # some are mirrored: 60 - 3
    state = np.random.get_state()[1].copy()  # noqa: NPY002  (the caller's must not change)
    training_sample(ramp(), boxes_of(), config, IMAGENET, seed=5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_lighting_shifts_all_pixels_along_the_principal_components():
    lit = MilConfig(scales=(40,), flip=False, lighting=0.1)
    unit = PixelFormat(bgr=False, white=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    shifts = []
    for seed in range(400):
        image = np.full((40, 40, 3), 100, dtype=np.uint8)
        shift = training_sample(image, boxes_of(), lit, unit, seed=seed).image - 100 / 255
        assert_near(shift, shift[:, :1, :1].expand_as(shift), magnitude=1.0)
        shifts.append(shift[:, 0, 0].numpy())
    # Variance of red: the sum over components of (vector * .1 * value)² = (.0123431² + .0013521² + .0001804²)
    assert np.std([s[0] for s in shifts]) == pytest.approx(0.01242, rel=0.15)
    assert np.mean(shifts, axis=0) == pytest.approx([0, 0, 0], abs=0.003)
    assert np.corrcoef(np.array(shifts).T)[0, 1] > 0.9  # the first component, brightness, rules


def test_batches_are_padded_to_32_pixels_and_the_most_boxes():
    first = (torch.ones(3, 33, 20), torch.tensor([[1, 2, 3, 4.0]]))
    second = (torch.full((3, 10, 64), 2.0), torch.tensor([[5, 6, 7, 8], [0, 0, 1, 1.0], [0, 0, 2, 2]]))
    third = (torch.ones(3, 1, 1), torch.zeros(0, 4))
    batch = collate([first, second, third])
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.sum(dim=(1, 2, 3)).tolist() == [3 * 33 * 20, 2 * 3 * 10 * 64, 3]
    assert batch.images[0, :, :33, :20].eq(1).all()
    assert batch.real.tolist() == [[True, False, False], [True, True, True], [False, False, False]]
    assert batch.boxes_xyxy[0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert collate([third]).boxes_xyxy.shape == (1, 0, 4)
