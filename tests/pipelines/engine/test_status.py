from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest

from pipelines.engine.clean import plan_cleaning
from pipelines.engine.figures import Figures, Unit
from pipelines.engine.status import instances_in_order, run_dropped, run_status, status_json
from pipelines.engine.voice import Waiting
from pipelines.store import lock
from pipelines.store.files import write_bytes
from pipelines.store.instances import Instance
from pipelines.store.lock import Lock
from pipelines.store.schemas import DROPPED, IMAGE_ID, INPUT
from pipelines.store.tables import Table
from tests.support.patience import wait_until
from tests.support.sets import FROM_NOTHING, instance_of, write_images
from weaksam.errors import RunError


def instance(run: Path, name: str, key: str, rows: int = 0, drops: int = 0) -> Instance:
    """An instance that has begun and has written some rows."""
    write_images(str(run), {"train": [*map(str, range(1200)), *(f"x{n}" for n in range(7))]}, "k")
    begun = instance_of(str(run), name, key)
    begun.begin({"verb": name})
    done = [{"image_id": str(n), "input": FROM_NOTHING} for n in range(rows)]
    common = {"input": FROM_NOTHING, "uri": "", "stage": name, "reason": "r", "detail": ""}
    begun.table(pa.schema([IMAGE_ID, INPUT])).write_rows(done, "part-0")
    Table(begun.file("_dropped"), DROPPED).write_rows([{"image_id": f"x{n}", **common} for n in range(drops)], "part-0")
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


def read_by(run: Path, name: str, *reads: str) -> None:
    """An instance that has begun to read others."""
    instance_of(str(run), name).begin({"reads": dict.fromkeys(reads, "k")})


def test_instances_come_in_the_recipes_order_each_after_what_it_reads(tmp_path: Path) -> None:
    for name in ("import.ss", "index", "tidy-up"):
        read_by(tmp_path, name)
    read_by(tmp_path, "propose", "index")
    read_by(tmp_path, "evaluate.proposals", "propose")
    read_by(tmp_path, "evaluate.ss", "import.ss")
    read_by(tmp_path, "report", "index", "propose", "evaluate.ss", "evaluate.proposals")
    by_reading = ["import.ss", "evaluate.ss", "index", "propose", "evaluate.proposals", "report", "tidy-up"]
    without_recipe = [instance.name for instance in instances_in_order(str(tmp_path))]
    assert without_recipe == ["index", "propose", "evaluate.proposals", *by_reading[:2], "report", "tidy-up"]
    recipe = "name: x\nstages: [index, propose, evaluate.ss: {of: import.ss}, evaluate.proposals, report]\n"
    write_bytes(str(tmp_path / "recipe.yaml"), recipe.encode())
    expected = ["index", "propose", "import.ss", "evaluate.ss", "evaluate.proposals", "report", "tidy-up"]
    assert [line.name for line in run_status(str(tmp_path))] == expected
    write_bytes(str(tmp_path / "recipe.yaml"), b"stages: [of, another, version]\n")
    assert [instance.name for instance in instances_in_order(str(tmp_path))] == without_recipe


def test_reasons_of_finished_and_unfinished_instances_are_told(tmp_path: Path) -> None:
    instance(tmp_path, "propose", "aaa", rows=3, drops=2).finish({"text": "done"})
    instance(tmp_path, "detect.mil", "bbb", drops=1)
    instance(tmp_path, "detect.mil", "old", drops=7)
    instance_of(str(tmp_path), "detect.mil", "bbb").make_current()
    assert [(r.instance, str(r)) for r in run_dropped(str(tmp_path))] == [
        ("detect.mil", "r 1 (such as x0)"), ("propose", "r 2 (such as x0)"),
    ]  # fmt: skip
    lines = {line.name: line for line in run_status(str(tmp_path))}
    assert [str(reason) for reason in lines["propose"].dropped] == ["r 2 (such as x0)"]
    assert lines["detect.mil"].detail == "0 rows, 1 dropped so far"


SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": [
            "name", "key", "state", "detail", "seconds", "unit", "done", "planned", "images_per_s", "loss", "waiting_for",
            "updated", "dropped",
        ],
        "properties": {
            "name": {"type": "string", "pattern": r"^[a-z-]+(\.\S+)?$"},
            "key": {"type": "string", "minLength": 1},
            "state": {"enum": ["finished", "running", "interrupted"]},
            "detail": {"type": "string"},
            "seconds": {"type": ["number", "null"], "minimum": 0},
            "unit": {"enum": ["images", "steps", None]},
            "done": {"type": ["integer", "null"], "minimum": 0},
            "planned": {"type": ["integer", "null"], "minimum": 0},
            "images_per_s": {"type": ["number", "null"], "minimum": 0},
            "loss": {"type": ["number", "null"]},
            "waiting_for": {
                "type": ["object", "null"],
                "additionalProperties": False,
                "required": ["what", "seconds", "details"],
                "properties": {
                    "what": {"type": "string", "minLength": 1},
                    "seconds": {"type": "number", "minimum": 0},
                    "details": {"type": "string"},
                },
            },
            "updated": {"type": ["string", "null"], "format": "date-time"},
            "dropped": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["reason", "images"],
                    "properties": {
                        "reason": {"type": "string", "minLength": 1},
                        "images": {"type": "integer", "minimum": 1},
                    },
                },
            },
        },
    },
}  # fmt: skip
NOTHING = {
    "unit": None, "done": None, "planned": None, "images_per_s": None, "loss": None, "waiting_for": None, "updated": None,
}  # fmt: skip
AT = "2026-11-28T02:10:00+00:00"


