"""What `weaksam clean` removes, keeps and puts together; and that no row is lost or seen twice, whenever it is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.engine.clean import plan_cleaning
from pipelines.store import compaction
from pipelines.store.current import CurrentRows
from pipelines.store.files import DamagedFileError, write_bytes, write_json
from pipelines.store.identities import identities
from pipelines.store.instances import SETS, Instance
from pipelines.store.lock import Lock
from pipelines.store.planned import Planned, digest_of, identify, index_rows
from pipelines.store.schemas import IMAGE_ID, IMAGES, INPUT
from pipelines.store.tables import RETIRED_FILE, Table
from tests.support.sets import instance_of
from weaksam.errors import RunError

SCHEMA = pa.schema([IMAGE_ID, INPUT, pa.field("score", pa.int32())])


def index(run: Path, key: str, contents: dict[str, str]) -> None:
    """A finished index of image id -> content."""
    nothing = {"uri": "", "split": "train", "labels": None, "labels_difficult": None}
    rows = [{"image_id": i, "content": content, **nothing} for i, content in contents.items()]
    instance = Instance(str(run), "index", key)
    instance.table(IMAGES).write_rows(rows, "part-0")
    instance.begin({})
    instance.finish({})


def ask(run: Path, index_key: str, key: str = "k") -> Instance:
    """``propose`` asked for all images of an index."""
    images = index_rows(str(run / "index" / index_key))
    rows = identify(images, ("content",))
    planned = Planned(digest=digest_of(rows), index=index_key, columns=("content",))
    instance = Instance(str(run), "propose", key, planned)
    instance.begin({})
    return instance


def write(instance: Instance, part: str, *images: str) -> None:
    """Rows of some of the images that are asked for."""
    planned = instance.planned_rows().to_pylist()
    rows = [{"image_id": r["image_id"], "input": r["input"], "score": ord(r["image_id"])} for r in planned]
    instance.table(SCHEMA).write_rows([row for row in rows if row["image_id"] in images], part)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two nights: "b" was replaced, "c" removed, "d" added. Rows of both lie in five files, "a" twice."""
    run = tmp_path / "run"
    index(run, "one", {"a": "A", "b": "B", "c": "C"})
    first = ask(run, "one")
    write(first, "part-0", "a", "b")
    write(first, "part-1", "c")
    first.finish({"text": "first"})
    index(run, "two", {"a": "A", "b": "B2", "d": "D"})
    second = ask(run, "two")
    write(second, "part-2", "b")
    write(second, "part-3", "d")
    write(second, "part-4", "a")
    second.finish({"text": "second"})
    return run


def table_of(run: Path) -> Table:
    return Table(str(run / "propose" / "k"), SCHEMA)


def seen(run: Path) -> list[tuple[str, int]]:
    """What readers see of the second night."""
    rows = CurrentRows(table_of(run), ask(run, "two").planned_rows()).iter_rows()
    return sorted((row["image_id"], row["score"]) for row in rows)


SEEN = [("a", 97), ("b", 98), ("d", 100)]


def clean(run: Path, **options: Any) -> list[str]:
    found = plan_cleaning(str(run), **{"previews": False, **options})
    said = [*(left.what for left in found.leftovers), *(str(table).partition("  ")[2] for table in found.tables)]
    found.carry_out()
    return said


def test_superseded_rows_go_and_small_files_become_one(run: Path) -> None:
    assert clean(run) == [
        "index: an earlier key",
        "2 superseded rows, 1 rows that are there twice, 5 of 5 files become fewer",
    ]
    assert seen(run) == SEEN
    assert len(table_of(run).parts()) == 1
    assert identities(table_of(run)).num_rows == 3
    assert clean(run) == []


def test_an_index_that_is_kept_keeps_its_rows(run: Path) -> None:
    assert clean(run, keep_days=1.0) == ["1 rows that are there twice, 5 of 5 files become fewer"]
    assert identities(table_of(run)).num_rows == 5
    for folder in ("one", "two"):
        for file in (run / "index" / folder / SETS).iterdir():
            os.utime(file, (time.time() - 90_000,) * 2)
    assert clean(run, keep_days=1.0)[0] == "index: an earlier key"
    assert seen(run) == SEEN


def test_a_preview_keeps_what_it_shows_until_it_is_removed_itself(run: Path) -> None:
    first = ask(run, "one")
    replace(first, run_uri=f"{run}/preview-3").make_current()
    ask(run, "two")
    assert "index: an earlier key" not in clean(run)
    assert identities(table_of(run)).num_rows == 5
    assert clean(run, previews=True)[:2] == ["a preview", "index: an earlier key"]
    assert (seen(run), identities(table_of(run)).num_rows) == (SEEN, 3)


