from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.engine.stage import Options
from pipelines.store import lock as lock_module
from pipelines.store import sight
from pipelines.store.exclusive import create_exclusively
from pipelines.store.files import read_json, write_json
from pipelines.store.lock import Lock, held_lock, lock_holder, release_all
from tests.support.patience import PATIENCE_S, wait_until
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs


@pytest.fixture(params=["disk", "s3", "gs"])
def run_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run folder that does not exist yet."""
    buckets = {"s3": "bucket", "gs": "gcs_bucket"}
    if request.param in buckets:
        return join(request.getfixturevalue(buckets[request.param]), tmp_path.name, "run")
    return str(tmp_path / "run")


class Clock:
    """Stands in for ``time`` in the lock's module: nobody really waits, and the wall clock may be wrong."""

    def __init__(self, wrong_s: float = 0.0) -> None:
        self.passed_s = 0.0
        self.wrong_s = wrong_s
        self.after_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.passed_s

    def time(self) -> float:
        return time.time() + self.wrong_s

    def sleep(self, seconds: float) -> None:
        self.passed_s += seconds
        self.after_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lock_module, "time", clock)
    return clock


def owner(**changes: Any) -> dict[str, Any]:
    """What a process of another host wrote; ``None`` leaves a field out."""
    holder = {
        "host": "elsewhere", "boot": "b", "processes": "p", "pid": 1, "started": 1.0, "job": "other", "beats": 7,
        "token": "t",
    }  # fmt: skip
    return {name: value for name, value in {**holder, **changes}.items() if value is not None}


def mine(**changes: Any) -> dict[str, Any]:
    """What this process wrote, had it a lock."""
    here = {"host": socket.gethostname(), **sight._processes_of(), "pid": os.getpid(), "started": own_start()}
    return owner(**{**here, **changes})


def write_lock(folder: Path | str, holder: Mapping[str, Any], silent_s: float = 0.0, name: str = "_lock") -> str:
    """Write a lock on a disk that was renewed ``silent_s`` ago by the disk's clock."""
    uri = join(str(folder), name)
    write_json(uri, holder)
    renewed = os.stat(uri).st_mtime - silent_s
    os.utime(uri, (renewed, renewed))
    return uri


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def own_start() -> float:
    return psutil.Process().create_time()


def test_a_lock_leaves_nothing_behind(run_uri: str) -> None:
    with Lock(run_uri, "job") as lock:
        lock.check()
        holder = lock_holder(run_uri)
        assert holder is not None
        assert holder.startswith(f"job (host {socket.gethostname()}, pid {os.getpid()}, seen ")
    assert lock_holder(run_uri) is None
    assert read_json(lock.uri) is None


def test_a_lock_says_from_its_next_beat_on_how_far_the_work_is(run_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.05)

    def figures() -> object:
        seen = held_lock(run_uri)
        return None if seen is None else seen.holder["figures"]

    with Lock(run_uri, "job") as lock:
        assert figures() is None
        lock.tell({"done": 1})
        wait_until(lambda: figures() == {"done": 1})
        lock.tell({"done": 2})
        wait_until(lambda: figures() == {"done": 2})
    assert held_lock(run_uri) is None


def test_a_second_holder_is_refused_and_told_who_holds_it(run_uri: str) -> None:
    with Lock(run_uri, "weaksam propose"):
        with pytest.raises(
            RunError, match=rf"_lock is held by weaksam propose \(host .*, pid {os.getpid()}, seen \d+ s"
        ):
            Lock(run_uri, "second").__enter__()
        assert lock_holder(run_uri) is not None  # the refused one has removed nothing
    with Lock(run_uri, "third"):
        pass


def test_a_lock_is_released_when_the_work_fails(run_uri: str) -> None:
    with pytest.raises(ZeroDivisionError), Lock(run_uri, "job"):
        raise ZeroDivisionError
    assert lock_holder(run_uri) is None


