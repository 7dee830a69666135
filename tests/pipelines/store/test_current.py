"""What readers see of a table that several sets share: planned rows, each once, with the splits of the index."""

import os

import pyarrow as pa
import pytest

from pipelines.store import identities as listed
from pipelines.store.copies import remove_copies
from pipelines.store.current import CurrentRows
from pipelines.store.files import DamagedFileError
from pipelines.store.identities import identities
from pipelines.store.planned import PLANNED_ROWS
from pipelines.store.proof import prove
from pipelines.store.schemas import IMAGE_ID, INPUT
from pipelines.store.tables import LIST_FILE, Table, part_name
from weaksam.errors import RunError

SCHEMA = pa.schema([IMAGE_ID, INPUT, pa.field("score", pa.int32())])


def planned(*rows):
    """Of (image, input, split)."""
    return pa.Table.from_pylist([dict(zip(PLANNED_ROWS.names, row, strict=True)) for row in rows], schema=PLANNED_ROWS)


@pytest.fixture
def table(tmp_path):
    """Parts: a-old a-new b-1 | c-1 | b-1 c-1 once more."""
    table = Table(str(tmp_path), SCHEMA)
    write(table, "part-0", ("a", "old", 1), ("a", "new", 2), ("b", "1", 3))
    write(table, "part-1", ("c", "1", 4))
    write(table, "part-2", ("b", "1", 3), ("c", "1", 4))
    return table


def write(table, name, *rows):
    table.write_rows([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], name)


def test_planned_rows_are_seen_once_with_their_splits(table):
    seen = CurrentRows(table, planned(("a", "new", "val"), ("b", "1", "train"), ("d", "1", "train")))
    assert list(seen.iter_rows()) == [
        {"image_id": "a", "score": 2, "split": "val"},
        {"image_id": "b", "score": 3, "split": "train"},
    ]
    assert seen.ids() == ["a", "b"]
    assert seen.read(("score",)).to_pylist() == [{"score": 2}, {"score": 3}]
    assert [f.name for f in seen.schema] == ["image_id", "split", "score"]


def test_nothing_planned_or_nothing_there(table, tmp_path):
    assert CurrentRows(table, planned()).read().num_rows == 0
    assert CurrentRows(Table(str(tmp_path / "none"), SCHEMA), planned(("a", "1", "val"))).read(("split",)).num_rows == 0


def test_files_without_a_planned_row_are_not_opened(table):
    identities(table)
    (path,) = [path for path in table.parts() if path.endswith("part-1.parquet")]
    seen = CurrentRows(table, planned(("a", "old", "val")))
    assert seen.ids() == ["a"]
    os.unlink(path)
    assert seen.read().num_rows == 1


def test_copies_are_removed_and_the_first_ones_stay(table):
    assert remove_copies(table) == 2
    assert sorted(map(os.path.basename, table.parts())) == ["part-0.parquet", "part-1.parquet"]
    assert remove_copies(table) == 0


def test_a_part_of_copies_keeps_what_is_none(table):
    write(table, "part-3", ("c", "1", 4), ("e", "1", 5))
    assert remove_copies(table) == 3
    assert sorted((row["image_id"], row["input"], row["score"]) for row in table.iter_rows()) == [
        ("a", "new", 2), ("a", "old", 1), ("b", "1", 3), ("c", "1", 4), ("e", "1", 5),
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [("ab", "b"), ("a", "ab", "b"), ("b", "ab", "a"), ("ab", "bc", "b", "c")])
def test_parts_that_are_named_by_what_is_kept_of_others_are_not_lost(tmp_path, rows):
    table = Table(str(tmp_path), SCHEMA)
    for ids in rows:
        part = pa.Table.from_pylist(
            [{"image_id": name, "input": "1", "score": ord(name)} for name in ids], schema=SCHEMA
        )
        table.write_part(part, part_name(part))
    before = sum(map(len, rows))
    left = sorted(set("".join(rows)))
    assert remove_copies(table) == before - len(left)
    assert sorted((row["image_id"], row["score"]) for row in table.iter_rows()) == [(name, ord(name)) for name in left]


def test_the_list_beside_a_table_saves_opening_its_parts(table, monkeypatch):
    expected = sorted(map(tuple, (row.values() for row in identities(table).to_pylist())))
    listed.keep(table)
    monkeypatch.setattr(listed, "_met", {})
    monkeypatch.setattr(Table, "read_part", lambda *_: pytest.fail("a part was opened"))
    assert sorted(map(tuple, (row.values() for row in identities(table).to_pylist()))) == expected
    assert listed.believed(table) == set(table.stamped())


def test_parts_that_are_new_gone_or_changed_are_noticed_beside_the_list(table, monkeypatch):
    listed.keep(table)
    monkeypatch.setattr(listed, "_met", {})
    write(table, "part-1", ("c", "2", 4), ("c", "3", 4))
    write(table, "part-3", ("e", "1", 5))
    os.unlink(next(path for path in table.parts() if path.endswith("part-2.parquet")))
    found = {(row["part"], row["image_id"], row["input"]) for row in identities(table).to_pylist()}
    assert {row for row in found if row[0] != "part-0.parquet"} == {
        ("part-1.parquet", "c", "2"), ("part-1.parquet", "c", "3"), ("part-3.parquet", "e", "1"),
    }  # fmt: skip


def test_a_part_found_damaged_ends_the_trust_in_the_list(table, tmp_path):
    listed.keep(table)
    path = tmp_path / "part-0.parquet"
    times = os.stat(path)
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DamagedFileError):
        CurrentRows(table, planned(("b", "1", "val"))).read()
    assert not (tmp_path / LIST_FILE).exists()
    assert list(table.damaged(listed.believed(table))) == ["part-0.parquet"]


def test_a_damaged_list_is_no_list(table, tmp_path, monkeypatch):
    (tmp_path / LIST_FILE).write_bytes(b"PAR1 cut")
    monkeypatch.setattr(listed, "_met", {})
    assert identities(table).num_rows == 6
    assert listed.believed(table) == set()


def test_the_proof_counts_rows_of_the_set_and_what_was_there_before(table):
    remove_copies(table)
    dropped = Table(f"{table.folder}/_dropped", SCHEMA)
    write(dropped, "part-0", ("d", "1", 0), ("b", "1", 0), ("x", "1", 0))
    rows = planned(("a", "new", "val"), ("b", "1", "train"), ("d", "1", "train"))
    proof = prove(rows, table, dropped, before=1)
    assert str(proof) == "images 3 = done 2 (1 from before) + dropped 1 · duplicates 0"
    with pytest.raises(RunError, match=r"images 1 = done 0 \+ dropped 0 · duplicates 0, missing 1 \(d\)"):
        prove(planned(("d", "2", "train")), table, dropped)


def test_the_proof_fails_for_rows_that_are_there_twice(table):
    with pytest.raises(RunError, match=r"done 1 .* duplicates 2"):
        prove(planned(("b", "1", "train")), table, Table(f"{table.folder}/_dropped", SCHEMA))


def test_names_of_parts_follow_the_rows_and_the_owner():
    rows = pa.table({"image_id": ["a", "b"], "input": ["1", "2"]})
    assert part_name(rows) == part_name(rows.take([1, 0]))
    assert len({part_name(rows), part_name(rows, "me"), part_name(rows, "you"), part_name(rows.slice(1))}) == 4
    assert part_name(rows, "0123456789abcdef").endswith("-01234567")
