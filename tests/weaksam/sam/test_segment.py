from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.utils.amg import calculate_stability_score

from tests.support.sams import drawn_image, in_double, lively_sam, noise, tiny_sam, trained_sam
from weaksam.config import SegmentConfig
from weaksam.masks_np import decode_rle, encode_rle
from weaksam.sam.encode import encode_image, resize_image
from weaksam.sam.segment import segment_boxes

NOTHING = np.zeros((0, 2), np.float32)
BOXES = np.array([[10, 20, 60, 70], [30, 5, 95, 40], [0, 0, 100, 75], [50, 50, 51, 51], [2, 3, 40, 74]], np.float32)
POINTS = [np.array([[20, 30], [50, 60]], np.float32), NOTHING, np.array([[5, 5]], np.float32), NOTHING, NOTHING]
ALONE = [NOTHING] * len(BOXES)


def stock(sam, image, box, points, config):
    """``SamPredictor.predict_torch`` of one box: full mask, logits at full size and predicted IoU."""
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    size_hw = image.shape[:2]
    at_input = torch.from_numpy(predictor.transform.apply_boxes(box[None], size_hw)).float()
    coords = labels = mask_input = None
    if len(points):
        coords = torch.from_numpy(predictor.transform.apply_coords(points, size_hw)).float()[None]
        labels = torch.ones(1, len(points))
    for _ in range(1 + config.refine):
        logits, estimates, low_res = predictor.predict_torch(
            coords, labels, at_input, mask_input, config.best_of_three, return_logits=True
        )
        best = int(estimates[0].argmax())
        mask_input = low_res[:, best : best + 1]
    full = logits[0, best]
    return (full > sam.mask_threshold).numpy(), full, float(estimates[0, best])


@pytest.mark.parametrize("refine", [False, True], ids=["once", "refined"])
@pytest.mark.parametrize("best_of_three", [False, True], ids=["single", "best-of-three"])
@pytest.mark.parametrize("points_xy", [ALONE, POINTS], ids=["boxes", "boxes-and-points"])
@pytest.mark.parametrize(
    ("build", "picture"),
    [
        pytest.param(trained_sam, drawn_image, id="built-in-on-shapes"),
        pytest.param(lambda: lively_sam(tiny_sam), noise, id="untrained-of-another-shape"),
    ],
)
def test_masks_equal_one_stock_call_per_box(build, picture, points_xy, best_of_three, refine):
    sam, image = in_double(build()), picture(75, 100)
    config = SegmentConfig(best_of_three=best_of_three, refine=refine)
    found = segment_boxes(sam, image, BOXES, points_xy, config)
    for n, (box, points) in enumerate(zip(BOXES, points_xy, strict=True)):
        mask, logits, estimate = stock(sam, image, box, points, config)
        np.testing.assert_array_equal(decode_rle(found.mask_rle[n]), mask)
        assert found.area[n] == mask.sum()
        y, x = np.nonzero(mask)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0]
        assert found.boxes_xyxy[n].tolist() == expected
        assert found.predicted_iou[n] == pytest.approx(estimate, rel=1e-4)
        stable = calculate_stability_score(logits[None], sam.mask_threshold, config.stability_offset)
        np.testing.assert_allclose(found.stability[n], stable[0], rtol=1e-5)


def test_a_second_prompt_with_the_mask_changes_it():
    sam, image = trained_sam(), drawn_image(75, 100)
    once, twice = (
        segment_boxes(sam, image, BOXES, ALONE, SegmentConfig(refine=refine)).mask_rle for refine in (False, True)
    )
    assert once != twice


def test_masks_are_cut_to_their_boxes_whose_sides_may_lie_within_pixels():
    sam, image = lively_sam(), noise(60, 80)
    sam.mask_threshold = 0.0
    boxes = np.array([[10.6, 20.4, 30.4, 40.6]], np.float32)  # pixels of columns 11..29 and rows 20..40
    whole = decode_rle(segment_boxes(sam, image, boxes, [NOTHING], SegmentConfig()).mask_rle[0])
    cut = segment_boxes(sam, image, boxes, [NOTHING], SegmentConfig(clip=True))
    inside = np.zeros((60, 80), np.bool_)
    inside[20:41, 11:30] = True
    assert (whole & ~inside).any()
    assert (whole & inside).any()
    np.testing.assert_array_equal(decode_rle(cut.mask_rle[0]), whole & inside)
    assert cut.area.tolist() == [(whole & inside).sum()]


def test_a_mask_without_a_pixel_has_no_box():
    sam = lively_sam()
    sam.mask_threshold = 1e9
    found = segment_boxes(sam, noise(60, 80), BOXES[:1], ALONE[:1], SegmentConfig())
    assert (found.area.tolist(), found.boxes_xyxy.tolist()) == ([0], [[0, 0, 0, 0]])
    assert found.mask_rle[0] == encode_rle(np.zeros((60, 80), np.bool_))


@pytest.mark.parametrize("refine", [False, True])
def test_no_boxes_have_no_masks(refine):
    found = segment_boxes(lively_sam(), noise(60, 80), np.zeros((0, 4), np.float32), [], SegmentConfig(refine=refine))
    assert found.mask_rle == []
    assert [column.shape for column in (found.boxes_xyxy, found.area, found.predicted_iou)] == [(0, 4), (0,), (0,)]


def test_an_image_resized_or_encoded_before_has_the_same_masks():
    sam, image = trained_sam(), drawn_image(75, 100)
    ways = [image, resize_image(sam, image), encode_image(sam, image)]
    found = [segment_boxes(sam, way, BOXES, POINTS, SegmentConfig()).mask_rle for way in ways]
    assert found[0] == found[1] == found[2]


def test_boxes_do_not_depend_on_each_other_but_for_rounding():
    sam, image = in_double(trained_sam()), drawn_image(75, 100)
    together = segment_boxes(sam, image, BOXES, POINTS, SegmentConfig(refine=True))
    for n, points in enumerate(POINTS):
        alone = segment_boxes(sam, image, BOXES[n : n + 1], [points], replace(SegmentConfig(), refine=True))
        assert alone.mask_rle[0] == together.mask_rle[n]
