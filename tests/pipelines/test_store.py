from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.schemas import DROPPED, IMAGES, with_class_names
from pipelines.store import Table, create_exclusively, read_json, write_bytes, write_json
from tests.s3_server import s3_server
from weaksam.errors import DataError, RunError
from weaksam.files import join, open_fs


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("store") as uri:
        yield uri


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet, on disk and in a bucket."""
    root = str(tmp_path) if request.param == "disk" else join(request.getfixturevalue("bucket"), tmp_path.name)
    return join(root, "table [1] #%")


def image(image_id: str, labels: list[int] | None = None) -> dict[str, Any]:
    return {"image_id": image_id, "uri": f"/{image_id}", "split": "train", "labels": labels, "labels_difficult": None}


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=IMAGES), buffer)
    return buffer.getvalue()


def names_in(folder: str) -> list[str]:
    fs, root = open_fs(folder)
    fs.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in fs.ls(root, detail=False))


def test_a_folder_that_is_not_there_is_an_empty_table(folder: str) -> None:
    table = Table(folder, with_class_names(IMAGES, ["cat"]))
    assert table.parts() == []
    assert table.ids() == []
    assert table.count() == 0
    assert table.class_names() == ()
    assert table.remove_torn() == []
    assert list(table.iter_rows()) == []
    assert table.read().schema.equals(IMAGES)
    assert table.read(["uri"]).schema.names == ["uri"]


def test_rows_come_back_in_name_order_with_their_class_names(folder: str) -> None:
    table = Table(folder, with_class_names(IMAGES, ["cat", "dog"]))
    table.write_rows([image("c", [1])], "part-1")
    table.write_rows([image("b", [0, 1]), image("a", [])], "part-0")
    assert table.read().to_pylist() == [image("b", [0, 1]), image("a", []), image("c", [1])]
    assert list(table.iter_rows(["image_id"])) == [{"image_id": "b"}, {"image_id": "a"}, {"image_id": "c"}]
    assert table.read(["labels"])["labels"].to_pylist() == [[0, 1], [], [1]]
    assert (table.ids(), table.count()) == (["b", "a", "c"], 3)
    assert Table(folder, IMAGES).class_names() == ("cat", "dog")


def test_a_part_of_the_same_name_is_replaced_and_nothing_else_is_left(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("a")], "part-0")
    table.write_rows([image("b")], "part-0")
    assert names_in(folder) == ["part-0.parquet"]
    assert table.ids() == ["b"]


def test_rows_written_by_others_are_seen(folder: str) -> None:
    mine, theirs = Table(folder, IMAGES), Table(folder, IMAGES)
    mine.write_rows([image("a")], "part-0")
    assert theirs.count() == 1
    mine.write_rows([image("b"), image("c")], "part-1")
    assert theirs.count() == 3
    assert theirs.ids() == ["a", "b", "c"]


def test_an_id_written_twice_shows_twice(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("a"), image("a")], "part-0")
    table.write_rows([image("a")], "part-1")
    assert table.ids() == ["a", "a", "a"]


def test_parts_of_nothing_but_empty_or_null_lists_read_as_one_table(folder: str) -> None:
    table = Table(folder, IMAGES)
    for number, labels in enumerate([None, [], [1, 2]]):
        table.write_rows([image(str(number), labels)], f"part-{number}")
    table.write_rows([], "part-3")
    assert table.read()["labels"].to_pylist() == [None, [], [1, 2]]


def test_hidden_names_and_other_files_are_no_parts(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("a")], "part-0")
    content = parquet_bytes([image("hidden")])
    for name in ("_part.parquet", ".part-1.parquet.1234", ".part-2.parquet", "_dropped/part-0.parquet", "notes.txt"):
        write_bytes(join(folder, name), content)
    assert table.ids() == ["a"]
    assert table.remove_torn() == []


def test_torn_files_are_not_counted_and_are_removed(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("a")], "part-0")
    whole = parquet_bytes([image(str(n), [n]) for n in range(50)])
    for number, length in enumerate((0, 1, 4, 100, len(whole) // 2, len(whole) - 4, len(whole) - 1)):
        write_bytes(join(folder, f"torn-{number}.parquet"), whole[:length])
    write_bytes(join(folder, "whole.parquet"), whole)
    assert table.count() == 51
    assert [path.rpartition("/")[2] for path in table.remove_torn()] == [f"torn-{n}.parquet" for n in range(7)]
    assert names_in(folder) == ["part-0.parquet", "whole.parquet"]
    assert table.count() == len(table.ids()) == 51


def test_rows_of_files_that_are_gone_are_not_counted(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("a")], "part-0")
    assert table.count() == 1
    fs, path = open_fs(join(folder, "part-0.parquet"))
    fs.rm_file(path)
    assert table.count() == 0


def test_rows_of_another_schema_are_refused(folder: str) -> None:
    with pytest.raises(DataError, match=r"part-0\.parquet: expected columns"):
        Table(folder, IMAGES).write_part(DROPPED.empty_table(), "part-0")
    Table(folder, IMAGES).write_rows([image("a")], "part-0")
    with pytest.raises(Exception, match="stage"):
        Table(folder, DROPPED).read()


def test_the_folder_is_one_table_for_plain_readers(tmp_path: Path) -> None:
    table = Table(str(tmp_path), IMAGES)
    table.write_rows([image("a", [])], "part-0")
    table.write_rows([image("b", [1])], "part-1")
    Table(str(tmp_path / "_dropped"), DROPPED).write_rows([], "part-0")
    write_json(str(tmp_path / "_plan.json"), {})
    assert pq.read_table(tmp_path)["image_id"].to_pylist() == ["a", "b"]


def test_json_comes_back_and_a_missing_file_is_none(folder: str) -> None:
    uri = join(folder, "_plan.json")
    assert read_json(uri) is None
    value = {"näme": ["x", 1, 2.5, None, True], "empty": {}}
    write_json(uri, value)
    assert read_json(uri) == value
    write_json(uri, [])
    assert read_json(uri) == []
    assert names_in(folder) == ["_plan.json"]


@pytest.mark.parametrize("content", [b"", b'{"cut', b"\xff\xfe"], ids=["empty", "cut", "not text"])
def test_broken_json_is_refused_by_name(folder: str, content: bytes) -> None:
    write_bytes(join(folder, "_plan.json"), content)
    with pytest.raises(RunError, match=r"_plan\.json: expected JSON, got .* Delete the file"):
        read_json(join(folder, "_plan.json"))


def test_a_file_is_created_exclusively_once(folder: str) -> None:
    uri = join(folder, "_lock")
    assert create_exclusively(uri, b"first")
    assert not create_exclusively(uri, b"second")
    fs, path = open_fs(uri)
    assert fs.cat_file(path) == b"first"
    fs.rm_file(path)
    assert create_exclusively(uri, b"third")