def test_earlier_keys_go_unless_a_table_was_measured_on_them(run: Path) -> None:
    for key in ("old", "older", "new"):
        instance_of(str(run), "train-mil", key, index="two").begin({})
    write_json(str(run / "tables" / "t.json"), {"rows": [{"instances": {"0": {"train-mil": "older"}}}]})
    write_bytes(str(run / "notes" / "mine.txt"), b"keep\n")
    left = plan_cleaning(str(run), previews=False).leftovers
    assert [Path(leftover.uri).name for leftover in left] == ["one", "old"]
    assert all(leftover.size_bytes > 50 for leftover in left)
    write_bytes(str(run / "tables" / "t.json"), b"[]")
    with pytest.raises(DamagedFileError):
        plan_cleaning(str(run), previews=False)


def test_nothing_is_cleaned_beside_a_working_driver(run: Path) -> None:
    with (
        Lock(str(run / "propose" / "k"), "weaksam propose"),
        pytest.raises(RunError, match=r"weaksam propose .* at work"),
    ):
        plan_cleaning(str(run), previews=False)


def test_a_reader_that_listed_the_table_before_reads_on(run: Path) -> None:
    reader = iter(CurrentRows(table_of(run), ask(run, "two").planned_rows()).iter_parts())
    first = next(reader)
    clean(run)
    assert sum(part.num_rows for part in [first, *reader]) == 3


def test_replaced_files_are_deleted_once_nobody_reads_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean(run)
    folder = run / "propose" / "k"
    assert len(list(folder.glob("part-*.parquet"))) == 6
    assert clean(run) == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * compaction.GRACE_S)
    assert clean(run) == ["5 files that were replaced are deleted"]
    assert (len(list(folder.glob("part-*.parquet"))), (folder / RETIRED_FILE).exists()) == (1, False)
    assert seen(run) == SEEN


def test_what_a_run_has_finished_since_the_plan_was_made_is_kept(run: Path) -> None:
    old = instance_of(str(run), "train-mil", "old", index="two")
    old.begin({})
    instance_of(str(run), "train-mil", "new", index="two").begin({})
    found = plan_cleaning(str(run), previews=False)
    index(run, "three", {"a": "A", "c": "C", "b": "B2", "e": "E"})  # the removed one is back, and another is new
    third = ask(run, "three")
    write(third, "part-5", "e")
    third.finish({"text": "third"})
    old.finish({"text": "used again"})
    found.carry_out()
    assert Path(old.folder).exists()
    rows = CurrentRows(table_of(run), third.planned_rows()).iter_rows()
    assert sorted(row["image_id"] for row in rows) == ["a", "b", "c", "e"]


def test_the_index_that_a_training_has_learnt_from_is_kept(run: Path) -> None:
    def training(index_key: str) -> Instance:
        return replace(ask(run, index_key), name="train-mil")

    training("one").begin({})
    training("one").finish({"text": "steps 2"})
    with Lock(training("two").folder, "weaksam train-mil"):
        said = training("two").stand_for(training("one"))
    assert said["text"] == "steps 2 · trained on 1 of 3 images; --train-again learns from all"
    assert "index: an earlier key" not in clean(run)
    index(run, "three", {"a": "A", "c": "C"})
    assert training("three").stand_for(training("two"))["text"].startswith("steps 2 · trained on 2 of 2 images")


class Killed(BaseException):
    pass


KILLED_AT: dict[str, tuple[Any, str]] = {
    "before the new file": (Table, "write_part"),
    "before the old ones are retired": (compaction, "_retire"),
    "before the list is written": (compaction.identities, "keep"),
}


@pytest.mark.parametrize(("where", "what"), KILLED_AT.values(), ids=KILLED_AT.keys())
def test_a_cleaner_that_is_killed_loses_and_doubles_nothing(run: Path, where: Any, what: str) -> None:
    def die(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, what, die)
        with pytest.raises(Killed):
            clean(run)
    assert seen(run) == SEEN
    clean(run)
    assert (seen(run), identities(table_of(run)).num_rows, len(table_of(run).parts())) == (SEEN, 3, 1)


@pytest.mark.parametrize(
    "break_it", [lambda f: f.write_bytes(b"{"), lambda f: f.write_bytes(b"[]")], ids=["cut", "list"]
)
def test_a_damaged_list_of_replaced_files_is_named(run: Path, break_it: Callable[[Path], object]) -> None:
    clean(run)
    break_it(run / "propose" / "k" / RETIRED_FILE)
    with pytest.raises(DamagedFileError, match=RETIRED_FILE):
        table_of(run).parts()
