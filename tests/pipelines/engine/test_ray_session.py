from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pipelines.engine import interrupts, ray_session
from pipelines.engine.interrupts import Stopped
from pipelines.engine.ray_session import usable_cpus
from pipelines.engine.reach import Reach, reach
from pipelines.engine.voice import SILENT
from pipelines.recipe.config import ResourcesConfig
from tests.support.patience import wait_until
from weaksam.errors import ConfigError, RunError, StorageError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpus_per_actor", 0.7),
        ("cpus", -1),
        ("segment_actors", -1),
        ("rows_per_task", -1),
        ("images_per_pass", -1),
        ("loader_workers", -1),
    ],
)
def test_impossible_resources_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: expected .*, got {value}"):
        ResourcesConfig(**{name: value})  # type: ignore[arg-type]


def test_no_more_cpus_are_used_than_this_process_may_use() -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
    everything = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everything)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, everything)


def test_a_temporary_folder_that_ray_cannot_use_is_told_before_ray_fails_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"temporary folder .*/file.*RAY_TMPDIR.*resources.here"):
        ray_session._start(2, {})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/ray/tmp0")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(StorageError, match="/tmp/ray/tmp0: no space left on this disk"):
        ray_session._check_writable(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("Failed to start the GCS\nserver: the port 6379 is taken"),
        ValueError("cannot reserve 9 CPUs"),
    ],
)
def test_a_ray_that_does_not_start_here_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RunError, match=r"Ray did not start on this machine: .*resources.here=true") as raised:
        ray_session._start(2, {})
    assert "\n" not in str(raised.value)


def test_one_line_of_a_library_is_held_back_and_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    with ray_session._filtered_stderr("max_restarts"):
        os.write(2, b"before\ncore_worker.cc: max_restarts > 0\nafter\n")
    os.write(2, b"max_restarts later\n")
    assert capfd.readouterr().err == "before\nafter\nmax_restarts later\n"


@pytest.mark.parametrize(("error", "asked"), [(KeyboardInterrupt(), False), (RuntimeError("a worker died"), True)])
def test_processes_are_halted_before_an_interrupt_goes_on_and_killed_at_the_end(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, asked: bool
) -> None:
    """Also before one that a library has made an error of its own of."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\nchild.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        family = [psutil.Process(process.pid), psutil.Process(int(process.stdout.readline()))]
        started = {member.pid for member in ray_session._descendants()}
        assert {member.pid for member in family} <= started
        # Not what other tests have started, which would never go on.
        monkeypatch.setattr(ray_session, "_descendants", lambda: family)
        try:
            with pytest.raises(ZeroDivisionError), ray_session.frozen_when_interrupted():
                raise ZeroDivisionError  # no interrupt
            assert [member.status() for member in family].count(psutil.STATUS_STOPPED) == 0
            monkeypatch.setattr(interrupts, "_asked", Stopped(signal.SIGTERM) if asked else None)
            with pytest.raises(KeyboardInterrupt), ray_session.frozen_when_interrupted():
                raise error
            wait_until(lambda: [member.status() for member in family] == [psutil.STATUS_STOPPED] * 2)
        finally:
            ray_session._kill(family)


@pytest.mark.ray
def test_joining_twice_joins_once(ray_cluster: None) -> None:
    import ray

    ray_session.connect(ResourcesConfig(cpus=9), "127.0.0.1:1")
    assert reach(ResourcesConfig(), SILENT) == Reach(cpus=4, gpus=0, least_cpus=4)
    assert reach(ResourcesConfig(cpus=3), SILENT).cpus == 3
    assert reach(ResourcesConfig(cpus=9), SILENT).cpus == 4
    assert ray.data.DataContext.get_current().enable_progress_bars is False
