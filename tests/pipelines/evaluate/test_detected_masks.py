"""Masks of detections, measured by hand beside what their boxes alone give."""

import numpy as np
import pytest

from pipelines.evaluate.detected_masks import MaskMeasures
from pipelines.recipe.config import EvaluateConfig
from weaksam.masks_np import encode_rle
from weaksam.structures import Detections, GroundTruth

SIZE_HW = (10, 10)


def corner() -> np.ndarray:
    """24 of the 64 pixels of a box of 8 x 8: its two left columns and its upper row, and two pixels more."""
    mask = np.zeros(SIZE_HW, np.bool_)
    mask[1:9, 1:3] = mask[1, 1:9] = mask[2, 3:5] = True
    return mask


def truth(masks: list[np.ndarray], classes: list[int]) -> GroundTruth:
    return GroundTruth(
        boxes_xyxy=np.array([[1, 1, 9, 9]] * len(masks), np.float32),
        class_index=np.array(classes),
        difficult=np.zeros(len(masks), np.bool_),
        crowd=np.zeros(len(masks), np.bool_),
        mask_rle=[encode_rle(mask) for mask in masks],
    )


def found(masks: list[np.ndarray], classes: list[int]) -> Detections:
    return Detections(
        boxes_xyxy=np.array([[1, 1, 9, 9]] * len(masks), np.float32),
        class_index=np.array(classes),
        score=np.linspace(0.9, 0.5, len(masks), dtype=np.float32),
        image_scores=np.zeros(3, np.float32),
        mask_rle=[encode_rle(mask) for mask in masks],
    )


def test_masks_are_measured_by_class_and_beside_filled_boxes() -> None:
    measures = MaskMeasures(("cat", "dog", "emu"), EvaluateConfig())
    assert corner().sum() == 24
    measures.add("a", SIZE_HW, found([corner(), ~corner()], [0, 1]), truth([corner(), corner()], [0, 1]))
    measured = measures.to_plain()
    masks, filled, _ = measured["rows"]
    assert (masks["ap"], masks["ap25"], masks["ap50"], masks["ap50_area"]) == pytest.approx((0.5, 0.5, 0.5, 0.5))
    # A filled box has an IoU of 24 / 64 = .375 with either object.
    assert (filled["ap25"], filled["ap50"], filled["ap50_area"]) == pytest.approx((1, 0, 0))
    assert [(of["name"], of["ap75"], of["ap50_area"]) for of in measured["classes"]] == [
        ("cat", pytest.approx(1), pytest.approx(1)), ("dog", 0, 0), ("emu", None, None)
    ]  # fmt: skip


def test_images_without_true_masks_are_passed_over_and_their_objects_counted() -> None:
    measures = MaskMeasures(("cat",), EvaluateConfig())
    boxes_alone = GroundTruth(
        boxes_xyxy=np.array([[1, 1, 9, 9]], np.float32),
        class_index=np.array([0]),
        difficult=np.zeros(1, np.bool_),
        crowd=np.zeros(1, np.bool_),
    )
    measures.add("a", SIZE_HW, found([corner()], [0]), boxes_alone)
    measured = measures.to_plain()
    assert measured["without_mask"] == 1
    assert measured["rows"][0]["ap50"] is None
