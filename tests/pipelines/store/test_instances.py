from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.store.files import write_bytes
from pipelines.store.instances import Instance, current_instances, differences, instance_key
from pipelines.store.planned import PLANNED_ROWS
from pipelines.store.proof import prove
from pipelines.store.schemas import DROPPED, IMAGE_ID, INPUT
from pipelines.store.tables import Table
from tests.support.s3_server import s3_server
from tests.support.sets import ALL, FROM_NOTHING, instance_of
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs

# --- keys and plans


def test_a_key_is_the_head_of_a_hash_that_anybody_can_compute() -> None:
    # printf '%s' '{"a":1,"b":["ü",0.5,null]}' | sha256sum
    assert instance_key({"b": ["ü", 0.5, None], "a": 1}) == "d3c85f79e3d8"


PARTS: dict[str, Any] = {"verb": "propose", "method": {"t": 0.3, "on": True, "name": ""}, "reads": {"index": "0f"}}


@pytest.mark.parametrize(
    "other",
    [
        {**PARTS, "verb": "detect"},
        {**PARTS, "method": {**PARTS["method"], "t": 0.30000001}},
        {**PARTS, "method": {**PARTS["method"], "on": False}},
        {**PARTS, "method": {**PARTS["method"], "name": "0"}},
        {**PARTS, "method": {"t": 0.3, "on": True}},
        {**PARTS, "reads": {"index": "0e"}},
        {},
    ],
)
def test_a_key_changes_with_every_part(other: dict[str, Any]) -> None:
    assert instance_key(other) != instance_key(PARTS)


DIFFERENCES: dict[str, tuple[Any, Any, list[str]]] = {
    "nothing": (PARTS, json.loads(json.dumps(PARTS)), []),
    "a value": ({"a": {"b": 1, "c": "x"}}, {"a": {"b": 2, "c": "x"}}, ["a.b: 1 -> 2"]),
    "added and removed": ({"a": 1}, {"b": False}, ["a: 1 -> null", "b: null -> false"]),
    "a list": ({"a": [1, 2]}, {"a": [1]}, ["a: [1, 2] -> [1]"]),
    "a mapping for a value": ({"a": {"b": 1}}, {"a": "x"}, ['a: {"b": 1} -> "x"']),
    "in field order": ({"z": 1, "a": 1}, {"z": 2, "a": 2}, ["z: 1 -> 2", "a: 1 -> 2"]),
}


