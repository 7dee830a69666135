"""Two images of two classes, worked by hand; the table; the section of the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.evaluate.pseudo_masks import BOXES, ELLIPSES, GRABCUT, SEGMENTED, measure, text_table
from pipelines.products.pseudo_labels import PseudoMaskedImage
from pipelines.recipe.keys import inputs_of
from pipelines.recipe.model import load_recipe
from pipelines.registry import stage_of
from weaksam.errors import ImageError
from weaksam.masks_np import encode_rle
from weaksam.structures import GroundTruth, PseudoGroundTruth

SIZE = (40, 40)


def mask(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    drawn = np.zeros(SIZE, np.bool_)
    drawn[y1:y2, x1:x2] = True
    return drawn


def box(drawn: np.ndarray) -> list[int]:
    y, x = np.nonzero(drawn)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def image(image_id: str, *found: tuple[np.ndarray, int], prompted: list[list[int]] | None = None) -> PseudoMaskedImage:
    boxes = np.array([box(m) for m, _ in found], np.float32).reshape(-1, 4)
    ones: Any = np.ones(len(found), np.float32)
    return PseudoMaskedImage(
        image_id=image_id,
        split="train",
        size_hw=SIZE,
        truth=PseudoGroundTruth(
            boxes_xyxy=boxes,
            class_index=np.array([c for _, c in found], np.int64),
            score=ones,
            score_normalised=ones,
            mask_rle=[encode_rle(m) for m, _ in found],
        ),
        supervision="image-labels",
        prompted_xyxy=boxes if prompted is None else np.array(prompted, np.float32).reshape(-1, 4),
    )


def true(*objects: tuple[np.ndarray, int], known: bool = True) -> GroundTruth:
    flags = np.zeros(len(objects), np.bool_)
    return GroundTruth(
        boxes_xyxy=np.array([box(m) for m, _ in objects], np.float32).reshape(-1, 4),
        class_index=np.array([c for _, c in objects], np.int64),
        difficult=flags,
        crowd=flags,
        mask_rle=[encode_rle(m) if known else None for m, _ in objects],
    )


HALF, WHOLE = mask(0, 0, 20, 10), mask(0, 0, 20, 20)
L_SHAPE = WHOLE & ~mask(10, 0, 20, 10)  # 300 pixels of a box of 400
TRUTH = {"a": true((L_SHAPE, 0)), "b": true((WHOLE, 1), (mask(30, 30, 40, 40), 1)), "c": true()}
IMAGES = [image("a", (L_SHAPE, 0)), image("b", (HALF, 1), (WHOLE, 0)), image("c")]
PIXELS = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def measured(images: list[PseudoMaskedImage], truth: dict[str, GroundTruth], sample: tuple[str, ...] = ()) -> Any:
    return measure(images, ("cat", "dog"), lambda _: truth, sample, lambda _: PIXELS)["train"]


def test_two_classes_by_hand() -> None:
    found = measured(IMAGES, TRUTH)
    assert (found["images"], found["masks"], found["objects"], found["without_mask"]) == (3, 1.0, 3, 0)
    rows = {row["name"]: row for row in found["rows"]}
    # The cat is found to the pixel; of the dogs one has half, the other nothing: .25 of the class.
    assert rows[SEGMENTED]["iou"] == pytest.approx((1 + (0.5 + 0) / 2) / 2)
    # The cat's filled box has 300 of 400 pixels right; the dog's box is its half.
    assert rows[BOXES]["iou"] == pytest.approx((0.75 + 0.25) / 2)
    assert rows[ELLIPSES]["iou"] < rows[BOXES]["iou"]
    # At an IoU of .5, and of the ten levels at that one alone, half of the dogs are found: 51 of 101 points of recall.
    assert rows[SEGMENTED]["ap50"] == pytest.approx((1 + 51 / 101) / 2)
    assert rows[SEGMENTED]["ap"] == pytest.approx((1 + 51 / 101 / 10) / 2)
    assert list(rows) == [SEGMENTED, BOXES, ELLIPSES]
    assert [row["images"] for row in found["rows"]] == [3, 3, 3]
    assert sum(found["histogram"]) == 3
    assert (found["histogram"][0], found["histogram"][10], found["histogram"][-1]) == (1, 1, 1)
    assert [entry["image_id"] for entry in found["worst"]] == ["b", "a"]  # an image without objects has no IoU
    assert found["worst"][0]["mean_iou"] == pytest.approx(0.25)
    cat, dog = found["classes"]
    assert (cat["iou"], cat["boundary_f"], cat["ap"], dog["iou"]) == (1.0, 1.0, pytest.approx(1), 0.25)


def test_boxes_and_ellipses_are_those_that_were_prompted() -> None:
    one = image("a", (L_SHAPE, 0), prompted=[[0, 0, 40, 40]])
    rows = {row["name"]: row["iou"] for row in measured([one], {"a": TRUTH["a"]})["rows"]}
    assert (rows[SEGMENTED], rows[BOXES]) == (1.0, pytest.approx(300 / 1600))


def test_grabcut_stands_beside_the_masks_of_the_same_images() -> None:
    rows = {row["name"]: row for row in measured(IMAGES, TRUTH, ("a",))["rows"]}
    assert rows[GRABCUT]["images"] == 1
    same = rows[f"{SEGMENTED}, same images"]
    assert (same["images"], same["iou"]) == (1, 1.0)


@pytest.mark.parametrize("truth", [{}, {"a": true((L_SHAPE, 0)).__class__(**{**vars(TRUTH["a"]), "mask_rle": None})}])
def test_a_split_without_true_masks_is_counted_and_not_measured(truth: dict[str, GroundTruth]) -> None:
    found = measured(IMAGES, truth)
    assert (found["images"], found["objects"], found["rows"], found["worst"]) == (3, None, [], [])
    assert "no true masks" in text_table("train", found).title


def test_objects_of_which_a_box_alone_is_known_are_told_and_not_measured() -> None:
    found = measured(IMAGES[:2], {"a": TRUTH["a"], "b": true((WHOLE, 1), known=False)})
    assert (found["objects"], found["without_mask"]) == (1, 1)
    assert ", 1 without" in text_table("train", found).title
    assert found["classes"][1]["iou"] is None


def test_evaluate_reads_what_segment_left_and_the_index() -> None:
    recipe, _ = load_recipe("small", ["evaluate.segment.of=segment"])
    options = stage_of("evaluate").options(recipe.of("evaluate.segment"), "evaluate.segment")
    assert set(inputs_of(options)) == {"index", "segment"}


def test_an_image_that_cannot_be_read_any_more_is_not_measured_with_grabcut(caplog: pytest.LogCaptureFixture) -> None:
    def gone(_: str) -> np.ndarray:
        raise ImageError("missing", "deleted")

    rows = measure(IMAGES, ("cat", "dog"), lambda _: TRUTH, ("a",), gone)["train"]["rows"]
    assert [row["name"] for row in rows] == [SEGMENTED, BOXES, ELLIPSES]
    assert "image a: not measured with GrabCut" in caplog.text


def test_boxes_in_which_grabcut_fails_are_told() -> None:
    plain = np.zeros((*SIZE, 3), np.uint8)  # of one colour: nothing to cut out
    found = measure(IMAGES, ("cat", "dog"), lambda _: TRUTH, ("a",), lambda _: plain)["train"]
    assert found["grabcut"] == {"masks": 1, "fell_back": 1}
    assert "GrabCut failed in 1 of 1 boxes, which are filled" in text_table("train", found).title
