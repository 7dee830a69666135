"""True boxes and the pictures that they are measured on, by hand on pictures of a few pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from weaksam.datasets.ground_truth import BoxCounts, TrueObject, count_boxes, digest_of, ground_truth_of, true_objects
from weaksam.errors import DataError
from weaksam.structures import GroundTruth

Box = tuple[float, float, float, float]


def truth(*boxes: Box, size_hw: tuple[int, int] = (72, 96), **options: Any) -> dict[str, GroundTruth]:
    return {"a": ground_truth_of([TrueObject(box, 0) for box in boxes], size_hw, **options)}


def test_boxes_left_out_are_counted_apart_from_those_that_are_cut() -> None:
    boxes = [
        (10, 10, 40, 40), (10, 10, 10, 10), (-5, -5, 25, 25), (60, 40, 110, 100), (40, 40, 30, 30), (200, 200, 220, 220),
        (10, 10, 15, 40), (0, 0, 96, 72),
    ]  # fmt: skip
    known = truth(*boxes)["a"]
    assert (len(known.boxes_xyxy), known.left_out, known.cut) == (5, 3, 2)
    assert count_boxes({"a": known, "b": known}) == BoxCounts(images=2, objects=10, cut=4, left_out=6)
    assert count_boxes({}) == BoxCounts(images=0, objects=0, cut=0, left_out=0)


@pytest.mark.parametrize("size_hw", [(72, 96), (0, 96), (72, 0), (0, 0)])
def test_a_picture_of_the_stated_size_keeps_its_boxes(size_hw: tuple[int, int]) -> None:
    assert true_objects(truth((60, 10, 90, 40), size_hw=size_hw), "a", (72, 96)).boxes_xyxy.tolist() == [
        [60, 10, 90, 40]
    ]


def test_an_image_that_is_not_annotated_holds_nothing() -> None:
    assert true_objects({}, "a", (72, 96)).boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize(("stated", "got"), [((72, 96), (71, 96)), ((0, 96), (72, 95)), ((72, 0), (36, 96))])
def test_a_picture_of_another_size_is_refused_with_both_sizes(stated: tuple[int, int], got: tuple[int, int]) -> None:
    known = truth((60, 10, 90, 40), size_hw=stated, where="a.xml")
    sizes = f"a picture of {stated[1] or '.'} x {stated[0] or '.'} pixels .* got one of {got[1]} x {got[0]}"
    with pytest.raises(DataError, match=rf"a\.xml: image a: expected {sizes}; .*data\.stated_size=scale"):
        true_objects(known, "a", got)


def test_a_picture_that_is_turned_by_its_exif_is_told_from_a_resized_one() -> None:
    with pytest.raises(
        DataError, match=r"width and height have changed places.* EXIF .*exiftool.* data\.stated_size=ignore"
    ):
        true_objects(truth((60, 10, 90, 40)), "a", (96, 72))


@pytest.mark.parametrize("boxes", [[(200, 200, 210, 210)], [(60, 10, 90, 40)]], ids=["all left out", "one kept"])
def test_boxes_that_were_left_out_by_a_wrong_size_are_boxes_too(boxes: list[Box]) -> None:
    with pytest.raises(DataError, match="changed places"):
        true_objects(truth(*boxes), "a", (96, 72))


def test_a_wrong_size_without_boxes_does_no_harm() -> None:
    assert len(true_objects(truth(), "a", (96, 72)).boxes_xyxy) == 0


def test_without_a_stated_size_boxes_are_cut_to_the_picture_and_counted() -> None:
    known = true_objects(truth((60, 10, 90, 40), (10, 80, 20, 90), size_hw=(0, 0)), "a", (72, 80))
    assert (known.boxes_xyxy.tolist(), known.cut, known.left_out) == ([[60, 10, 80, 40]], 1, 1)


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [((144, 192), [120, 20, 180, 80]), ((36, 48), [30, 5, 45, 20]), ((37, 48), [30, 5 * 37 / 36, 45, 20 * 37 / 36])],
    ids=["twice", "half", "half, rounded up"],
)
def test_boxes_of_a_resized_copy_are_scaled_where_that_is_asked_for(
    size_hw: tuple[int, int], expected: list[float]
) -> None:
    known = true_objects(truth((60, 10, 90, 40), stated_size="scale"), "a", size_hw)
    assert known.boxes_xyxy.tolist() == [pytest.approx(expected)]
    assert known.size_hw == size_hw


@pytest.mark.parametrize("size_hw", [(96, 72), (72, 90), (72, 72)], ids=["turned", "cropped", "squeezed"])
def test_a_picture_of_other_proportions_is_no_resized_copy(size_hw: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"no resized copy|changed places"):
        true_objects(truth((60, 10, 90, 40), stated_size="scale"), "a", size_hw)


def test_a_stated_size_can_be_ignored() -> None:
    known = true_objects(truth((60, 10, 90, 40), (10, 80, 20, 90), stated_size="ignore"), "a", (96, 72))
    assert (known.boxes_xyxy.tolist(), known.cut) == ([[60, 10, 72, 40], [10, 80, 20, 90]], 1)


# --------------------------------------------------------------------------------------------------------------- digest

BOX: Box = (10, 10, 40, 40)
NEXT_FLOAT = float(np.nextafter(np.float32(40), np.float32(41)))


def digest(*objects: TrueObject, **options: Any) -> str:
    return digest_of({"a": ground_truth_of(objects, **{"size_hw": (72, 96), **options})})


@pytest.mark.parametrize(
    "other",
    [
        digest(TrueObject((10, 10, 40, NEXT_FLOAT), 0)),
        digest(TrueObject(BOX, 1)),
        digest(TrueObject(BOX, 0, difficult=True)),
        digest(TrueObject(BOX, 0, crowd=True)),
        digest(TrueObject(BOX, 0), TrueObject(BOX, 0)),
        digest(TrueObject(BOX, 0), TrueObject((50, 50, 50, 50), 0)),
        digest(TrueObject(BOX, 0), size_hw=(73, 96)),
        digest(TrueObject(BOX, 0), size_hw=(96, 72)),
        digest(),
        digest_of({}),
        digest_of({"b": ground_truth_of([TrueObject(BOX, 0)], (72, 96))}),
    ],
    ids=[
        "a corner", "a class", "difficult", "a crowd", "a second object", "an empty box", "a stated size", "turned sides",
        "no object", "no image", "another image",
    ],
)  # fmt: skip
def test_the_digest_tells_true_boxes_from_others(other: str) -> None:
    assert other != digest(TrueObject(BOX, 0))


def test_the_digest_does_not_depend_on_the_order_of_images_or_on_the_file() -> None:
    one, two = (ground_truth_of([TrueObject(BOX, n)], (72, 96), where=f"{n}.xml") for n in (0, 1))
    moved = ground_truth_of([TrueObject(BOX, 0)], (72, 96), where="elsewhere/0.xml")
    assert digest_of({"a": one, "b": two}) == digest_of({"b": two, "a": moved})
    assert digest_of({"a": one, "b": two}) != digest_of({"a": two, "b": one})
