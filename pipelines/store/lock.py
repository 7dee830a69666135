"""The lock of an instance's folder: who may write there, on a disk or in a bucket that several machines share."""

from __future__ import annotations

import json
import logging
import os
import posixpath
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipelines.store.exclusive import create_exclusively
from pipelines.store.files import write_bytes
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0  # how often a working owner renews its lock
SILENCE_S = 90.0  # a lock not renewed for this long belongs to nobody any more


@dataclass(frozen=True)
class _Sight:
    """A lock as somebody saw it."""

    holder: Mapping[str, Any]  # what its owner wrote; {} while that is unreadable
    modified: float  # by the storage's clock


class Lock:
    """The right to write into one instance's folder, held by one process at a time; a context manager.

    The lock is a file created exclusively and renewed by a heartbeat. It is taken over when its owner is a dead process of this
    machine, or when it has been silent for ``SILENCE_S`` by the storage's own clock and then stays as it is while the claimant
    watches it for two heartbeats and a half. No clock of one host is ever compared with that of another. The owner reads its
    own token back before it trusts a takeover and at every heartbeat; ``check`` raises RunError once the lock belongs to
    somebody else, or may, because the storage has not answered for ``SILENCE_S``.
    """

    def __init__(self, folder: str, job: str, wait_s: float = 0.0) -> None:
        self.uri = join(folder, "_lock")
        self._job = job
        self._wait_s = wait_s
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._lost = ""  # why, once it is
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def token(self) -> str:
        """What tells this owner from all others (32 hex digits), in the lock and in the names of what its owner writes."""
        return self._token

    def __enter__(self) -> Lock:
        deadline, told = time.monotonic() + self._wait_s, False
        while not self._try_acquire():
            if time.monotonic() >= deadline:
                raise RunError(f"{self.uri} is held by {self._owner()}; wait for it or stop it first")
            if not told:
                logger.warning("%s is held by %s; waiting for up to %g s", self.uri, self._owner(), self._wait_s)
                told = True
            time.sleep(min(2.0, max(0.1, deadline - time.monotonic())))
        self._thread = threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if self._is_mine():
                fs, path = open_fs(self.uri)
                fs.rm_file(path)
        except Exception as error:  # of the storage, whichever it is; what ended the work is what people must hear
            logger.warning("%s: not released (%s); it is free in %g s", self.uri, error, SILENCE_S)

    def check(self) -> None:
        """Raise RunError when another process has taken the lock over, or may have."""
        if self._lost:
            raise RunError(f"{self.uri}: {self._lost}; this process stops writing")

    def _owner(self) -> str:
        return _describe(self.uri, _look(self.uri))

    def _try_acquire(self) -> bool:
        taken_over = False
        while not create_exclusively(self.uri, self._content()):
            seen = _look(self.uri)
            if seen is None:
                continue  # released between the two calls
            state = _state(self.uri, seen)
            if state == "held" or (state == "silent" and not self._stays_silent(seen)):
                return False
            logger.warning("taking over %s from %s", self.uri, _describe(self.uri, seen))
            self._remove(seen)
            taken_over = True
        if taken_over:
            time.sleep(0.2)  # another claimant may have deleted a stale lock a moment after us: the later one wins
        return self._is_mine()

    def _stays_silent(self, seen: _Sight) -> bool:
        """Watch a lock by this process's own clock: the storage's may have been set, or be that of each writer."""
        watch_s = 2.5 * HEARTBEAT_S
        logger.warning("%s: no sign of %s; watching for %g s", self.uri, _describe(self.uri, seen), watch_s)
        until = time.monotonic() + watch_s
        while time.monotonic() < until:
            time.sleep(watch_s / 25)
            now = _look(self.uri)
            if now != seen:
                return now is None
        return True

    def _remove(self, abandoned: _Sight) -> None:
        fs, path = open_fs(self.uri)
        if _look(self.uri) == abandoned:  # and not the lock of another claimant already
            with suppress(FileNotFoundError):
                fs.rm_file(path)

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(HEARTBEAT_S):
            try:
                seen = _look(self.uri)
                if not self._is(seen):
                    self._lost = f"taken over by {_describe(self.uri, seen)}"
                    return
                self._beats += 1
                write_bytes(self.uri, self._content())
                renewed = time.monotonic()
            except Exception as error:  # of the storage, whichever it is: the next beat may reach it
                logger.warning("%s: not renewed: %s", self.uri, error)
                if time.monotonic() - renewed > SILENCE_S:
                    self._lost = f"not renewed for {SILENCE_S:g} s ({error})"
                    return

    def _is_mine(self) -> bool:
        return self._is(_look(self.uri))

    def _is(self, seen: _Sight | None) -> bool:
        return seen is not None and seen.holder.get("token") == self._token

    def _content(self) -> bytes:
        owner = {
            "host": socket.gethostname(),
            **_processes_of(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "job": self._job,
            "beats": self._beats,
            "token": self._token,
        }
        return json.dumps(owner).encode()


def lock_holder(folder: str) -> str | None:
    """Return who works in an instance's folder right now, for people to read, or None."""
    uri = join(folder, "_lock")
    seen = _look(uri)
    return None if seen is None or _state(uri, seen) != "held" else _describe(uri, seen)


def _look(uri: str) -> _Sight | None:
    """Return the lock as it is, or None if there is no lock; raise RunError if a folder has its name."""
    fs, path = open_fs(uri)
    fs.invalidate_cache(posixpath.dirname(path))
    try:
        data, modified = fs.cat_file(path), fs.modified(path).timestamp()
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise RunError(f"{uri}: expected a lock, found a folder; remove it") from error
    try:
        holder = json.loads(data)
    except (ValueError, RecursionError):  # of one that is just being written, or was cut
        holder = {}
    return _Sight(holder if isinstance(holder, dict) else {}, modified)


def _state(uri: str, seen: _Sight) -> Literal["held", "silent", "dead"]:
    """Judge a lock; "held" where nothing speaks against it, or nothing can be known."""
    holder, pid = seen.holder, seen.holder.get("pid")
    here = {"host": socket.gethostname(), **_processes_of()}
    if isinstance(pid, int) and all(holder.get(name) == value for name, value in here.items()):
        start = _process_start(pid)
        if start is None:
            return "dead"
        if start == holder.get("started"):
            return "held"
        # Either the pid was reused, or the clock was set, which moves the start of a process: the heartbeat tells.
    silent_s = _silent_s(uri, seen)
    return "silent" if silent_s is not None and silent_s > SILENCE_S else "held"


def _silent_s(uri: str, seen: _Sight) -> float | None:
    """Return how long ago a lock was renewed, by the storage's clock alone; None where nothing may be written to ask it.

    A time in the future is one of before that clock was set: nobody knows how long ago.
    """
    fs, path = open_fs(f"{uri}-now-{uuid.uuid4().hex}")
    try:
        fs.pipe_file(path, b"now")
        try:
            return float(abs(fs.modified(path).timestamp() - seen.modified))
        finally:
            fs.rm_file(path)
    except OSError:
        return None


@cache
def _processes_of() -> dict[str, str]:
    """Return what tells machines and containers of one name apart, where the system says: a pid means nothing elsewhere."""
    found = {}
    with suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        found["processes"] = os.readlink("/proc/self/ns/pid")
    return found


def _process_start(pid: int) -> float | None:
    """Return when a process of this host began, or None when there is none: a reused pid has another start."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the last two of what is no pid
        return None


def _describe(uri: str, seen: _Sight | None) -> str:
    if seen is None:
        return "nobody"
    holder, silent_s = seen.holder, _silent_s(uri, seen)
    age = "" if silent_s is None else f", seen {silent_s:.0f} s ago"
    return f"{holder.get('job', '?')} (host {holder.get('host', '?')}, pid {holder.get('pid', '?')}{age})"
