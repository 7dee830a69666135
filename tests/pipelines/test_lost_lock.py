"""Commands that lose their lock, or are told to end, while they work: they stop, say so, and leave no process behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipelines.store.files import read_json, write_json
from tests.support.driver import Driver
from tests.support.patience import PATIENCE_S

FEW = ["data.shapes.train=12", "data.shapes.val=0", "data.shapes.test=0", "data.shapes.size=64", "resources.cpus=2"]
TRAINING = [*FEW, "classifier.crop_size=32", "classifier.batch_size=4", "classifier.epochs=1000"]
PROPOSING = [*FEW, "data.shapes.train=500", "prompts.points_per_side=4", "resources.rows_per_task=1"]
HERE = "resources.here=true"
WORK = {  # verb, recipe, settings, what there is once it works
    "a pass in this process": ("propose", "grid", [*PROPOSING, HERE], "part-*"),
    "a training in this process": ("train-classifier", "small", [*TRAINING, HERE], "checkpoints/*/_scalars.jsonl"),
    "a pass on Ray": ("propose", "grid", [*PROPOSING, "resources.segment_actors=1"], "part-*"),
    "a training on Ray": (
        "train-classifier",
        "small",
        [*TRAINING, "resources.train_workers=2"],
        "checkpoints/*/_scalars.jsonl",
    ),
}
PLACES = [
    pytest.param(name, marks=[pytest.mark.slow] if HERE in WORK[name][2] else [pytest.mark.ray, pytest.mark.long])
    for name in WORK
]
QUICK = "from pipelines.store import lock; lock.HEARTBEAT_S = 0.5\n"


@contextmanager
def at_work(work: str, folder: Path) -> Iterator[tuple[Driver, Path]]:
    """A command that has begun to write, and the folder of its instance; none of its processes is left at the end."""
    verb, recipe, settings, written = WORK[work]
    with Driver(folder / "log", verb, recipe, folder / "run", settings, before=QUICK) as driver:
        driver.wait_until(lambda: list(folder.glob(f"run/{verb}/*/{written}")))
        processes = psutil.Process(driver.pid).children(recursive=True)
        (lock,) = folder.glob(f"run/{verb}/*/_lock")
        yield driver, lock.parent
        _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
        assert alive == []


@pytest.mark.parametrize("work", PLACES)
def test_who_lost_its_lock_stops_working_and_says_so(tmp_path: Path, work: str) -> None:
    with at_work(work, tmp_path) as (driver, instance):
        other = {"host": "elsewhere", "pid": 1, "job": "weaksam of another", "token": "t"}
        write_json(str(instance / "_lock"), other)
        assert driver.wait(PATIENCE_S) == 1
    said = (tmp_path / "log").read_text()
    assert said.splitlines()[-1].startswith(
        f"error: {instance}/_lock: taken over by weaksam of another (host elsewhere, pid 1, seen "
    )
    assert said.endswith(" ago); this process stops writing\n")
    assert "Traceback" not in said
    assert read_json(str(instance / "_lock")) == other
    assert not list((instance / "_sets").glob("*.manifest.json"))


@pytest.mark.parametrize("work", PLACES)
def test_a_termination_releases_the_lock(tmp_path: Path, work: str) -> None:
    with at_work(work, tmp_path) as (driver, instance):
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(PATIENCE_S) == 143
    said = (tmp_path / "log").read_text()
    assert said.endswith("error: interrupted; the same command goes on where this one stopped\n")
    assert "Traceback" not in said
    assert not (instance / "_lock").exists()


@pytest.mark.long
def test_the_lock_of_a_machine_that_was_lost_is_outlasted_by_default(tmp_path: Path) -> None:
    """As when a scheduler restarts a driver elsewhere: nobody tells the second one to wait, or removes anything."""
    short = f"{QUICK}lock.SILENCE_S = 3.0\n"
    lost = "from pipelines.store import sight; sight._processes_of = lambda: {'boot': 'of another host'}\n"
    settings = [*FEW, "data.shapes.train=30", "prompts.points_per_side=4", "resources.rows_per_task=1", HERE]

    def propose(log: str, before: str) -> Driver:
        return Driver(tmp_path / log, "propose", "grid", tmp_path / "run", settings, before)

    with propose("first", short + lost) as driver:
        driver.wait_until(lambda: list(tmp_path.glob("run/propose/*/part-*")))
        driver.kill()
    (lock,) = tmp_path.glob("run/propose/*/_lock")
    with propose("second", short) as driver:
        driver.wait(PATIENCE_S)
    said = (tmp_path / "second").read_text()
    assert driver.returncode == 0, said
    assert "".join(f"taking over {lock} from weaksam propose".split()) in "".join(said.split())  # which are wrapped
    assert "images 30 = done 30 " in said
    assert "duplicates 0" in said
    assert not lock.exists()
