"""Whole commands when the world outside fails: one line, its exit code, nothing lost, nothing left behind."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import weaksam
from pipelines.cli import app as cli
from pipelines.dataflow.lost_rows import errors_of_tasks, first_of_our_code
from pipelines.dataflow.rows import guarded
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.store import files as store
from pipelines.store.instances import Instance
from pipelines.store.schemas import PROPOSALS
from pipelines.store.tables import Table
from tests.support.driver import Driver
from tests.support.listening import HTTP, free_port, server
from tests.support.patience import PATIENCE_S
from weaksam.errors import StorageError

ROOT = Path(weaksam.__file__).parents[1]
FULL = OSError(errno.ENOSPC, "No space left on device")
SETTINGS = [
    "data.shapes.train=4", "data.shapes.val=0", "data.shapes.test=0", "data.shapes.size=48", "prompts.points_per_side=2",
    "resources.here=true", "resources.rows_per_task=1",
]  # fmt: skip
SET = [argument for setting in SETTINGS for argument in ("--set", setting)]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``weaksam`` in this process; returns exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weaksam", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def is_one_line(err: str, *parts: str) -> bool:
    return err.startswith("error: ") and err.count("\n") == 1 and all(part in err for part in parts)


@pytest.mark.parametrize("verb", ["run", "index", "report", "demo"])
def test_a_file_in_the_place_of_the_run_is_refused(tmp_path: Path, command: Any, verb: str) -> None:
    (tmp_path / "out").write_text("mine")
    recipe = [] if verb == "demo" else ["grid", "--data", "shapes:", *SET]
    for out in (tmp_path / "out", tmp_path / "out" / "run"):
        code, _, err = command(verb, *recipe, "--out", out)
        assert code == 1
        assert is_one_line(err, f"--out: {tmp_path / 'out'} is a file; name a folder")
    assert (tmp_path / "out").read_text() == "mine"


def test_links_in_the_place_of_the_run_are_refused(tmp_path: Path, command: Any) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    code, _, err = command("index", "grid", "--data", "shapes:", "--out", tmp_path / "a" / "run", *SET)
    assert code == 1
    assert is_one_line(err, f"--out: {tmp_path / 'a'} is a link that leads nowhere; name a folder")
    for verb in (["export", tmp_path / "a", "--as", "coco", "--split", "x", "--out", "y"], ["status", tmp_path / "a"]):
        code, _, err = command(*verb)
        assert code == 1
        assert is_one_line(err, str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_a_run_that_cannot_be_begun_says_why(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, number: int, part: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the run is to be in runs/ here
    monkeypatch.setattr(os, "makedirs", raising(OSError(number, os.strerror(number), str(tmp_path / "runs"))))
    code, _, err = command("index", "grid", "--data", "shapes:", *SET)
    assert code == 1
    assert is_one_line(err, f"{tmp_path / 'runs'}: ", part)


@pytest.mark.slow
def test_a_disk_that_fills_up_on_the_way_costs_no_image(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = list[str](), Table.write_part

    def write_two(table: Table, rows: Any, name: str) -> None:
        if table.schema.names == PROPOSALS.names:
            if len(written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device", f"{table.folder}/{name}.parquet")
            written.append(name)
        write(table, rows, name)

    arguments = ["propose", "grid", "--data", "shapes:", "--out", tmp_path / "run", *SET]
    with monkeypatch.context() as patched:
        patched.setattr(Table, "write_part", write_two)
        code, _, err = command(*arguments)
    assert code == 1
    assert is_one_line(err, str(tmp_path / "run" / "propose"), "no space left", "run the same command again")
    assert not list(tmp_path.glob("run/propose/*/_lock"))
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert "2 of 4 images to do" in out
    assert "images 4 = done 4 (2 from before) + dropped 0" in out


def test_an_image_is_not_dropped_for_a_full_disk() -> None:
    row = {"image_id": "a", "reason": None}
    with pytest.raises(OSError, match="No space left"):
        guarded(raising(FULL), row, ())
    assert guarded(raising(KeyError("x")), row, ())["reason"] == "internal error"


def test_what_ray_data_goes_on_after_stops_the_stage_where_the_disk_is_full() -> None:
    log = logging.getLogger("ray.data.execution")

    def work() -> None:
        with errors_of_tasks("/run/propose"):
            log.error("a task failed", exc_info=KeyError("x"))
            log.error("another one", exc_info=FULL)
            raise ValueError("Parquet magic bytes not found in footer")  # what follows

    with pytest.raises(StorageError, match=r"/run/propose: no space left"):
        work()
    with errors_of_tasks("/run/propose") as errors:
        log.error("a task failed", exc_info=KeyError("x"))
    assert isinstance(first_of_our_code(errors), KeyError)
    assert first_of_our_code([]) is None


def test_only_the_death_of_a_process_makes_an_image_a_dropped_one() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError, UserCodeException, WorkerCrashedError

    assert first_of_our_code([ActorDiedError(), WorkerCrashedError()]) is None
    ours = UserCodeException("in our code")
    assert first_of_our_code([WorkerCrashedError(), ours]) is ours
    told = first_of_our_code([RayTaskError("write", "", PermissionError(errno.EACCES, "", "/x"))])
    assert isinstance(told, StorageError)
    assert str(told).startswith("/x: permission denied")


def test_a_table_stops_where_the_disk_is_full(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.variants import run as tables

    monkeypatch.setattr(tables.Run, "bring", raising(OSError(errno.ENOSPC, "", "/runs/x")))
    code, out, err = command("table", "1", "shapes", "--out", tmp_path)
    assert code == 1
    assert is_one_line(err, "/runs/x: no space left")
    assert out.count("cell ") == 1


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265", "127.0.0.1"])
def test_an_address_that_is_none_of_a_cluster_is_one_line(tmp_path: Path, command: Any, address: str) -> None:
    here = [word for word in SET if word not in ("--set", "resources.here=true")]
    arguments = [argument for setting in here for argument in ("--set", setting)]
    code, _, err = command("propose", "grid", "--data", "shapes:", "--out", tmp_path, "--address", address, *arguments)
    assert code == 1
    assert is_one_line(err, "expected HOST:PORT", address)


def test_a_cluster_that_is_gone_is_one_line_at_once(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [word for word in SET if word not in ("--set", "resources.here=true")]
    arguments = [argument for setting in here for argument in ("--set", setting)]
    with server(HTTP) as other:
        for address in (f"127.0.0.1:{free_port()}", other):
            monkeypatch.setenv("RAY_ADDRESS", address)
            code, _, err = command("propose", "grid", "--data", "shapes:", "--out", tmp_path, *arguments)
            assert code == 1
            assert is_one_line(err, f"no Ray cluster answers at '{address}'")


def test_what_is_no_utf8_and_a_folder_that_is_gone_are_told(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command("index", "grid", "--data", "photos\udcff", "--out", tmp_path)
    assert code == 1
    assert is_one_line(err, r"'photos\udcff'", "UTF-8")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, err = command("recipes")
    assert code == 1
    assert is_one_line(err, "the working directory is gone")


@pytest.mark.slow
def test_a_reader_of_one_line_ends_a_listing_quietly_and_no_work(tmp_path: Path) -> None:
    """As ``weaksam recipes | head -1`` and ``weaksam index … | head -1`` do."""
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads at all
    index = ["index", "grid", "--data", "shapes:", "--out", str(tmp_path / "run"), *SET]
    for arguments, code, said in ((["recipes"], 141, 0), (["run", "--help"], 141, 0), (index, 0, 1)):
        done = subprocess.run(
            [sys.executable, "-c", "from pipelines.cli.app import main; main()", *arguments],
            cwd=ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (code, said), done.stderr
    os.close(writing)
    assert list(tmp_path.glob("run/index/*/_sets/*.manifest.json"))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("signum", "code", "times"),
    [
        (signal.SIGINT, 130, 1),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 143, 2, marks=pytest.mark.long),
    ],
)
def test_signals_while_ray_works_leave_one_line_and_nothing_else(
    tmp_path: Path, signum: int, code: int, times: int
) -> None:
    # More images than are done before the signals come, however fast the machine.
    settings = [*SETTINGS[:5], "data.shapes.train=120", "resources.cpus=2", "resources.rows_per_task=1"]
    instance: Instance = Run(load_recipe("grid", settings, "shapes:")[0], str(tmp_path / "run")).instance("propose")
    with Driver(tmp_path / "log", "propose", "grid", tmp_path / "run", settings) as driver:
        driver.wait_until(lambda: instance.table(PROPOSALS).parts())
        started = psutil.Process(driver.pid).children(recursive=True)
        for _ in range(times):
            driver.send_signal(signum)
        assert driver.wait(timeout=PATIENCE_S) == code
    _, alive = psutil.wait_procs(started, timeout=PATIENCE_S)
    assert alive == []
    said = (tmp_path / "log").read_text()
    assert said.endswith("\nerror: interrupted; the same command goes on where this one stopped\n")
    assert "Traceback" not in said
    assert store.read_json(instance.file("_lock")) is None
