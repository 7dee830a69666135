"""A lock as somebody sees it: who wrote it, whether that process lives, and for how long it has given no sign of life.

No clock of one host is ever compared with that of another: the storage's own clock says how old a lock is, and the clock of who
watches it for how long it has stayed as it is.
"""

from __future__ import annotations

import json
import os
import posixpath
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from weaksam.errors import RunError
from weaksam.io.files import open_fs


class State(Enum):
    """What can be known about the owner of a lock."""

    HELD = "nothing speaks against its being alive, or nothing can be known"
    SILENT = "it has not renewed the lock for too long"
    DEAD = "it was a process of this machine, and is none any more"


@dataclass(frozen=True)
class Sight:
    """A lock as it was at one moment."""

    uri: str
    holder: Mapping[str, Any]  # what its owner wrote; {} while that is unreadable
    modified: float  # by the storage's clock

    def state(self, silence_s: float) -> State:
        """Judge whether the owner is alive.

        Args:
            silence_s: after which an owner that has not renewed its lock is silent.
        """
        holder, pid = self.holder, self.holder.get("pid")
        here = {"host": socket.gethostname(), **_processes_of()}
        if isinstance(pid, int) and all(holder.get(name) == value for name, value in here.items()):
            start = _process_start(pid)
            if start is None:
                return State.DEAD
            if start == holder.get("started"):
                return State.HELD
            # Either the pid was reused, or the clock was set, which moves the start of a process: the heartbeat tells.
        silent_s = self.silent_s()
        return State.SILENT if silent_s is not None and silent_s > silence_s else State.HELD

    def describe(self) -> str:
        """Return who holds the lock, for people to read."""
        holder, silent_s = self.holder, self.silent_s()
        age = "" if silent_s is None else f", seen {silent_s:.0f} s ago"
        return f"{holder.get('job', '?')} (host {holder.get('host', '?')}, pid {holder.get('pid', '?')}{age})"

    def silent_s(self) -> float | None:
        """Return how long ago the lock was renewed, by the storage's clock alone; None where nothing may be written to ask it.

        A time in the future is one of before that clock was set: nobody knows how long ago.
        """
        fs, path = open_fs(f"{self.uri}-now-{uuid.uuid4().hex}")
        try:
            fs.pipe_file(path, b"now")
            try:
                return float(abs(fs.modified(path).timestamp() - self.modified))
            finally:
                fs.rm_file(path)
        except OSError:
            return None


def look(uri: str) -> Sight | None:
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
    return Sight(uri, holder if isinstance(holder, dict) else {}, modified)


def this_process() -> dict[str, Any]:
    """Return what a lock says of the process that holds it."""
    pid = os.getpid()
    return {"host": socket.gethostname(), **_processes_of(), "pid": pid, "started": _process_start(pid)}


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
