from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.store.schemas import (
    DETECTIONS,
    DROPPED,
    IMAGES,
    PROPOSALS,
    PSEUDO_LABELS,
    SUPERPIXELS,
    automatic_masks_from_row,
    automatic_masks_to_row,
    check,
    class_names_of,
    detections_from_row,
    detections_to_row,
    proposals_from_row,
    proposals_to_row,
    pseudo_labels_from_row,
    pseudo_labels_to_row,
    with_class_names,
)
from tests.support.automatic_masks import automatic_masks
from weaksam.errors import DataError
from weaksam.structures import Detections, Prompts, Proposals, PseudoGroundTruth


def proposals(boxes: list[list[float]], prompts: list[Prompts], **others: Any) -> Proposals:
    count = len(boxes)
    return Proposals(
        size_hw=(30, 40),
        boxes_xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
        source=others.get("source", ["grid"] * count),
        prompt_index=np.asarray(others.get("prompt_index", [0] * count), np.int32),
        mask_index=np.asarray(others.get("mask_index", [2] * count), np.int8),
        predicted_iou=np.asarray(others.get("predicted_iou", [0.5] * count), np.float32),
        discarded=others.get("discarded", {}),
        prompts=prompts,
        mask_rle=others.get("mask_rle"),
    )


def points(*xy: list[tuple[float, float]]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    return [np.asarray(one, np.float32) for one in xy]


GRID = Prompts(source="grid", points_xy=points([(10, 15)], [(30, 15)]), kind=["grid"] * 2, class_index=[-1, -1])
FINE = Prompts(
    source="fine",
    points_xy=points([(1.5, 2.25)], [(1.5, 2.25), (7, 8), (9, 3)]),
    kind=["semantic", "class-joint"],
    class_index=[3, 3],
)

CASES = {
    "no box and no prompt": proposals([], []),
    "no box from two sources": proposals([], [GRID, FINE], discarded={("grid", "low iou"): 6, ("fine", "empty"): 1}),
    "a joint prompt of three points": proposals(
        [[0, 0, 40, 30], [1.5, 2, 3.25, 4]],
        [GRID, FINE],
        source=["grid", "fine"],
        prompt_index=[1, 3],
        mask_index=[0, 2],
        predicted_iou=[0.1, 0.9],
    ),
    "a box of no prompt": proposals(
        [[0, 0, 40, 30]],
        [],
        source=["whole-image"],
        prompt_index=[-1],
        mask_index=[-1],
        predicted_iou=[np.nan],
    ),
    "masks": proposals([[0, 0, 2, 1]], [GRID], mask_rle=[{"size": [30, 40], "counts": b"01\xff\x00"}]),
    "masks asked for but none made": proposals([], [GRID], mask_rle=[]),
}


@pytest.mark.parametrize("before", CASES.values(), ids=CASES.keys())
def test_proposals_survive_a_parquet_file(before: Proposals) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([proposals_to_row("a/b.jpg", "1f", before)], schema=PROPOSALS), buffer)
    (row,) = check(pq.read_table(buffer), PROPOSALS, "here").to_pylist()
    after = proposals_from_row(row)

    assert (row["image_id"], row["input"]) == ("a/b.jpg", "1f")
    assert after.size_hw == (30, 40)
    for name, dtype in (("boxes_xyxy", "f4"), ("prompt_index", "i4"), ("mask_index", "i1"), ("predicted_iou", "f4")):
        was, now = getattr(before, name), getattr(after, name)
        assert now.dtype == dtype
        np.testing.assert_array_equal(now, was, strict=True)
    assert list(after.source) == list(before.source)
    assert after.discarded == before.discarded
    assert after.mask_rle == before.mask_rle
    assert [p.source for p in after.prompts] == [p.source for p in before.prompts]
    for now_p, was_p in zip(after.prompts, before.prompts, strict=True):
        assert (now_p.kind, now_p.class_index) == (list(was_p.kind), list(was_p.class_index))
        for now_xy, was_xy in zip(now_p.points_xy, was_p.points_xy, strict=True):
            np.testing.assert_array_equal(now_xy, was_xy, strict=True)


@pytest.mark.parametrize("count", [0, 2])
def test_automatic_masks_survive_a_parquet_file(count: int) -> None:
    before = automatic_masks([np.eye(3, 4, n, bool) for n in range(count)], size_hw=(3, 4), level=[2, 0][:count])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([automatic_masks_to_row("a/b.jpg", "1f", before)], schema=SUPERPIXELS), buffer)
    (read,) = check(pq.read_table(buffer), SUPERPIXELS, "here").to_pylist()
    after = automatic_masks_from_row(read)
    assert (read["image_id"], read["input"], after.size_hw) == ("a/b.jpg", "1f", (3, 4))
    assert after.mask_rle == before.mask_rle
    for name in ("level", "area", "boxes_xyxy", "predicted_iou", "stability", "point_xy", "crop_xyxy"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), strict=True)


