from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pipelines.engine import ray_session
from pipelines.engine.ray_session import PoolSizes, pool_sizes, usable_cpus
from pipelines.recipe.config import ResourcesConfig
from tests.support.patience import wait_until
from weaksam.errors import ConfigError, RunError, StorageError


def sizes(prompt: int, segment: int, threads: int, gpu_share: float, cpu_share: float, rows: int) -> PoolSizes:
    return PoolSizes(
        prompt_actors=prompt,
        segment_actors=segment,
        threads=threads,
        gpu_share=gpu_share,
        cpu_share=cpu_share,
        rows_per_task=rows,
    )


CHOSEN: dict[str, tuple[dict[str, float], tuple[int, bool, int, float], PoolSizes]] = {
    # recipe; images, with clues, CPUs, GPUs; prompt and segment actors, threads, GPU share, CPU share, rows per task
    "one core": ({}, (100, True, 1, 0), sizes(1, 1, 1, 0, 0.25, 25)),
    "a laptop, grid alone": ({}, (100, False, 2, 0), sizes(0, 2, 1, 0, 0.5, 13)),
    "a laptop with clues": ({}, (100, True, 2, 0), sizes(1, 2, 1, 0, 0.33, 13)),
    "a workstation": ({}, (10_000, True, 16, 0), sizes(8, 16, 1, 0, 0.33, 64)),
    "one GPU": ({}, (10_000, True, 8, 1), sizes(1, 1, 1, 0.5, 0.0, 64)),
    "one GPU, grid alone": ({}, (10_000, False, 8, 1), sizes(0, 1, 1, 1.0, 0.0, 64)),
    "eight GPUs": ({}, (10_000, True, 96, 8), sizes(8, 8, 1, 0.5, 0.0, 64)),
    "a cluster without CPUs": ({}, (10, True, 0, 0), sizes(1, 1, 1, 0, 0.0, 3)),
    "no image": ({}, (0, True, 2, 0), sizes(1, 2, 1, 0, 0.33, 1)),
    "one image": ({}, (1, False, 2, 0), sizes(0, 2, 1, 0, 0.5, 1)),
    "one big actor": ({"segment_actors": 1}, (100, False, 4, 0), sizes(0, 1, 4, 0, 1.0, 25)),
    "all said": (
        {"prompt_actors": 3, "segment_actors": 5, "threads_per_actor": 2, "rows_per_task": 7},
        (100, True, 4, 0),
        sizes(3, 5, 2, 0, 0.25, 7),
    ),
    "a quarter GPU each": ({"gpus_per_actor": 0.25, "segment_actors": 3}, (100, True, 8, 1), sizes(1, 3, 1, 0.25, 0.0, 9)),
}  # fmt: skip


@pytest.mark.parametrize(("given", "cluster_and_work", "expected"), CHOSEN.values(), ids=CHOSEN.keys())
def test_what_a_recipe_leaves_open_is_chosen_for_the_machine(
    given: dict[str, float], cluster_and_work: tuple[int, bool, int, float], expected: PoolSizes
) -> None:
    assert pool_sizes(ResourcesConfig(**given), *cluster_and_work) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 16, 64, 192])
@pytest.mark.parametrize("with_clues", [False, True])
def test_reading_and_writing_tasks_always_find_room_beside_the_actors(cpus: int, with_clues: bool) -> None:
    chosen = pool_sizes(ResourcesConfig(), 1000, with_clues, cpus, 0)
    reserved = (chosen.prompt_actors + chosen.segment_actors) * chosen.cpu_share
    assert chosen.prompt_actors + chosen.segment_actors > 0
    assert reserved <= 0.5 * cpus + 0.005 * (chosen.prompt_actors + chosen.segment_actors)
    assert cpus - reserved >= 0.5  # a task that fetches and one that writes, a quarter each


def test_sizes_are_described_for_people() -> None:
    assert (
        sizes(1, 2, 1, 0, 0.33, 13).describe() == "1 prompt + 2 segment actor(s), 1 thread(s) each, 13 images per task"
    )
    assert sizes(0, 1, 1, 0.5, 0, 64).describe() == "0 prompt + 1 segment actor(s), 0.5 GPU each, 64 images per task"


@pytest.mark.parametrize(
    ("name", "value"), [("gpus_per_actor", 0.7), ("cpus", -1), ("segment_actors", -1), ("rows_per_task", -1)]
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


def test_processes_are_halted_before_an_interrupt_goes_on_and_killed_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
            with pytest.raises(KeyboardInterrupt), ray_session.frozen_when_interrupted():
                raise KeyboardInterrupt
            wait_until(lambda: [member.status() for member in family] == [psutil.STATUS_STOPPED] * 2)
        finally:
            ray_session._kill(family)


@pytest.mark.ray
def test_joining_twice_joins_once(ray_cluster: None) -> None:
    import ray

    ray_session.connect(ResourcesConfig(cpus=9), "127.0.0.1:1")
    assert ray_session.connected_size(ResourcesConfig()) == (4, 0)
    assert ray_session.connected_size(ResourcesConfig(cpus=3)) == (3, 0)
    assert ray_session.connected_size(ResourcesConfig(cpus=9)) == (4, 0)
    assert ray.data.DataContext.get_current().enable_progress_bars is False