@pytest.mark.parametrize(("old", "new", "lines"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_differences_are_named_by_field(old: Any, new: Any, lines: list[str]) -> None:
    assert differences(old, new) == lines


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("runs") as uri:
        yield uri


@pytest.fixture(params=["disk", "s3"])
def run_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run folder that does not exist yet."""
    return join(
        str(tmp_path) if request.param == "disk" else join(request.getfixturevalue("bucket"), tmp_path.name), "run"
    )


def test_an_instance_is_planned_then_current_then_finished(run_uri: str) -> None:
    instance = Instance(run_uri, "propose", "aaa")
    assert (instance.plan(), instance.manifest(), instance.previous(), current_instances(run_uri)) == (
        None,
        None,
        None,
        [],
    )
    instance.begin({"verb": "propose"})
    plan = {"instance": "propose", "key": "aaa", "parts": {"verb": "propose"}}
    assert instance.plan() == plan
    assert current_instances(run_uri) == [instance]
    assert instance.manifest() is None
    instance.finish({"text": "images 1"})
    assert instance.manifest() == {"instance": "propose", "key": "aaa", "text": "images 1"}
    instance.reopen()
    instance.reopen()
    assert instance.manifest() is None


def test_another_key_makes_the_old_one_the_previous(run_uri: str) -> None:
    old, new = Instance(run_uri, "propose", "aaa"), Instance(run_uri, "propose", "bbb")
    old.begin({})
    assert (old.previous(), new.previous()) == (None, old)
    new.begin({})
    assert (old.previous(), new.previous()) == (new, None)
    old.make_current()
    assert (old.previous(), new.previous()) == (None, old)


def test_two_sets_of_an_instance_have_plans_of_their_own_and_share_its_folder(run_uri: str) -> None:
    one, other = instance_of(run_uri, "propose"), instance_of(run_uri, "propose", splits=("val",))
    other = replace(other, planned=replace(ALL, digest="other", splits=("val",)))
    for instance in (one, other):
        instance.begin({"of": instance.set})
        assert current_instances(run_uri) == [instance]
    one.finish({"text": "one"})
    assert (one.folder, one.plan(), one.manifest()) == (
        other.folder,
        {
            "instance": "propose",
            "key": "k",
            "planned": asdict(ALL) | {"columns": [], "splits": []},
            "parts": {"of": "all"},
        },
        {"instance": "propose", "key": "k", "text": "one"},
    )
    assert other.manifest() is None


def test_a_preview_has_its_rows_where_the_run_has_them(run_uri: str) -> None:
    run, preview = Instance(run_uri, "propose", "aaa"), Instance(join(run_uri, "preview-4"), "propose", "aaa")
    assert preview.folder == run.folder
    preview.begin({})
    assert (current_instances(run_uri), current_instances(join(run_uri, "preview-4"))) == ([], [preview])


def test_previews_and_hidden_folders_are_no_instances(run_uri: str) -> None:
    for name in ("propose", "index", "_x", ".y", "preview-8"):
        write_bytes(join(run_uri, name, "current"), b"aaa whole\n")
    write_bytes(join(run_uri, "notes", "todo.txt"), b"")
    assert [instance.name for instance in current_instances(run_uri)] == ["index", "propose"]


def test_a_run_of_an_earlier_version_is_refused(run_uri: str) -> None:
    write_bytes(join(run_uri, "propose", "current"), b"0123456789ab\n")
    with pytest.raises(RunError, match=r"an earlier version of weaksam made this run.*give another --out"):
        current_instances(run_uri)


# --- proofs


def rows_of(ids: list[str]) -> list[dict[str, Any]]:
    return [{"image_id": image_id, "input": FROM_NOTHING} for image_id in ids]


def planned_of(ids: list[str]) -> pa.Table:
    return pa.Table.from_pylist([row | {"split": "train"} for row in rows_of(ids)], schema=PLANNED_ROWS)


def tables(run_uri: str, done: list[str], dropped: list[str]) -> tuple[Table, Table]:
    table, drops = Table(run_uri, pa.schema([IMAGE_ID, INPUT])), Table(join(run_uri, "_dropped"), DROPPED)
    table.write_rows(rows_of(done), "part-0")
    drops.write_rows([row | dict.fromkeys(DROPPED.names[2:], "") for row in rows_of(dropped)], "part-0")
    return table, drops


PROVED: dict[str, tuple[list[str], list[str], list[str], str]] = {
    "nothing asked for": ([], [], [], "images 0 = done 0 + dropped 0 · duplicates 0"),
    "all done": (["a", "b"], ["b", "a"], [], "images 2 = done 2 + dropped 0 · duplicates 0"),
    "some dropped": (["a", "b"], ["b"], ["a"], "images 2 = done 1 + dropped 1 · duplicates 0"),
    "dropped twice": (["a"], [], ["a", "a"], "images 1 = done 0 + dropped 1 · duplicates 0"),
    "dropped first, done later": (["a"], ["a"], ["a"], "images 1 = done 1 + dropped 0 · duplicates 0"),
    "another set's rows and drops": (["a"], ["a", "x"], ["y"], "images 1 = done 1 + dropped 0 · duplicates 0"),
}


@pytest.mark.parametrize(("planned", "done", "dropped", "text"), PROVED.values(), ids=PROVED.keys())
def test_a_proof_counts_from_the_files(
    tmp_path: Path, planned: list[str], done: list[str], dropped: list[str], text: str
) -> None:
    proof = prove(planned_of(planned), *tables(str(tmp_path), done, dropped))
    assert str(proof) == text
    assert proof.images == proof.done + proof.dropped == len(planned)


def test_a_proof_writes_thousands_with_commas(tmp_path: Path) -> None:
    ids = [str(n) for n in range(1234)]
    proof = prove(planned_of(ids), *tables(str(tmp_path), ids, []), before=1200)
    assert str(proof) == "images 1,234 = done 1,234 (1,200 from before) + dropped 0 · duplicates 0"


FAILED: dict[str, tuple[list[str], list[str], list[str], str]] = {
    "one is missing": (["a", "b"], ["a"], [], r"done 1 .*missing 1 \(b\)"),
    "one is done twice": (["a"], ["a", "a"], [], "duplicates 1, missing 0"),
    "nothing is there": (["b", "a"], [], [], r"missing 2 \(b, a\)"),
}


@pytest.mark.parametrize(("planned", "done", "dropped", "message"), FAILED.values(), ids=FAILED.keys())
def test_a_proof_that_does_not_hold_says_what_is_wrong(
    tmp_path: Path, planned: list[str], done: list[str], dropped: list[str], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        prove(planned_of(planned), *tables(str(tmp_path), done, dropped))


def test_a_deleted_part_shows_in_the_proof(tmp_path: Path) -> None:
    table, dropped = tables(str(tmp_path), ["a"], [])
    fs, path = open_fs(join(str(tmp_path), "part-0.parquet"))
    fs.rm_file(path)
    with pytest.raises(RunError, match="missing 1"):
        prove(planned_of(["a"]), table, dropped)