LONG = lock_module.SILENCE_S + 1
HOUR = 3600.0
ABANDONED: dict[str, tuple[Mapping[str, Any], float, bool]] = {
    # who holds it, for how long it was silent by the storage's clock, whether it is anybody's
    "an ended process of this machine": (mine(pid=ended_process()), 0, True),
    "a live process of this machine": (mine(), 0, False),
    "a live one of this machine that hangs": (mine(), 1e6, False),
    "a reused pid of this machine": (mine(started=1.0), LONG, True),
    "a live one of this machine whose clock was set": (mine(started=1.0), 0, False),
    "of a container of this host's name, with a pid that is none here": (
        mine(processes="pid:[1]", pid=ended_process()), 0, False,
    ),
    "of a machine of this host's name, with a pid that is none here": (mine(boot="other", pid=ended_process()), 0, False),
    "of a container that is gone, with a pid that lives here": (mine(processes="pid:[1]"), LONG, True),
    "a live one of another host": (owner(), 0, False),
    "one of another host, a little late": (owner(), lock_module.SILENCE_S / 2, False),
    "one of another host, silent for long": (owner(), LONG, True),
    "one of before the storage's clock was set back": (owner(), -HOUR, True),
    "one of an earlier version, whose host's clock is an hour late": (owner(heartbeat=time.time() - HOUR), 0, False),
    "a dead one of an earlier version, whose host's clock was an hour early": (
        owner(heartbeat=time.time() + HOUR), LONG, True,
    ),
    "one with a pid that is none": (mine(pid=-7), LONG, True),
    "one with a pid that is no number": (mine(pid="x"), 0, False),
    "one without particulars": ({}, 0, False),
    "one without particulars for long": ({}, LONG, True),
}  # fmt: skip


@pytest.mark.parametrize("wrong_s", [0, HOUR, -HOUR], ids=["right", "early", "late"])
@pytest.mark.parametrize(("holder", "silent_s", "abandoned"), ABANDONED.values(), ids=ABANDONED.keys())
def test_a_lock_is_taken_over_only_from_the_dead_and_the_silent(
    tmp_path: Path, clock: Clock, holder: Mapping[str, Any], silent_s: float, abandoned: bool, wrong_s: float
) -> None:
    clock.wrong_s = wrong_s
    write_lock(tmp_path, holder, silent_s)
    assert (lock_holder(str(tmp_path)) is None) == abandoned
    if abandoned:
        with Lock(str(tmp_path), "mine") as lock:
            lock.check()
    else:
        with pytest.raises(RunError, match=rf"is held by .*, seen {silent_s:.0f} s ago\)"):
            Lock(str(tmp_path), "mine").__enter__()
    assert clock.passed_s < 30
    assert [path.name for path in tmp_path.iterdir()] == ([] if abandoned else ["_lock"])


@pytest.mark.parametrize("skew_s", [HOUR, -HOUR], ids=["early", "late"])
def test_a_live_owner_whose_host_dates_its_files_is_not_robbed(tmp_path: Path, clock: Clock, skew_s: float) -> None:
    """Some mounts store the writer's time: what looks silent for an hour is watched before it is taken."""
    beats = iter(range(8, 10_000))
    write_lock(tmp_path, owner(), silent_s=skew_s)
    clock.after_sleep = lambda: write_lock(tmp_path, owner(beats=next(beats)), silent_s=skew_s)
    for wait_s in (0.0, 300.0):
        with pytest.raises(RunError, match="is held by other"):
            Lock(str(tmp_path), "mine", wait_s=wait_s).__enter__()
    assert read_json(str(tmp_path / "_lock"))["token"] == "t"


def test_a_silent_lock_that_is_released_while_it_is_watched_is_free(tmp_path: Path, clock: Clock) -> None:
    uri = write_lock(tmp_path, owner(), silent_s=LONG)
    clock.after_sleep = lambda: Path(uri).unlink(missing_ok=True) if "other" in Path(uri).read_text() else None
    with Lock(str(tmp_path), "mine") as lock:
        lock.check()
    assert clock.passed_s < 2


