import numpy as np
import pytest
import torch

from weaksam.config import RetrainConfig
from weaksam.detectors.retrained.base import Targets
from weaksam.detectors.retrained.samples import box_sample, collate_boxes, cropped, learnable
from weaksam.networks.pixels import PixelFormat
from weaksam.structures import PseudoGroundTruth

RAW = PixelFormat(bgr=False, white=255.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # pixels as they are


def truth_of(*rows):
    boxes = np.array(rows, dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(0.1, 0.9, len(boxes), dtype=np.float32)
    return PseudoGroundTruth(boxes_xyxy=boxes, class_index=np.arange(len(boxes)), score=scores, score_normalised=scores)


def drawn(*rows, height=40, width=60):
    """A dark image with a bright rectangle per box, brighter for later ones."""
    image = np.zeros((height, width, 3), np.uint8)
    for n, (x1, y1, x2, y2) in enumerate(rows):
        image[y1:y2, x1:x2] = 100 + 50 * n
    return image


def bright_box(view, value):
    """The box of the pixels near a value, right and bottom exclusive."""
    y, x = (abs(view[0] - value) < 10).nonzero(as_tuple=True)
    return [x.min().item(), y.min().item(), x.max().item() + 1, y.max().item() + 1]


@pytest.mark.parametrize(
    ("boxes", "side", "kept"),
    [
        ([], 1, []),
        ([[0, 0, 10, 10], [0, 0, 9.9, 30], [0, 0, 30, 9]], 10, [0]),
        ([[5, 5, 5, 20], [5, 5, 20, 5], [20, 20, 10, 30]], 0, []),
        ([[5, 5, 6, 6]], 1, [0]),
    ],
    ids=["none", "sides-below-it", "without-area", "one-pixel"],
)
def test_boxes_that_are_too_small_are_not_learnt_from(boxes, side, kept):
    truth = truth_of(*boxes)
    found = learnable(truth, side)
    assert found.class_index.tolist() == kept
    assert np.array_equal(found.boxes_xyxy, truth.boxes_xyxy[kept])
    assert np.array_equal(found.score, truth.score[kept])
    assert np.array_equal(found.score_normalised, truth.score_normalised[kept])


def test_a_window_cuts_its_image_and_boxes_and_loses_what_it_does_not_show():
    boxes = truth_of([0, 0, 20, 20], [10, 15, 30, 39], [40, 0, 60, 10], [30, 10, 50, 30]).boxes_xyxy
    image = drawn(*boxes.astype(int).tolist())
    window, inside, seen = cropped(image, boxes, (10, 10, 40, 30))
    assert np.array_equal(window, image[10:30, 10:40])
    assert seen.tolist() == [True, True, False, True]
    assert inside.tolist() == [[0, 0, 10, 10], [0, 5, 20, 20], [20, 0, 30, 20]]


def test_a_box_that_only_touches_the_window_is_not_seen():
    _, inside, seen = cropped(drawn(), truth_of([0, 0, 10, 10], [40, 0, 50, 10]).boxes_xyxy, (10, 0, 40, 30))
    assert not seen.any()
    assert inside.shape == (0, 4)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_stay_on_what_they_show(flip):
    rows = [[4, 6, 24, 30], [32, 10, 56, 38]]
    config = RetrainConfig(scales=(40, 80), max_side=200, flip=flip)
    views = set()
    for seed in range(8):
        view, targets = box_sample(drawn(*rows), truth_of(*rows), config, RAW, seed)
        assert targets.class_index.tolist() == [0, 1]
        assert bright_box(view, 100) == pytest.approx(targets.boxes_xyxy[0].tolist(), abs=1)  # blurred edges
        assert bright_box(view, 150) == pytest.approx(targets.boxes_xyxy[1].tolist(), abs=1)
        views.add((view.shape[1], targets.boxes_xyxy[0, 0].item() < targets.boxes_xyxy[1, 0].item()))
    assert views == {(side, order) for side in (40, 80) for order in ([True, False] if flip else [True])}


def test_cut_views_show_a_window_of_the_image():
    rows = [[4, 6, 24, 30], [32, 10, 56, 38]]
    config = RetrainConfig(scales=(64,), flip=False, crop_scales=(40,), crop_sides=(16, 32))
    whole, cut, numbers = 0, 0, set()
    for seed in range(40):
        view, targets = box_sample(drawn(*rows), truth_of(*rows), config, RAW, seed)
        numbers.add(len(targets.class_index))
        if list(view.shape[1:]) == [64, 96] and torch.allclose(targets.boxes_xyxy, 1.6 * torch.tensor(rows)):
            whole += 1
            continue
        cut += 1
        for box, c in zip(targets.boxes_xyxy.tolist(), targets.class_index.tolist(), strict=True):
            assert 0 <= box[0] < box[2] <= view.shape[2] + 1e-3
            assert 0 <= box[1] < box[3] <= view.shape[1] + 1e-3
            x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
            assert view[0, y, x].item() == pytest.approx(100 + 50 * c, abs=10)
    assert whole > 8
    assert cut > 8
    assert numbers >= {1, 2}


def test_a_window_is_never_larger_than_its_image():
    config = RetrainConfig(scales=(40,), flip=False, crop_scales=(40,), crop_sides=(300, 600))
    for seed in range(6):
        view, targets = box_sample(drawn(), truth_of([1, 2, 30, 20]), config, RAW, seed)
        assert list(view.shape) == [3, 40, 60]
        assert targets.boxes_xyxy.tolist() == [[1, 2, 30, 20]]


def test_the_same_seed_makes_the_same_view_and_an_image_may_have_no_box():
    config = RetrainConfig(scales=(48, 64, 80), crop_scales=(40, 50), crop_sides=(16, 32))
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    views = [box_sample(image, truth_of(), config, RAW, seed) for seed in (1, 1, 2)]
    assert torch.equal(views[0][0], views[1][0])
    assert views[0][0].shape != views[2][0].shape or not torch.equal(views[0][0], views[2][0])
    assert views[0][1].boxes_xyxy.shape == (0, 4)
    assert views[0][1].class_index.dtype == torch.int64


def test_a_batch_is_padded_right_and_below():
    targets = Targets(torch.ones(1, 4), torch.ones(1, dtype=torch.int64))
    batch = collate_boxes([(torch.ones(3, 40, 33), targets), (torch.ones(3, 20, 64), targets)])
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.sizes_hw.tolist() == [[40, 33], [20, 64]]
    assert batch.images.sum().item() == 3 * (40 * 33 + 20 * 64)
    assert batch.images[1, :, :20].min() == 1
    assert batch.targets == [targets, targets]
