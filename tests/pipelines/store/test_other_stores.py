"""Locks in stores that answer in words of their own, ignore what is asked, or lie behind a network that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pipelines.cli import storage_checks
from pipelines.store import lock as lock_module
from pipelines.store.exclusive import create_exclusively, is_exclusive, remove_if
from pipelines.store.files import write_bytes
from pipelines.store.lock import Lock
from pipelines.store.sight import this_process
from tests.support.patience import PATIENCE_S
from tests.support.s3_proxy import (
    Exchange,
    Trick,
    answers_409,
    answers_a_plain_412,
    fails_and_breaks_off,
    ignores_conditions,
    s3_proxy,
)
from tests.support.s3_server import s3_server
from weaksam.errors import RunError, StorageError
from weaksam.io.files import join, open_fs, read_bytes


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with s3_server("runs"):
        yield os.environ["AWS_ENDPOINT_URL"]


@pytest.fixture
def behind(upstream: str) -> Iterator[Callable[[Trick], str]]:
    """Puts a proxy before the server for the rest of the test; returns an empty folder behind it."""
    with ExitStack() as proxies:

        def put(trick: Trick) -> str:
            address = proxies.enter_context(s3_proxy(upstream, trick))
            return f"s3://runs/{address.rpartition(':')[2]}"

        yield put


TRICKS: dict[str, Trick] = {
    "AWS's answers": lambda _: None,
    "409": answers_409,
    "a plain 412": answers_a_plain_412,
    "failures": fails_and_breaks_off,
}


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
def test_a_file_is_created_once_whatever_a_store_calls_it(behind: Callable[[Trick], str], trick: Trick) -> None:
    folder = behind(trick)
    for number in range(8 if trick is fails_and_breaks_off else 1):  # each kind of failure hits each kind of request
        uri = join(folder, f"_lock-{number}")
        assert create_exclusively(uri, b"first")
        assert not create_exclusively(uri, b"second")
        assert create_exclusively(uri, b"first")  # as a client finds that tries again
    assert is_exclusive(join(folder, "_lock"))
    assert [name for name in names_in(folder) if not name.startswith("_lock-")] == []


@pytest.mark.parametrize("lost", [-1, 503], ids=["never answered", "answered by a proxy's failure"])
def test_a_removal_whose_answer_is_lost_leaves_what_another_created_meanwhile(
    behind: Callable[[Trick], str], upstream: str, lost: int
) -> None:
    asked = []

    def lose_the_first(exchange: Exchange) -> None:
        if exchange.method != "DELETE" or not exchange.status:
            return
        asked.append(exchange.method)
        if len(asked) == 1:
            address = f"{upstream}/{uri.removeprefix('s3://')}"
            put = urllib.request.Request(address, b"another's", {"Content-Type": "image/png"}, method="PUT")
            urllib.request.urlopen(put).close()
            if lost == -1:
                exchange.sent = lost
            else:
                exchange.answer(lost, "SlowDown")

    uri = join(behind(lose_the_first), "_lock")
    write_bytes(uri, b"mine")
    remove_if(uri, lambda: read_bytes(uri) == b"mine")
    assert read_bytes(uri) == b"another's"
    assert len(asked) > 1  # by the client itself
    remove_if(uri, lambda: True)
    remove_if(uri, lambda: True)  # there is none
    assert names_in(uri.rpartition("/")[0]) == []


def test_a_store_that_does_not_know_a_condition_is_asked_without(behind: Callable[[Trick], str]) -> None:
    def knows_no_condition(exchange: Exchange) -> None:
        if exchange.method == "DELETE" and exchange.status == 0 and "If-Match" in exchange.headers:
            exchange.answer(501, "NotImplemented")

    uri = join(behind(knows_no_condition), "_lock")
    write_bytes(uri, b"mine")
    remove_if(uri, lambda: False)
    assert read_bytes(uri) == b"mine"
    remove_if(uri, lambda: True)
    assert names_in(uri.rpartition("/")[0]) == []


def together_under_the_lock(folder: str, names: str) -> list[int]:
    """Let each of several write a part under the lock of a folder; return how many were at work when each of them did."""
    inside, at_work = list[str](), list[int]()

    def work(name: str) -> None:
        with Lock(folder, name, wait_s=PATIENCE_S) as lock:
            inside.append(name)
            write_bytes(join(folder, f"part-{name}.parquet"), b"rows")
            at_work.append(len(inside))
            time.sleep(0.3)
            lock.check()
            inside.remove(name)

    in_threads(work, list(names))
    return at_work


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
def test_of_three_at_once_one_works_at_a_time(
    behind: Callable[[Trick], str], trick: Trick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.1)
    folder = behind(trick)
    assert together_under_the_lock(folder, "abc") == [1, 1, 1]
    assert names_in(folder) == ["part-a.parquet", "part-b.parquet", "part-c.parquet"]


def test_of_three_that_find_an_abandoned_lock_one_takes_it(
    behind: Callable[[Trick], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.1)
    folder = behind(fails_and_breaks_off)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    create_exclusively(join(folder, "_lock"), json.dumps({**this_process(), "pid": ended.pid, "token": "t"}).encode())
    assert together_under_the_lock(folder, "abc") == [1, 1, 1]
    assert names_in(folder) == ["part-a.parquet", "part-b.parquet", "part-c.parquet"]


def test_a_store_that_ignores_conditions_is_refused_unless_allowed(
    behind: Callable[[Trick], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = behind(ignores_conditions)
    with pytest.raises(StorageError, match=r"_lock: this store lets two processes create one file .*UNSAFE_STORE=1"):
        Lock(folder, "job").__enter__()
    assert names_in(folder) == []
    monkeypatch.setenv("WEAKSAM_ALLOW_UNSAFE_STORE", "1")
    monkeypatch.setattr(lock_module, "_SETTLE_S", 0.3)
    with Lock(folder, "first"):
        assert "no two commands work on one run folder" in caplog.text
        with pytest.raises(RunError, match="is held by first"):
            Lock(folder, "second").__enter__()


def test_of_two_that_both_created_a_lock_one_waits_for_the_other(
    behind: Callable[[Trick], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAKSAM_ALLOW_UNSAFE_STORE", "1")
    monkeypatch.setattr(lock_module, "_SETTLE_S", 0.0)
    folder = behind(ignores_conditions)
    assert not is_exclusive(join(folder, "_lock"))
    both, met = threading.Barrier(2), set[int]()

    def create_together(uri: str, data: bytes) -> bool:
        if threading.get_ident() in met:
            return create_exclusively(uri, data)
        met.add(threading.get_ident())
        both.wait(PATIENCE_S)  # until neither sees a lock
        created = create_exclusively(uri, data)
        both.wait(PATIENCE_S)
        return created

    monkeypatch.setattr(lock_module, "create_exclusively", create_together)

    assert together_under_the_lock(folder, "ab") == [1, 1]
    assert names_in(folder) == ["part-a.parquet", "part-b.parquet"]


def test_a_store_is_tried_once(behind: Callable[[Trick], str]) -> None:
    asked = []

    def count(exchange: Exchange) -> None:
        asked.append(exchange.method)

    uri = join(behind(count), "_lock")
    assert is_exclusive(uri)
    tried = len(asked)
    assert tried > 0
    assert is_exclusive(uri)
    assert is_exclusive(join(uri, "another"))
    assert len(asked) == tried


def test_the_doctor_tries_what_a_run_folder_needs(behind: Callable[[Trick], str]) -> None:
    def states(trick: Trick) -> list[tuple[str, str]]:
        return [(check.name, check.state) for check in storage_checks.of_place(folder_behind(trick))]

    def folder_behind(trick: Trick) -> str:
        folder = behind(trick)
        write_bytes(join(folder, "an image"), b"x")
        return folder

    for trick in TRICKS.values():
        assert states(trick) == [("access", "ok"), ("writing", "ok")]
    assert states(ignores_conditions) == [("access", "ok"), ("writing", "fail")]
    behind(refuses_to_write)
    found = storage_checks.writing("s3://runs")
    assert (found.state, "cannot create a file" in found.detail) == ("warn", True)


def refuses_to_write(exchange: Exchange) -> None:
    if exchange.status == 0 and exchange.method not in ("GET", "HEAD"):
        exchange.answer(403, "AccessDenied")


def in_threads(work: Callable[[str], None], names: list[str]) -> None:
    errors: list[BaseException] = []

    def run(name: str) -> None:
        try:
            work(name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def names_in(folder: str) -> list[str]:
    fs, root = open_fs(folder)
    fs.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in fs.ls(root, detail=False)) if fs.exists(root) else []