def test_the_default_wait_outlasts_the_lock_of_a_machine_that_was_lost(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = write_lock(tmp_path, owner())
    monkeypatch.setattr(sight.Sight, "silent_s", lambda _: clock.passed_s)
    with Lock(str(tmp_path), "mine", Options().wait_s) as lock:
        lock.check()
    assert lock_module.SILENCE_S < clock.passed_s < lock_module.SILENCE_S + 5  # it was watched while it was waited for
    assert (
        "is held by other (host elsewhere, pid 1, seen 0 s ago); waiting for up to 150 s until it ends or "
        in caplog.text
    )
    assert f"taking over {uri} from other" in caplog.text


def test_one_that_lives_is_waited_for_and_named(tmp_path: Path, clock: Clock) -> None:
    beats = iter(range(8, 10_000))
    write_lock(tmp_path, owner())
    clock.after_sleep = lambda: write_lock(tmp_path, owner(beats=next(beats)))
    with pytest.raises(
        RunError, match=r"is held by other \(host elsewhere, pid 1, seen 0 s ago\); wait for it or stop it"
    ):
        Lock(str(tmp_path), "mine", Options().wait_s).__enter__()
    assert Options().wait_s <= clock.passed_s < Options().wait_s + 5


def test_who_loses_the_lock_is_told_at_once_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    told: list[str] = []
    with Lock(str(tmp_path), "mine", on_lost=told.append) as lock:
        write_json(lock.uri, owner())
        wait_until(lambda: told)
        time.sleep(0.1)
    assert len(told) == 1
    assert told[0].startswith(f"{lock.uri}: taken over by other (host elsewhere, pid 1, seen ")
    assert told[0].endswith("this process stops writing")


def test_a_storage_that_answers_too_late_costs_the_lock_before_others_may_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(lock_module, "SILENCE_S", 0.3)
    answers, told = threading.Event(), list[str]()
    with Lock(str(tmp_path), "mine", on_lost=told.append) as lock:
        monkeypatch.setattr(lock_module, "write_bytes", lambda *_: answers.wait(PATIENCE_S))
        wait_until(lambda: told)
        assert told == [f"{lock.uri}: not renewed for 0.26 s (the storage does not answer); this process stops writing"]
        answers.set()
    assert lock_holder(str(tmp_path)) is None


def test_a_storage_that_refuses_a_lock_and_shows_none_is_given_up(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "create_exclusively", lambda *_: False)
    with pytest.raises(RunError, match=r"_lock: the storage refuses to create it, and shows none"):
        Lock(str(tmp_path), "mine").__enter__()
    assert clock.passed_s < 10


def test_an_interrupt_right_after_the_lock_was_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Lock, _at: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Lock, "_renewed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Lock(str(tmp_path), "mine").__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_without_unwinding_releases_what_it_holds(tmp_path: Path) -> None:
    locks = [Lock(str(tmp_path / name), "mine") for name in ("a", "b", "c")]
    for lock in locks:
        lock.__enter__()
    locks[0].__exit__()
    write_lock(tmp_path / "a", owner())  # of the next one
    release_all()
    assert [path.parent.name for path in tmp_path.glob("*/_lock")] == ["a"]
    for lock in locks[1:]:
        lock.__exit__()  # which is one too many, and harms nobody


def test_a_storage_that_hangs_keeps_no_process_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    with Lock(str(tmp_path), "mine"):
        with monkeypatch.context() as away:
            away.setattr(lock_module, "look", lambda _: answers.wait(PATIENCE_S) and None)
            release_all(patience_s=0.05)
            assert (tmp_path / "_lock").exists()
            answers.set()
        wait_until(lambda: not lock_module._held)


TICKETS: dict[str, tuple[Mapping[str, Any], float, bool]] = {
    # who is about to take the lock of a dead one over, since when, whether that is over
    "one that is about to": (mine(), 0, False),
    "one of another host": (owner(), 0, False),
    "one that was killed meanwhile": (mine(pid=ended_process()), 0, True),
    "one of a lost machine": (owner(), LONG, True),
    "one that hangs": (mine(), LONG, True),
}


@pytest.mark.parametrize(("holder", "silent_s", "over"), TICKETS.values(), ids=TICKETS.keys())
def test_one_at_a_time_takes_an_abandoned_lock_over(
    tmp_path: Path, clock: Clock, holder: Mapping[str, Any], silent_s: float, over: bool
) -> None:
    write_lock(tmp_path, mine(pid=ended_process()))
    ticket = Path(write_lock(tmp_path, holder, silent_s, "_lock-takeover"))
    waited = []

    def let_go() -> None:
        waited.append(ticket.exists())
        ticket.unlink(missing_ok=True)

    clock.after_sleep = let_go
    with Lock(str(tmp_path), "mine") as lock:
        lock.check()
    assert waited == ([] if over else [True])
    assert list(tmp_path.iterdir()) == []


def test_a_lock_tells_its_token(tmp_path: Path) -> None:
    with Lock(str(tmp_path), "mine") as lock:
        assert read_json(lock.uri)["token"] == lock.token
        assert re.fullmatch("[0-9a-f]{32}", lock.token)


def test_a_bucket_s_own_clock_tells_a_live_lock(tmp_path: Path, bucket: str, clock: Clock) -> None:
    folder = join(bucket, tmp_path.name)
    write_json(join(folder, "_lock"), owner(heartbeat=0.0))
    assert re.fullmatch(r"other \(host elsewhere, pid 1, seen [0-5] s ago\)", lock_holder(folder) or "")
    with pytest.raises(RunError, match="is held by other"):
        Lock(folder, "mine").__enter__()
    with open_fs(folder)[0].open(join(folder, "_lock").removeprefix("s3://")) as file:
        assert b"elsewhere" in file.read()


def test_who_may_not_write_cannot_ask_the_storage_and_believes_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock(tmp_path, owner(), silent_s=LONG)

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(type(open_fs(str(tmp_path))[0]), "pipe_file", refuse)
    assert lock_holder(str(tmp_path)) == "other (host elsewhere, pid 1)"


def test_a_folder_in_the_place_of_a_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "_lock").mkdir()
    with pytest.raises(RunError, match=r"_lock: expected a lock, found a folder; remove it"):
        Lock(str(tmp_path), "mine").__enter__()


