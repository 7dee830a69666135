from __future__ import annotations

import errno
import io
import threading
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.store import tables
from pipelines.store.files import DamagedFileError, write_bytes, write_json
from pipelines.store.schemas import DETECTIONS, DROPPED, IMAGES, with_class_names
from pipelines.store.tables import Table, read_ahead
from weaksam.errors import DataError
from weaksam.io.files import join, open_fs


def image(image_id: str, labels: list[int] | None = None) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "uri": f"/{image_id}",
        "split": "train",
        "content": "",
        "labels": labels,
        "labels_difficult": None,
    }


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
    assert table.set_aside_damaged() == []
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


def test_rows_of_some_images_are_looked_up_whole_or_some_columns_of_them(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("c", [1])], "part-1")
    table.write_rows([image("b", [0]), image("a", [])], "part-0")
    assert table.of_images(["c", "x", "a"]) == {"a": image("a", []), "c": image("c", [1])}
    assert table.of_images(["c"], ("image_id", "labels")) == {"c": {"image_id": "c", "labels": [1]}}


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
    assert table.set_aside_damaged() == []


def test_torn_files_are_not_counted_and_are_set_aside(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("a")], "part-0")
    whole = parquet_bytes([image(str(n), [n]) for n in range(50)])
    for number, length in enumerate((0, 1, 4, 100, len(whole) // 2, len(whole) - 4, len(whole) - 1)):
        write_bytes(join(folder, f"torn-{number}.parquet"), whole[:length])
    write_bytes(join(folder, "whole.parquet"), whole)
    assert table.count() == 51
    assert table.set_aside_damaged() == [f"torn-{n}.parquet" for n in range(7)]
    assert names_in(folder) == ["_damaged", "part-0.parquet", "whole.parquet"]
    aside = [name.partition("-")[2] for name in names_in(join(folder, "_damaged"))]
    assert sorted(aside) == [f"torn-{n}.parquet" for n in range(7)]
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
    with pytest.raises(DamagedFileError, match="stage"):
        Table(folder, DROPPED).read()


# --- damage

CLASSES = with_class_names(IMAGES, ["cat", "dog"])


def parts_by_name() -> dict[str, bytes]:
    """Files that are no part of a table of images of cats and dogs."""
    whole = parquet_bytes([image(str(n), [n]) for n in range(50)])
    zeroed = whole[:200] + bytes(60) + whole[260:]
    nulls = pa.table({**{n: pa.nulls(1, IMAGES.field(n).type) for n in IMAGES.names}, "image_id": ["a"]})
    return {
        "empty": b"",
        "cut in half": whole[: len(whole) // 2],
        "without its end": whole[:-1],
        "with a footer longer than itself": whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:],
        "with a zeroed page": zeroed,
        "text": b"image_id,uri\n",
        "of another table": bytes_of(pa.Table.from_pylist([], schema=DROPPED)),
        "of another program": bytes_of(pa.table({"x": [1]})),
        "with rows that are no images": bytes_of(nulls),
        "of other classes": bytes_of(pa.Table.from_pylist([image("a")], schema=with_class_names(IMAGES, ["cow"]))),
        "whose class list is no list": bytes_of(
            pa.Table.from_pylist([image("a")], schema=IMAGES.with_metadata({b"class_names": b"7"}))
        ),
        "whose class list is no JSON": bytes_of(
            pa.Table.from_pylist([image("a")], schema=IMAGES.with_metadata({b"class_names": b"\xff"}))
        ),
        "with an id that is no text": bytes_of(no_text()),
    }


def bytes_of(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def no_text() -> pa.Table:
    broken = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff"))
    columns = {**{name: pa.array([None], IMAGES.field(name).type) for name in IMAGES.names}, "image_id": broken}
    columns |= {name: pa.array(["x"]) for name in ("uri", "split", "content")}
    return pa.table(list(columns.values()), schema=CLASSES)


@pytest.mark.parametrize("name", parts_by_name())
def test_a_file_that_is_no_part_is_named_with_its_remedy_and_set_aside(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table(str(tmp_path), CLASSES, mended_by="`weaksam index RUN`")
    table.write_rows([image("good", [1])], "part-1")
    (tmp_path / "part-0.parquet").write_bytes(parts_by_name()[name])
    if name != "of other classes":  # which only who works on the table can know
        with pytest.raises(DamagedFileError) as found:
            table.read()
        assert str(found.value).startswith(f"{tmp_path}/part-0.parquet: damaged: ")
        assert str(found.value).endswith(" To set it aside and make it again, run `weaksam index RUN` again")
        assert "\n" not in str(found.value)
    assert list(table.damaged()) == ["part-0.parquet"]
    assert table.set_aside_damaged() == ["part-0.parquet"]
    assert "set aside 1 damaged file in" in caplog.text
    assert table.ids() == ["good"]
    (aside,) = (tmp_path / "_damaged").iterdir()
    assert aside.read_bytes() == parts_by_name()[name]


def test_a_folder_in_the_place_of_a_part_is_set_aside(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("good")], "part-1")
    write_bytes(join(folder, "part-0.parquet", "notes.txt"), b"x")
    with pytest.raises(DamagedFileError, match=r"part-0\.parquet: damaged"):
        table.ids()
    assert table.count() == 1
    assert table.set_aside_damaged() == ["part-0.parquet"]
    assert table.ids() == ["good"]


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tmp_path: Path) -> None:
    table = Table(str(tmp_path), IMAGES)
    rows = [{**image(f"image {n}", [n % 3]), "labels_difficult": [0]} for n in range(30)]
    table.write_rows(rows, "part-0")
    part = tmp_path / "part-0.parquet"
    data = part.read_bytes()
    found = 0
    for place in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        part.write_bytes(flipped)
        try:
            assert table.read().to_pylist() == rows, place
        except DamagedFileError:
            found += 1
    assert found > len(data) / 6  # those that change nothing are in the statistics and the padding of the footer


def test_pages_carry_checksums(tmp_path: Path) -> None:
    """Uncompressed, so that only the checksum can tell that a letter is another one."""
    table = Table(str(tmp_path), IMAGES)
    table.write_rows([image("some-name")], "part-0")
    part = tmp_path / "part-0.parquet"
    with_checksum = pq.read_table(part)
    sink = pa.BufferOutputStream()
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(with_checksum, sink, write_page_checksum=True, **plain)
    part.write_bytes(sink.getvalue().to_pybytes().replace(b"some-name", b"same-name", 1))
    with pytest.raises(DamagedFileError, match="CRC"):
        table.ids()


def test_a_storage_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(str(tmp_path), IMAGES)
    table.write_rows([image("a")], "part-0")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(type(open_fs(str(tmp_path))[0]), "open", refuse)
    with pytest.raises(PermissionError):
        table.set_aside_damaged()


def test_a_part_that_was_found_sound_is_read_again_once_it_changes(tmp_path: Path) -> None:
    table = Table(str(tmp_path), IMAGES)
    table.write_rows([image("a")], "part-0")
    assert table.damaged() == {}
    assert table.damaged() == {}
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1")
    assert list(table.damaged()) == ["part-0.parquet"]


def test_room_is_asked_for_without_a_trace(folder: str) -> None:
    table = Table(folder, IMAGES)
    table.write_rows([image("a")], "part-0")
    table.require_room()
    assert names_in(folder) == ["part-0.parquet"]


def test_the_folder_is_one_table_for_plain_readers(tmp_path: Path) -> None:
    table = Table(str(tmp_path), IMAGES)
    table.write_rows([image("a", [])], "part-0")
    table.write_rows([image("b", [1])], "part-1")
    Table(str(tmp_path / "_dropped"), DROPPED).write_rows([], "part-0")
    write_json(str(tmp_path / "_plan.json"), {})
    assert pq.read_table(tmp_path)["image_id"].to_pylist() == ["a", "b"]


def test_a_file_is_read_by_the_thread_that_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A thread of Arrow's that lets go of a file of Python's while the interpreter ends aborts the process.
    readers: set[int] = set()

    class Watched(io.BytesIO):
        def read(self, *size: int | None) -> bytes:
            readers.add(threading.get_ident())
            return super().read(*size)

        def readinto(self, buffer: Any) -> int:
            readers.add(threading.get_ident())
            return super().readinto(buffer)

    table = Table(str(tmp_path), IMAGES)
    table.write_rows(
        [
            {"image_id": str(n), "uri": "", "split": "", "content": "", "labels": [n], "labels_difficult": []}
            for n in range(100)
        ],
        "part-0",
    )
    data = (tmp_path / "part-0.parquet").read_bytes()
    fs = fsspec.filesystem("file")
    monkeypatch.setattr(tables, "open_fs", lambda _uri: (fs, str(tmp_path)))
    monkeypatch.setattr(fs, "open", lambda *_arguments, **_options: Watched(data))
    assert table.read().num_rows == 100
    assert readers == {threading.get_ident()}


# --- counting


def test_files_whose_rows_are_known_are_not_opened_to_count_them(tmp_path: Path) -> None:
    table = Table(str(tmp_path), IMAGES)
    table.write_rows([image("a"), image("b")], "part-0")
    (tmp_path / "part-1.parquet").write_bytes(b"not even a footer")
    table.note_counts({"part-1.parquet": 5, "part-gone.parquet": 7})
    assert table.count() == 2 + 5


# --- reading ahead


def test_parts_in_a_bucket_come_in_order_while_the_next_are_fetched() -> None:
    together = threading.Barrier(2, timeout=60)  # broken unless two are read at once

    def read(part: int) -> pa.Table:
        if part in (2, 3):
            together.wait()
        return pa.table({"part": [part]})

    found = read_ahead(read, range(10), "s3://bucket/table")
    assert [part["part"][0].as_py() for part in found] == list(range(10))


@pytest.mark.parametrize(("folder", "most"), [("/table", 1), ("s3://bucket/table", 5)])
def test_no_more_parts_are_read_than_a_few(folder: str, most: int) -> None:
    begun: list[int] = []

    def read(part: int) -> pa.Table:
        begun.append(part)
        return pa.table({"part": [part]})

    found = read_ahead(read, range(100), folder)
    assert begun == []
    next(found)
    found.close()  # waits for those that are being read
    assert 1 <= len(begun) <= most


def test_an_error_comes_in_the_place_of_its_part() -> None:
    def read(part: int) -> pa.Table:
        if part == 2:
            raise DamagedFileError("s3://bucket/table/part-2.parquet", "it is cut off", "`weaksam propose`")
        return pa.table({"part": [part]})

    found = read_ahead(read, range(5), "s3://bucket/table")
    assert [next(found)["part"][0].as_py() for _ in range(2)] == [0, 1]
    with pytest.raises(DamagedFileError, match="part-2"):
        next(found)


def test_columns_that_came_later_are_null_in_files_of_before(tmp_path: Path) -> None:
    table = Table(str(tmp_path), with_class_names(DETECTIONS, ["cat"]))
    row = {
        "image_id": "a",
        "input": "1f",
        "size_hw": [3, 4],
        "boxes_xyxy": [[0.0, 0.0, 2.0, 2.0]],
        "class_index": [0],
        "score": [0.5],
        "image_scores": [0.5],
        "mask_rle": [{"size": [3, 4], "counts": b"01"}],
    }
    table.write_rows([row], "part-1")
    of_before = table.schema.remove(table.schema.get_field_index("mask_rle"))
    pq.write_table(pa.Table.from_pylist([{**row, "image_id": "b"}], schema=of_before), tmp_path / "part-0.parquet")
    assert [read["mask_rle"] for read in table.iter_rows()] == [None, row["mask_rle"]]
    assert table.class_names() == ("cat",)
    assert table.damaged() == {}
    without_score = of_before.remove(of_before.get_field_index("score"))
    pq.write_table(pa.Table.from_pylist([row], schema=without_score), tmp_path / "part-2.parquet")
    assert list(table.damaged()) == ["part-2.parquet"]
