from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from weaksam.config import SelectiveSearchConfig
from weaksam.proposals.selective_search import selective_search
from weaksam.structures import SELECTIVE_SEARCH

AS_IS = SelectiveSearchConfig(resize_width=0, min_side=1)


def two_rectangles():
    image = np.full((120, 160, 3), 200, np.uint8)
    image[20:60, 30:90] = (200, 30, 30)
    image[70:110, 100:150] = (30, 30, 200)
    return image


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return inter / (sum(area) - inter)


@pytest.mark.parametrize("config", [AS_IS, SelectiveSearchConfig(), SelectiveSearchConfig(mode="quality")])
def test_flat_rectangles_are_found(config):
    found = selective_search(two_rectangles(), config)
    for target in [(30, 20, 90, 60), (100, 70, 150, 110), (0, 0, 160, 120)]:
        assert max(iou(target, box) for box in found.boxes_xyxy.tolist()) > 0.9
    assert found.size_hw == (120, 160)
    assert set(found.source) == {SELECTIVE_SEARCH}
    assert (found.prompt_index == -1).all()
    assert (found.mask_index == -1).all()
    assert np.isnan(found.predicted_iou).all()
    assert len(found.source) == len(found.prompt_index) == len(found) == len(np.unique(found.boxes_xyxy, axis=0))


def test_the_whole_image_is_exclusive_at_right_and_bottom():
    found = selective_search(np.zeros((20, 30, 3), np.uint8), AS_IS)
    assert found.boxes_xyxy.tolist() == [[0, 0, 30, 20]]


def test_boxes_and_their_order_repeat_also_from_threads():
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 255, (8, 10, 3)).astype(np.uint8)
    image = blocks.repeat(12, axis=0).repeat(12, axis=1)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: selective_search(image, AS_IS).boxes_xyxy, range(6)))
    assert len(runs[0]) > 50
    for run in runs[1:]:
        np.testing.assert_array_equal(run, runs[0])


def test_discarded_boxes_are_counted_by_reason():
    everything = selective_search(two_rectangles(), AS_IS)
    limited = selective_search(two_rectangles(), SelectiveSearchConfig(resize_width=0, min_side=42, max_boxes=2))
    sides = (everything.boxes_xyxy[:, 2:] - everything.boxes_xyxy[:, :2]).min(axis=1)
    large = int((sides >= 42).sum())
    assert large > 2
    assert len(limited) == 2
    assert limited.discarded == {
        (SELECTIVE_SEARCH, "below min_side"): len(everything) - large,
        (SELECTIVE_SEARCH, "beyond max_boxes"): large - 2,
    }
    assert everything.discarded == {}


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (400, 1), (2, 3)], ids=str)
def test_tiny_and_thin_images_stay_inside_their_bounds(size_hw):
    found = selective_search(np.full((*size_hw, 3), 90, np.uint8), SelectiveSearchConfig(min_side=1))
    assert len(found) >= 1
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy[:, 2] <= size_hw[1]).all()
    assert (found.boxes_xyxy[:, 3] <= size_hw[0]).all()
    assert found.boxes_xyxy.dtype == np.float32


def test_an_image_smaller_than_min_side_gives_no_box():
    found = selective_search(np.zeros((8, 8, 3), np.uint8), SelectiveSearchConfig(resize_width=0))
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.discarded == {(SELECTIVE_SEARCH, "below min_side"): 1}
