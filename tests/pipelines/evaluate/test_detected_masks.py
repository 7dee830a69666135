"""Masks of detections, measured by hand beside what their boxes alone give."""

import numpy as np
import pytest

from pipelines.evaluate.detected_masks import GRABCUT, GRABCUT_BESIDE, MOST_CUT, MaskMeasures, likeliest, text_table
from pipelines.recipe.config import EvaluateConfig
from weaksam.errors import ImageError
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
        boxes_xyxy=np.array([[1, 1, 9, 9]] * len(masks), np.float32).reshape(-1, 4),
        class_index=np.array(classes, np.int64),
        difficult=np.zeros(len(masks), np.bool_),
        crowd=np.zeros(len(masks), np.bool_),
        mask_rle=[encode_rle(mask) for mask in masks],
    )


def found(masks: list[np.ndarray], classes: list[int]) -> Detections:
    return Detections(
        boxes_xyxy=np.array([[1, 1, 9, 9]] * len(masks), np.float32).reshape(-1, 4),
        class_index=np.array(classes, np.int64),
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
    assert (masks["images"], measured["grabcut"]["masks"]) == (1, 0)
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


def disc() -> np.ndarray:
    """A disc of a diameter of 16 pixels in the middle of 32 x 32."""
    at = np.arange(32) - 15.5
    return at[:, None] ** 2 + at**2 <= 64


def test_grabcut_cuts_the_best_boxes_of_some_images_out_beside_the_masks_of_these_boxes() -> None:
    measures = MaskMeasures(("cat",), EvaluateConfig())
    image = np.full((32, 32, 3), 30, np.uint8)
    image[disc()] = (250, 40, 40)
    box = np.array([[8, 8, 24, 24]], np.float32)
    true = GroundTruth(
        boxes_xyxy=box,
        class_index=np.array([0]),
        difficult=np.zeros(1, np.bool_),
        crowd=np.zeros(1, np.bool_),
        mask_rle=[encode_rle(disc())],
    )
    # One detection more than GrabCut sees.
    boxes = np.concatenate([box] * (MOST_CUT + 1))
    masks = [encode_rle(np.eye(32, dtype=np.bool_))] * (MOST_CUT + 1)
    detected = Detections(
        boxes_xyxy=boxes,
        class_index=np.zeros(len(boxes), np.int64),
        score=np.linspace(0.1, 0.9, len(boxes), dtype=np.float32),
        image_scores=np.zeros(1, np.float32),
        mask_rle=masks,
    )
    measures.add("a", (32, 32), detected, true, lambda _: image)
    measures.add("b", (32, 32), detected, true)  # one that GrabCut is not measured on
    measured = measures.to_plain()
    rows = {row["name"]: row for row in measured["rows"]}
    assert (rows["masks"]["images"], rows[GRABCUT]["images"], rows[GRABCUT_BESIDE]["images"]) == (2, 1, 1)
    assert rows[GRABCUT]["ap75"] == pytest.approx(1)  # a disc of one colour is cut out of a ground of another
    assert rows[GRABCUT_BESIDE]["ap25"] == 0
    assert measured["grabcut"] == {"masks": MOST_CUT, "fell_back": 0}


def test_an_image_that_cannot_be_read_again_is_measured_without_grabcut(caplog: pytest.LogCaptureFixture) -> None:
    def gone(image_id: str) -> np.ndarray:
        raise ImageError(f"{image_id} is gone")

    measures = MaskMeasures(("cat",), EvaluateConfig())
    measures.add("a", SIZE_HW, found([corner()], [0]), truth([corner()], [0]), gone)
    assert [row["images"] for row in measures.to_plain()["rows"]] == [1, 1, 1]
    assert "a is gone" in caplog.text


def test_boxes_in_which_grabcut_failed_are_counted() -> None:
    measures = MaskMeasures(("cat",), EvaluateConfig())
    grey = np.full((*SIZE_HW, 3), 128, np.uint8)  # nothing in a box differs from what is around it
    measures.add("a", SIZE_HW, found([corner()], [0]), truth([corner()], [0]), lambda _: grey)
    measured = measures.to_plain()
    assert measured["grabcut"] == {"masks": 1, "fell_back": 1}
    assert text_table("val", measured).title.endswith("GrabCut failed in 1 of 1 boxes, which are filled")


def test_the_likeliest_are_as_many_of_a_class_as_it_has_objects() -> None:
    # Scores fall from .9 to .5: of two cats the first two, of one emu the first of two equal ones, of dogs nothing.
    detected = found([corner()] * 6, [0, 1, 0, 0, 2, 2])
    detected.score[:] = [0.5, 0.9, 0.7, 0.6, 0.8, 0.8]
    kept = likeliest(detected, truth([corner()] * 3, [0, 0, 2]))
    assert kept.class_index.tolist() == [0, 0, 2]
    assert kept.score.tolist() == pytest.approx([0.7, 0.6, 0.8])
    assert len(likeliest(detected, truth([], []))) == 0
    crowded = truth([corner()] * 3, [0, 0, 2])
    crowded.crowd[0] = crowded.difficult[2] = True
    assert likeliest(detected, crowded).score.tolist() == pytest.approx([0.7])


def test_the_worst_images_are_those_whose_objects_the_likeliest_masks_fit_least() -> None:
    measures = MaskMeasures(("cat",), EvaluateConfig())
    # Both images have a right mask; in "b" a wrong one scores better. Of "c", an image without objects, nothing is said.
    measures.add("a", SIZE_HW, found([corner(), ~corner()], [0, 0]), truth([corner()], [0]))
    measures.add("b", SIZE_HW, found([~corner(), corner()], [0, 0]), truth([corner()], [0]))
    measures.add("c", SIZE_HW, found([corner()], [0]), truth([], []))
    assert measures.to_plain()["worst"] == [{"image_id": "b", "mean_iou": 0}, {"image_id": "a", "mean_iou": 1}]
