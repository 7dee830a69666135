"""What a row is computed from, and how the set of rows that an instance is asked for is told: by hand."""

import pyarrow as pa
import pytest

from pipelines.store.planned import (
    PLANNED_ROWS,
    Planned,
    also_in,
    common_splits,
    digest_of,
    identify,
    planned_rows,
    without,
)
from pipelines.store.schemas import IMAGES, with_class_names
from pipelines.store.tables import Table
from weaksam.errors import RunError

CLASSES = ("cat", "dog")
ROWS = [
    {"image_id": "b", "split": "train", "content": "B", "labels": [0], "labels_difficult": [1, 0]},
    {"image_id": "a", "split": "val", "content": "A", "labels": None, "labels_difficult": None},
    {"image_id": "c", "split": "train", "content": "C", "labels": [], "labels_difficult": [1]},
]


def images(rows=ROWS, classes=CLASSES):
    return pa.Table.from_pylist(
        [{"uri": f"/{row['image_id']}.jpg", **row} for row in rows], schema=with_class_names(IMAGES, classes)
    )


def changed(image_id, **values):
    return [{**row, **values} if row["image_id"] == image_id else row for row in ROWS]


def inputs(table, *columns, splits=()):
    rows = identify(table, columns, splits)
    return dict(zip(rows["image_id"].to_pylist(), rows["input"].to_pylist(), strict=True))


def test_rows_are_sorted_by_image_and_have_the_split_of_the_index():
    rows = identify(images(), ("content",))
    assert rows.schema.equals(PLANNED_ROWS)
    assert rows["image_id"].to_pylist() == ["a", "b", "c"]
    assert rows["split"].to_pylist() == ["val", "train", "train"]
    assert len(set(rows["input"].to_pylist())) == 3


@pytest.mark.parametrize(
    ("column", "value", "read", "differs"),
    [
        pytest.param("content", "other", ("content",), True, id="a replaced picture"),
        pytest.param("content", "other", ("labels",), False, id="whose content is not read"),
        pytest.param("labels", [1], ("content", "labels"), True, id="other labels"),
        pytest.param("labels", [1], ("content",), False, id="that are not read"),
        pytest.param("labels", None, ("labels",), True, id="labels that are no longer granted"),
        pytest.param("labels", [], ("labels",), True, id="no class is not the same as unknown, nor as one"),
        pytest.param("split", "val", ("content", "labels"), False, id="another split"),
    ],
)
def test_an_input_changes_with_the_columns_that_are_read(column, value, read, differs):
    before, after = inputs(images(), *read), inputs(images(changed("b", **{column: value})), *read)
    assert (before["b"] != after["b"]) is differs
    assert {i: before[i] for i in "ac"} == {i: after[i] for i in "ac"}


def test_labels_count_by_name_in_no_order():
    renumbered = [
        {**row, **{c: row[c] and [1 - n for n in row[c]] for c in ("labels", "labels_difficult")}} for row in ROWS
    ]
    for column in ("labels", "labels_difficult"):
        before = inputs(images(), column)
        assert inputs(images(classes=(*CLASSES, "eel")), column) == before
        assert inputs(images(renumbered, CLASSES[::-1]), column) == before
        assert inputs(images(changed("b", labels_difficult=[0, 1])), column) == before


def test_a_set_changes_with_its_images_their_inputs_and_their_splits_alone():
    def digest(rows=ROWS, splits=()):
        return digest_of(identify(images(rows), ("content",), splits))

    whole = digest()
    assert digest(ROWS[::-1]) == whole
    assert len({whole, digest(ROWS[1:]), digest(changed("b", split="val")), digest(changed("b", content="x"))}) == 4
    assert digest(changed("b", labels=[1])) == whole
    assert digest(splits=("train",)) == digest([ROWS[0], ROWS[2]])


def test_splits_in_common():
    assert common_splits((), ()) == ()
    assert common_splits(("train", "val"), ()) == common_splits((), ("train", "val")) == ("train", "val")
    assert common_splits(("train", "val"), ("val", "test")) == ("val",)


def test_an_index_that_is_not_made_yet_is_an_error_and_is_read_once_it_is(tmp_path):
    rows = identify(images(), ("content",), ("train",))
    planned = Planned(digest=digest_of(rows), index="k", columns=("content",), splits=("train",))
    with pytest.raises(RunError, match="expected an index, found none"):
        planned_rows(str(tmp_path), planned)
    Table(str(tmp_path), with_class_names(IMAGES, CLASSES)).write_part(images(), "part-0")
    assert planned_rows(str(tmp_path), planned).equals(rows)


def test_rows_are_told_apart_by_image_and_input():
    rows = pa.table({"image_id": ["a", "a", "b"], "input": ["1", "2", "1"]})
    other = pa.table({"image_id": ["a", "c"], "input": ["2", "1"]})
    assert without(rows, other).to_pylist() == [{"image_id": "a", "input": "1"}, {"image_id": "b", "input": "1"}]
    assert also_in(rows, other).to_pylist() == [{"image_id": "a", "input": "2"}]
    assert without(rows, rows.slice(0, 0)).equals(rows)