def test_a_lock_that_cannot_be_released_hides_no_first_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        monkeypatch.setattr(lock_module, "look", _no_answer)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Lock(str(tmp_path), "job"):
        fail()
    assert "_lock: not released (no answer); it is free in 90 s" in caplog.text


def test_a_killed_process_that_nobody_has_reaped_is_dead(tmp_path: Path) -> None:
    zombie = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(zombie.pid).create_time()
    write_lock(tmp_path, mine(pid=zombie.pid, started=started))
    assert lock_holder(str(tmp_path)) is not None
    zombie.kill()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # wait for its end without reaping it
    assert lock_holder(str(tmp_path)) is None
    zombie.communicate()


UNREADABLE = {"empty": b"", "cut": b'{"host": "els', "a list": b"[1]", "not text": b"\xff", "deep": b"[" * 100_000}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_lock_without_content_is_held_while_it_is_young(tmp_path: Path, clock: Clock, content: bytes) -> None:
    lock = tmp_path / "_lock"
    lock.write_bytes(content)
    assert lock_holder(str(tmp_path)) is not None
    with pytest.raises(RunError, match="is held by"):
        Lock(str(tmp_path), "mine").__enter__()
    long_ago = time.time() - lock_module.SILENCE_S - 1
    os.utime(lock, (long_ago, long_ago))
    with Lock(str(tmp_path), "mine"):
        pass


def test_a_holder_that_lost_its_lock_stops_and_leaves_the_other_ones(
    run_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.05)
    with Lock(run_uri, "first") as lock:
        write_json(lock.uri, owner(job="second"))
        with pytest.raises(RunError, match=r"taken over by second \(host elsewhere"):
            check_for(lock, seconds=PATIENCE_S)
    assert read_json(lock.uri)["job"] == "second"


