"""Outlines: hand-worked ones, and any mask drawn again by the two rasterisers that they are for."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy.ndimage import label

from weaksam.outlines_np import polygon_through_centres, polygons_along_edges

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    share = draw(st.sampled_from([0.2, 0.5, 0.8, 0.95]))
    return np.asarray(np.random.default_rng(draw(st.integers(0, 2**32))).random((height, width)) < share)


def test_a_pixel_has_four_corners() -> None:
    mask = np.zeros((3, 4), np.bool_)
    mask[1, 2] = True
    (polygon,) = polygons_along_edges(mask)
    assert sorted(map(tuple, polygon.tolist())) == [(2, 1), (2, 2), (3, 1), (3, 2)]
    assert polygon_through_centres(mask).tolist() == [[2, 1]] * 3


def test_an_l_has_six_corners_and_pixels_that_touch_at_a_corner_are_two_parts() -> None:
    (polygon,) = polygons_along_edges(np.array([[1, 0], [1, 1]], np.bool_))
    assert len(polygon) == 6
    assert len(polygons_along_edges(np.eye(2, dtype=np.bool_))) == 2


def test_nothing_has_no_outline() -> None:
    assert polygons_along_edges(np.zeros((3, 4), np.bool_)) == []


@given(masks())
def test_coco_draws_the_same_mask(mask: np.ndarray) -> None:
    height, width = mask.shape
    polygons = [polygon.astype(float).flatten().tolist() for polygon in polygons_along_edges(mask)]
    drawn = np.zeros_like(mask)
    if polygons:
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(np.bool_)
    np.testing.assert_array_equal(drawn, mask)


@given(masks())
def test_opencv_draws_the_same_mask_but_for_lines_to_holes_and_parts(mask: np.ndarray) -> None:
    if not mask.any():
        return
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [polygon_through_centres(mask).astype(np.int32)], 1)
    assert drawn.astype(np.bool_)[mask].all()
    around = np.pad(~mask, 1, constant_values=True)
    if label(mask, np.ones((3, 3)))[1] == label(around)[1] == 1:  # one part without a hole
        np.testing.assert_array_equal(drawn, mask)
