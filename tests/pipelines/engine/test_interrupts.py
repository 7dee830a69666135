from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import weaksam
from pipelines.engine import interrupts
from pipelines.engine.interrupts import Revoked, Stopped, exit_code, in_a_thread, install, kept, revocable
from tests.support.patience import wait_until

ROOT = Path(weaksam.__file__).parents[1]


@pytest.fixture(autouse=True)
def signals_are_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_asked", None)  # and later again
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT is in a job in the background
        signal.signal(signum, signal.default_int_handler)


def ask(signum: int) -> None:
    """Ask this process to stop, and wait for it."""
    os.kill(os.getpid(), signum)
    time.sleep(10)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_unwinds_and_the_second_does_not_disturb_it(
    monkeypatch: pytest.MonkeyPatch, signum: int, code: int
) -> None:
    monkeypatch.setattr(interrupts, "_HURRY_S", 60)
    install(lambda _: None)
    unwound = []

    def work() -> None:
        try:
            ask(signum)
        finally:
            for again in (signal.SIGINT, signal.SIGTERM, signum, signum):
                os.kill(os.getpid(), again)
            unwound.append("whole")

    with pytest.raises(Stopped) as raised:
        work()
    assert unwound == ["whole"]
    assert isinstance(raised.value, KeyboardInterrupt)
    assert exit_code(raised.value) == code


def test_whoever_does_not_end_by_itself_is_ended_once_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_HURRY_S", 0.05)
    ended, codes = threading.Event(), list[int]()
    install(lambda by: (codes.append(exit_code(by)), ended.set()))  # type: ignore[func-returns-value]
    with pytest.raises(Stopped):
        ask(signal.SIGINT)
    assert not ended.wait(0.2)  # one Ctrl-C is patient
    os.kill(os.getpid(), signal.SIGINT)
    assert ended.wait(20)
    assert codes == [130]


def test_a_termination_is_not_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_GRACE_S", 0.05)
    ended = threading.Event()
    install(lambda _: ended.set())
    with pytest.raises(Stopped):
        ask(signal.SIGTERM)
    assert ended.wait(20)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    install(lambda _: None)
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_handler_that_ray_sets_is_taken_back() -> None:
    install(lambda _: None)
    ours = signal.getsignal(signal.SIGTERM)
    with kept():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGTERM) is ours


def test_work_in_a_thread_gives_its_result_or_its_error() -> None:
    assert in_a_thread(lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        in_a_thread(lambda: 1 / 0)


def test_an_interrupt_ends_the_wait_for_a_thread() -> None:
    install(lambda _: None)
    going = threading.Event()

    def work() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        going.wait(60)

    with pytest.raises(Stopped):
        in_a_thread(work)
    going.set()


@pytest.mark.parametrize("in_main", [True, False])
def test_what_is_revoked_ends_wherever_it_waits(in_main: bool) -> None:
    unwound, heard = [], []
    going = threading.Event()

    def work() -> None:
        try:
            with revocable() as revoke:
                threading.Timer(0.1, revoke, ("the lock is gone",)).start()
                try:
                    in_a_thread(lambda: going.wait(60))
                finally:
                    unwound.append("whole")
        except Revoked as error:
            heard.append(str(error))

    if in_main:
        work()
    else:
        in_a_thread(work)
    going.set()
    assert (unwound, heard) == (["whole"], ["the lock is gone"])
    assert exit_code(Revoked("the lock is gone")) == 1


def test_a_revocation_that_comes_too_late_ends_nothing() -> None:
    before = signal.getsignal(signal.SIGURG)
    with revocable() as revoke:
        pass
    revoke("too late")
    time.sleep(0.05)
    assert signal.getsignal(signal.SIGURG) == before


def test_another_interrupt_of_what_could_be_revoked_stays_what_it_is() -> None:
    install(lambda _: None)
    with pytest.raises(Stopped), revocable():
        ask(signal.SIGTERM)


def test_what_is_revoked_and_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_HURRY_S", 0.05)
    ended, said = threading.Event(), list[str]()
    install(lambda by: (said.append(str(by)), ended.set()))  # type: ignore[func-returns-value]
    with pytest.raises(Revoked), revocable() as revoke:  # noqa: PT012
        try:
            revoke("the lock is gone")
            time.sleep(10)
        finally:
            assert ended.wait(20)
    assert said == ["the lock is gone"]


def test_a_command_that_does_not_end_says_its_line_once_and_leaves_no_process_and_no_lock(tmp_path: Path) -> None:
    """Its main thread hangs in an unwinding that takes for ever, as a shutdown may."""
    code = """
import subprocess, sys, time
from pipelines.cli import app as cli
from pipelines.engine import interrupts
from pipelines.store.lock import Lock
interrupts._HURRY_S = 0.1
def hang(*_, **__):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Lock(sys.argv[1], "job").__enter__()
    try:
        print(child.pid, flush=True)
        time.sleep(600)
    finally:
        print("unwinding", flush=True)
        time.sleep(600)
cli.app, cli._extensions = hang, list
cli.main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        child = int(process.stdout.readline())
        assert (tmp_path / "_lock").exists()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "unwinding\n"
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    assert not (tmp_path / "_lock").exists()
    assert err == "error: interrupted; the same command goes on where this one stopped\n"
    wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("error", ["EOFError()", "BrokenPipeError(32, 'a pipe')", "RuntimeError('Ray is gone')"])
def test_whatever_a_verb_ends_with_after_a_signal_it_was_interrupted(error: str) -> None:
    """Libraries wrap an interrupt, or fail because what they talk to was ended with it."""
    code = f"""
import os, signal, time
from pipelines.cli import app as cli
@cli.app.command()
def verb():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    except KeyboardInterrupt:
        raise {error}
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "verb"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr == "error: interrupted; the same command goes on where this one stopped\n"