def as_program(run_uri: str | Path) -> dict[str, dict[str, Any]]:
    """What a program reads of each instance, by name; of the shape that is promised."""
    rows = json.loads(status_json(run_status(str(run_uri))))
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(rows)
    return {row["name"]: row for row in rows}


def test_a_program_reads_what_finished_stages_came_to(tmp_path: Path) -> None:
    instance(tmp_path, "index", "aaa").finish({"text": "images 1,207"})
    images = {"images": 5, "done": 3, "dropped": 2, "before": 0, "duplicates": 0}
    rows = instance(tmp_path, "propose", "bbb", rows=3, drops=2)
    rate = {"images_per_s": 4.5, "seconds": 0.7, "images": 3}
    rows.finish({"text": "images 5 = …", "seconds": 1.5, "finished": AT, "images": images, "throughput": rate})
    steps = {"planned": 90, "done": 90, "resumed_at": 45}
    instance(tmp_path, "train-mil", "ccc").finish({"text": "steps …", "images": images, "steps": steps})
    read = as_program(tmp_path)
    assert read["index"] == {
        "name": "index", "key": "aaa", "state": "finished", "detail": "images 1,207", "seconds": None, **NOTHING,
        "dropped": [],
    }  # fmt: skip
    assert read["propose"] == {
        "name": "propose", "key": "bbb", "state": "finished", "detail": "images 5 = …", "seconds": 1.5, **NOTHING,
        "unit": "images", "done": 3, "planned": 5, "images_per_s": 4.5, "updated": AT,
        "dropped": [{"reason": "r", "images": 2}],
    }  # fmt: skip
    assert {name: read["train-mil"][name] for name in ("unit", "done", "planned")} == {
        "unit": "steps", "done": 90, "planned": 90,
    }  # fmt: skip


def test_a_program_reads_how_far_a_running_stage_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.02)
    running = instance(tmp_path, "propose", "aaa", rows=4, drops=3)
    waiting = Waiting(what="workers", seconds=31.0, details="1 node(s); Ray: nothing pending")
    told = Figures(unit=Unit.IMAGES, done=3, planned=9, images_per_s=0.4, waiting_for=waiting, updated=AT)
    with Lock(running.folder, "weaksam propose") as held:
        read = as_program(tmp_path)["propose"]  # before anything was told: counted from its files
        assert (read["unit"], read["done"], read["planned"], read["updated"]) == ("images", 4, 1207, None)
        held.tell(told.to_plain())
        wait_until(lambda: as_program(tmp_path)["propose"]["updated"] == AT)
        read = as_program(tmp_path)["propose"]
    detail = read.pop("detail")
    assert detail.startswith("4 rows, 3 dropped so far; waiting for workers, 31 s; weaksam propose (host ")
    assert read == {
        "name": "propose", "key": "aaa", "state": "running", "seconds": None, **NOTHING,
        "unit": "images", "done": 3, "planned": 9, "images_per_s": 0.4, "updated": AT,
        "waiting_for": {"what": "workers", "seconds": 31.0, "details": "1 node(s); Ray: nothing pending"},
        "dropped": [{"reason": "r", "images": 3}],
    }  # fmt: skip


def test_of_a_running_training_the_steps_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.02)
    with Lock(instance(tmp_path, "train-mil", "aaa").folder, "weaksam train-mil") as held:
        held.tell(Figures(unit=Unit.STEPS, done=1200, planned=178600, loss=0.5).to_plain())
        wait_until(lambda: as_program(tmp_path)["train-mil"]["unit"] == "steps")
        assert run_status(str(tmp_path))[0].detail.startswith("1,200 of 178,600 steps; weaksam train-mil (host ")


def test_a_program_reads_how_far_an_interrupted_stage_came(tmp_path: Path) -> None:
    rows = instance(tmp_path, "propose", "aaa", rows=3)
    old = [{"image_id": "0", "input": "of a picture that was replaced"}]
    rows.table(pa.schema([IMAGE_ID, INPUT])).write_rows(old, "part-1")
    instance(tmp_path, "train-mil", "bbb")
    read = as_program(tmp_path)
    assert {name: read["propose"][name] for name in ("state", *NOTHING)} == {
        "state": "interrupted", **NOTHING, "unit": "images", "done": 3, "planned": 1207,
    }  # fmt: skip
    assert {name: read["train-mil"][name] for name in ("state", *NOTHING)} == {"state": "interrupted", **NOTHING}


def test_a_folder_of_previews_names_them(tmp_path: Path) -> None:
    instance(tmp_path / "preview-4", "index", "k")
    with pytest.raises(RunError, match=f"runs of their own: {tmp_path}/preview-4"):
        run_status(str(tmp_path))


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
        plan_cleaning(str(place), previews=True)
