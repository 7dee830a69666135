from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.runs import Instance, Lock
from pipelines.schemas import DROPPED, IMAGES
from pipelines.status import leftovers, remove, run_status
from pipelines.store import Table, write_bytes, write_json
from weaksam.errors import RunError


def instance(run: Path, name: str, key: str, rows: int = 0, drops: int = 0) -> Instance:
    """An instance that has begun and has written some rows."""
    begun = Instance(str(run), name, key)
    begun.begin({"verb": name})
    common = {"split": "train", "uri": ""}
    images = [{"image_id": str(n), **common, "labels": None, "labels_difficult": None} for n in range(rows)]
    lost = [{"image_id": f"x{n}", **common, "stage": name, "reason": "r", "detail": ""} for n in range(drops)]
    begun.table(IMAGES).write_rows(images, "part-0")
    Table(begun.file("_dropped"), DROPPED).write_rows(lost, "part-0")
    return begun


def test_each_instance_is_finished_running_or_interrupted(tmp_path: Path) -> None:
    instance(tmp_path, "index", "aaa").finish({"text": "images 7 (train 7)", "seconds": 1.5})
    running = instance(tmp_path, "propose", "bbb", rows=1200, drops=3)
    instance(tmp_path, "report", "ccc")
    with Lock(running.folder, "weaksam propose"):
        lines = {line.name: line for line in run_status(str(tmp_path))}
    assert [(n, line.key, line.state, line.seconds) for n, line in lines.items()] == [
        ("index", "aaa", "finished", 1.5),
        ("propose", "bbb", "running", None),
        ("report", "ccc", "interrupted", None),
    ]
    assert lines["index"].detail == "images 7 (train 7)"
    assert lines["propose"].detail.startswith("1,200 rows, 3 dropped so far; weaksam propose (host ")
    assert lines["report"].detail == "0 rows, 0 dropped so far"


def test_looking_at_a_run_deletes_nothing_even_if_a_part_is_being_written(tmp_path: Path) -> None:
    begun = instance(tmp_path, "propose", "aaa", rows=2)
    half = Path(begun.file("part-1.parquet"))
    half.write_bytes(b"PAR1 half of it")
    assert run_status(str(tmp_path))[0].detail == "2 rows, 0 dropped so far"
    assert half.exists()


def test_a_rewritten_setting_shows_the_current_key_alone(tmp_path: Path) -> None:
    for key in ("aaa", "bbb"):
        instance(tmp_path, "propose", key)
    assert [line.key for line in run_status(str(tmp_path))] == ["bbb"]


@pytest.mark.parametrize("make", ["nothing", "an empty folder", "a folder of pictures", "a file"])
def test_what_is_no_run_folder_is_refused(tmp_path: Path, make: str) -> None:
    place = tmp_path / "place"
    if make == "a file":
        place.write_text("x")
    elif make != "nothing":
        place.mkdir()
    if make == "a folder of pictures":
        (place / "train").mkdir()
        (place / "train" / "cat.jpg").write_bytes(b"")
    with pytest.raises(RunError, match="expected a run folder"):
        run_status(str(place))
    with pytest.raises(RunError, match="expected a run folder"):
        leftovers(str(place), previews=True)


def test_only_superseded_keys_and_previews_are_left_over(tmp_path: Path) -> None:
    for key in ("aaa", "bbb", "ccc"):
        instance(tmp_path, "propose", key, rows=1)
    instance(tmp_path, "index", "ddd")
    instance(tmp_path / "preview-8", "index", "eee")
    write_bytes(str(tmp_path / "recipe.yaml"), b"name: x\n")
    write_bytes(str(tmp_path / "notes" / "mine.txt"), b"keep\n")
    found = leftovers(str(tmp_path), previews=False)
    assert [(Path(left.uri).relative_to(tmp_path).as_posix(), left.what) for left in found] == [
        ("propose/aaa", "propose: an earlier key"),
        ("propose/bbb", "propose: an earlier key"),
    ]
    assert all(left.size_bytes > 500 for left in found)
    everything = leftovers(str(tmp_path), previews=True)
    assert {Path(left.uri).name for left in everything} == {"aaa", "bbb", "preview-8"}

    for left in everything:
        remove(left)
    assert leftovers(str(tmp_path), previews=True) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "notes", "propose", "recipe.yaml"]
    assert sorted(p.name for p in (tmp_path / "propose").iterdir()) == ["ccc", "current"]


def test_what_a_table_was_measured_on_is_not_left_over(tmp_path: Path) -> None:
    for key in ("aaa", "bbb", "ccc"):
        instance(tmp_path, "train-mil", key)
    rows = [{"instances": {"0": {"train-mil": "aaa"}, "1": {"train-mil": "ccc"}}}, {"instances": {}}]
    write_json(str(tmp_path / "tables" / "table-1.json"), {"rows": rows})
    assert [Path(left.uri).name for left in leftovers(str(tmp_path), previews=True)] == ["bbb"]


def test_an_earlier_key_that_somebody_works_on_is_not_left_over(tmp_path: Path) -> None:
    old, _ = instance(tmp_path, "propose", "aaa"), instance(tmp_path, "propose", "bbb")
    with Lock(old.folder, "weaksam propose"):
        assert leftovers(str(tmp_path), previews=False) == []
    assert len(leftovers(str(tmp_path), previews=False)) == 1