def test_a_storage_that_does_not_answer_for_a_moment_costs_no_lock(
    run_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    with Lock(run_uri, "job") as lock:
        first = read_json(lock.uri)["beats"]
        with monkeypatch.context() as away:
            away.setattr(lock_module, "write_bytes", _no_answer)
            check_for(lock, seconds=0.3)
        wait_until(lambda: read_json(lock.uri)["beats"] != first)
        lock.check()


def test_who_cannot_renew_a_lock_for_long_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(lock_module, "SILENCE_S", 0.2)
    with Lock(str(tmp_path), "job") as lock:
        monkeypatch.setattr(lock_module, "write_bytes", _no_answer)
        with pytest.raises(RunError, match=r"_lock: not renewed for 0\.16 s \(no answer\); this process stops writing"):
            check_for(lock, seconds=PATIENCE_S)


def _no_answer(*_: object) -> None:
    raise OSError("no answer")


def test_a_working_owner_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.02)
    with Lock(str(tmp_path), "job") as lock:
        first = read_json(lock.uri)
        wait_until(lambda: read_json(lock.uri)["beats"] != first["beats"])
        assert {**read_json(lock.uri), "beats": 0} == {**first, "beats": 0}


def test_a_patient_one_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    holder = hold_lock(tmp_path, "time.sleep(0.5)")
    with Lock(str(tmp_path), "patient", wait_s=PATIENCE_S):
        assert holder.wait() == 0


def test_a_killed_owner_leaves_a_lock_that_the_next_one_takes_over(tmp_path: Path) -> None:
    holder = hold_lock(tmp_path, "time.sleep(900)")
    assert lock_holder(str(tmp_path)) is not None
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "_lock").exists()
    with Lock(str(tmp_path), "next") as lock:
        assert read_json(lock.uri)["pid"] == os.getpid()


def check_for(lock: Lock, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lock.check()
        time.sleep(0.02)


def hold_lock(folder: Path, work: str) -> subprocess.Popen[str]:
    """Start a process that holds the lock of ``folder`` while it works; returns once it holds it."""
    code = f"""
import time
from pipelines.store.lock import Lock
with Lock({str(folder)!r}, "child"):
    print("held", flush=True)
    {work}
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


CLAIMANTS = """
import os, sys, time
from pathlib import Path
from pipelines.store.lock import Lock
from weaksam.errors import RunError

folder = Path(sys.argv[1])
start = time.monotonic() + 0.5
for number in range(8):
    if os.fork() == 0:
        time.sleep(max(0, start - time.monotonic()))
        try:
            with Lock(str(folder), "claimant"):
                (folder / f"won-{number}").touch()
                while len(list(folder.glob("refused-*"))) < 7 and time.monotonic() < start + 900:
                    time.sleep(0.01)
        except RunError:
            (folder / f"refused-{number}").touch()
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


@pytest.mark.parametrize("stale", [False, True], ids=["no lock before", "a dead one's lock before"])
def test_of_eight_processes_at_once_exactly_one_gets_the_lock(tmp_path: Path, stale: bool) -> None:
    if stale:
        write_json(str(tmp_path / "_lock"), mine(pid=ended_process()))
    subprocess.run([sys.executable, "-c", CLAIMANTS, str(tmp_path)], check=True, capture_output=True)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["refused"] * 7 + ["won"]


def test_a_lock_released_between_two_looks_is_not_taken_from_the_next_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The claimant's first attempt fails on a lock that is gone when it looks; a third one holds it by then.
    uri = str(tmp_path / "_lock")
    attempts: list[str] = []

    def create(target: str, data: bytes) -> bool:
        attempts.append(target)
        if len(attempts) == 1:
            return False  # was held, and released right afterwards
        write_json(uri, owner(job="third"))
        return create_exclusively(target, data)

    monkeypatch.setattr(lock_module, "create_exclusively", create)
    with pytest.raises(RunError, match="is held by third"):
        Lock(str(tmp_path), "mine").__enter__()
    assert len(attempts) == 2