@pytest.mark.parametrize("noise", [None, ["clean", "place"], []], ids=["image labels", "true boxes", "no boxes"])
def test_pseudo_labels_survive_a_parquet_file(noise: list[str] | None) -> None:
    count = 2 if noise is None else len(noise)
    before = PseudoGroundTruth(
        boxes_xyxy=np.arange(4 * count, dtype=np.float32).reshape(-1, 4) / 3,
        class_index=np.arange(count),
        score=np.full(count, 0.1, np.float32),
        score_normalised=np.full(count, 0.3, np.float32),
    )
    rejected = [{"box_xyxy": [0.0, 1.0, 2.0, 3.0], "class_index": 7, "score": 0.5, "reason": "covered"}]
    row = pseudo_labels_to_row(
        "a/b.jpg", "1f", (30, 40), before, supervision="boxes", noise=noise, rejected=rejected[:count]
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], schema=PSEUDO_LABELS), buffer)
    (read,) = check(pq.read_table(buffer), PSEUDO_LABELS, "here").to_pylist()
    after = pseudo_labels_from_row(read)
    for name in ("boxes_xyxy", "class_index", "score", "score_normalised"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), strict=True)
    assert (read["image_id"], read["input"], read["size_hw"]) == ("a/b.jpg", "1f", [30, 40])
    assert (read["supervision"], read["noise"], read["rejected"]) == ("boxes", noise, rejected[:count])


@pytest.mark.parametrize("masks", [None, [{"size": [30, 40], "counts": b"01\xff\x00"}]], ids=["boxes", "masks"])
def test_detections_survive_a_parquet_file(masks: list[dict[str, Any]] | None) -> None:
    before = Detections(
        boxes_xyxy=np.array([[1.5, 2, 3.25, 4]], np.float32),
        class_index=np.array([3]),
        score=np.array([0.1], np.float32),
        image_scores=np.array([0.1, np.nan], np.float32),
        mask_rle=masks,
    )
    buffer = io.BytesIO()
    row = detections_to_row("a/b.jpg", "1f", (30, 40), before)
    pq.write_table(pa.Table.from_pylist([row], schema=DETECTIONS), buffer)
    (read,) = check(pq.read_table(buffer), DETECTIONS, "here").to_pylist()
    after = detections_from_row(read)
    for name in ("boxes_xyxy", "class_index", "score", "image_scores"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), strict=True)
    assert after.mask_rle == masks


def test_no_masks_are_null_and_no_boxes_are_an_empty_list() -> None:
    row = proposals_to_row("a", "1f", CASES["no box and no prompt"])
    assert row["mask_rle"] is None
    assert row["boxes_xyxy"] == []
    assert row["prompt_points_xy"] == []


def test_unknown_labels_differ_from_no_labels() -> None:
    rows = [
        {"image_id": "a", "uri": "a", "split": "train", "content": "", "labels": None, "labels_difficult": None},
        {"image_id": "b", "uri": "b", "split": "train", "content": "", "labels": [], "labels_difficult": [0]},
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=IMAGES), buffer)
    assert pq.read_table(buffer).to_pylist() == rows


def test_class_names_travel_in_order_and_in_any_script() -> None:
    names = ("zebra", "a;b", "Äpfel", "猫")
    assert class_names_of(with_class_names(IMAGES, names)) == names
    assert class_names_of(with_class_names(IMAGES, ())) == ()
    assert class_names_of(IMAGES) == ()


def test_class_names_do_not_make_a_schema_another_one() -> None:
    table = with_class_names(DROPPED, ["cat"]).empty_table()
    assert check(table, DROPPED, "here") is table


OTHER = [pa.field("image_id", pa.string(), nullable=False), pa.field("labels", pa.list_(pa.int32()))]
WRONG = {
    "a missing column": (OTHER[:1], ["labels: list<item: int32>"], []),
    "a column too many": ([*OTHER, pa.field("score", pa.float32())], [], ["score: float"]),
    "another type": (
        [OTHER[0], pa.field("labels", pa.list_(pa.null()))],
        ["labels: list<item: int32>"],
        ["labels: list<item: null>"],
    ),
    "another order": (OTHER[::-1], ["image_id", "labels"], ["labels", "image_id"]),
    "another nullability": (
        [pa.field("image_id", pa.string()), OTHER[1]],
        ["image_id: string not null"],
        ["image_id: string"],
    ),
}


@pytest.mark.parametrize(("columns", "expected", "got"), WRONG.values(), ids=WRONG.keys())
def test_a_table_of_another_schema_is_refused_by_what_differs(
    columns: list[pa.Field], expected: list[str], got: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        check(pa.schema(columns).empty_table(), pa.schema(OTHER), "runs/x/part-0.parquet")
    message = str(caught.value)
    assert message.startswith("runs/x/part-0.parquet: ")
    expected_text, got_text = message.split(", got ")
    for part in expected:
        assert part in expected_text
    for part in got:
        assert part in got_text
