"""Run folders: where each stage instance lives, what it was asked to do, who works on it, and the proof that it is done.

    RUN/recipe.yaml   RUN/<instance>/current   RUN/<instance>/<KEY>/part-*.parquet  _dropped/  _plan.json  _manifest.json  _lock

The key is a short hash of everything that can change the result, so results of different settings never share a folder.
``_plan.json`` is written before the first row, ``_manifest.json`` after the proof; ``current`` names the key worked on last.
"""

from __future__ import annotations

import hashlib
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
from typing import Any

import pyarrow as pa

from pipelines.schemas import DROPPED
from pipelines.store import Table, create_exclusively, read_json, write_bytes, write_json
from weaksam.errors import RunError
from weaksam.files import join, open_fs

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0  # how often a working owner renews its lock
SILENCE_S = 90.0  # a lock not renewed for this long belongs to nobody any more


def instance_key(parts: Mapping[str, Any]) -> str:
    """Return the 12-hex-digit key of a stage instance from everything that can change its result."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Instance:
    """One stage instance: ``name`` is ``verb`` or ``verb.label``, ``folder`` is its own and nobody else's."""

    run_uri: str
    name: str
    key: str

    @property
    def folder(self) -> str:
        """Where its files are."""
        return join(self.run_uri, self.name, self.key)

    @property
    def dropped(self) -> Table:
        """One row per image that could not be processed."""
        return Table(join(self.folder, "_dropped"), DROPPED)

    def table(self, schema: pa.Schema) -> Table:
        """Return the instance's table."""
        return Table(self.folder, schema)

    def file(self, *names: str) -> str:
        """Return the URI of a file of the instance."""
        return join(self.folder, *names)

    def plan(self) -> dict[str, Any] | None:
        """Return what the instance was asked to do, or None before it started."""
        plan: dict[str, Any] | None = read_json(self.file("_plan.json"))
        return plan

    def manifest(self) -> dict[str, Any] | None:
        """Return what the instance has proved to have done, or None while it is not finished."""
        manifest: dict[str, Any] | None = read_json(self.file("_manifest.json"))
        return manifest

    def begin(self, parts: Mapping[str, Any]) -> None:
        """Record what is going to be done, before the first row, and make this the current instance of its name."""
        write_json(self.file("_plan.json"), {"instance": self.name, "key": self.key, "parts": parts})
        self.make_current()

    def make_current(self) -> None:
        """Make this the instance of its name that is shown, and that cleaning keeps."""
        if current_instance(self.run_uri, self.name) != self:
            write_bytes(join(self.run_uri, self.name, "current"), f"{self.key}\n".encode())

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Record that the work is done and proved; return the manifest."""
        manifest = {"instance": self.name, "key": self.key, **summary}
        write_json(self.file("_manifest.json"), manifest)
        return manifest

    def reopen(self) -> None:
        """Withdraw the manifest, if there is one, because rows are about to change."""
        fs, path = open_fs(self.file("_manifest.json"))
        if fs.exists(path):
            fs.rm_file(path)

    def previous(self) -> Instance | None:
        """Return the instance of the same name that was worked on last, if it is another one."""
        current = current_instance(self.run_uri, self.name)
        return None if current is None or current.key == self.key else current


def current_instance(run_uri: str, name: str) -> Instance | None:
    """Return the instance of this name that was worked on last, or None."""
    fs, path = open_fs(join(run_uri, name, "current"))
    fs.invalidate_cache()
    try:
        return Instance(run_uri, name, fs.cat_file(path).decode().strip())
    except (FileNotFoundError, NotADirectoryError):  # no such instance; a file of the run folder, such as recipe.yaml
        return None


def current_instances(run_uri: str) -> list[Instance]:
    """Return the current instance of every name in a run folder, in name order; empty when there is no such folder."""
    fs, root = open_fs(run_uri)
    fs.invalidate_cache()
    if not fs.exists(root):
        return []
    names = sorted(posixpath.basename(path.rstrip("/")) for path in fs.ls(root, detail=False))
    found = (current_instance(run_uri, name) for name in names if not name.startswith(("preview-", "_", ".")))
    return [instance for instance in found if instance is not None]


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the fields in which two plans differ, as ``a.b: old -> new`` lines in field order."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for name in [*old, *(n for n in new if n not in old)]:
            lines += differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        return lines
    return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]


class Lock:
    """The right to write into one instance's folder, held by one process at a time; a context manager.

    The lock is a file created exclusively and renewed by a heartbeat. A lock whose owner is a dead process of this host, or
    that has been silent for ``SILENCE_S``, is taken over. The owner reads its own token back before it trusts a takeover
    and at every heartbeat; ``check`` raises RunError once the lock belongs to somebody else, or may, because the storage has
    not answered for ``SILENCE_S``.
    """

    def __init__(self, folder: str, job: str, wait_s: float = 0.0) -> None:
        self.uri = join(folder, "_lock")
        self._job = job
        self._wait_s = wait_s
        self._token = uuid.uuid4().hex
        self._lost = ""  # why, once it is
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lock:
        deadline, told = time.monotonic() + self._wait_s, False
        while not self._try_acquire():
            held = f"{self.uri} is held by {_describe(_read_holder(self.uri))}"
            if time.monotonic() >= deadline:
                raise RunError(f"{held}; wait for it or stop it first")
            if not told:
                logger.warning("%s; waiting for up to %g s", held, self._wait_s)
                told = True
            time.sleep(min(2.0, max(0.1, deadline - time.monotonic())))
        self._thread = threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_mine():
            fs, path = open_fs(self.uri)
            fs.rm_file(path)

    def check(self) -> None:
        """Raise RunError when another process has taken the lock over, or may have."""
        if self._lost:
            raise RunError(f"{self.uri}: {self._lost}; this process stops writing")

    def _try_acquire(self) -> bool:
        taken_over = False
        while not create_exclusively(self.uri, self._content()):
            holder = _read_holder(self.uri)
            if holder is None:
                continue  # released between the two calls
            if not _is_abandoned(holder):
                return False
            logger.warning("taking over %s from %s", self.uri, _describe(holder))
            self._remove(holder)
            taken_over = True
        if taken_over:
            time.sleep(0.2)  # another claimant may have deleted a stale lock a moment after us: the later one wins
        return self._is_mine()

    def _remove(self, abandoned: Mapping[str, Any]) -> None:
        fs, path = open_fs(self.uri)
        if _read_holder(self.uri) == abandoned:  # and not the lock of another claimant already
            with suppress(FileNotFoundError):
                fs.rm_file(path)

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(HEARTBEAT_S):
            try:
                holder = _read_holder(self.uri)
                if not self._is(holder):
                    self._lost = f"taken over by {_describe(holder)}"
                    return
                write_bytes(self.uri, self._content())
                renewed = time.monotonic()
            except Exception as error:  # of the storage, whichever it is: the next beat may reach it
                logger.warning("%s: not renewed: %s", self.uri, error)
                if time.monotonic() - renewed > SILENCE_S:
                    self._lost = f"not renewed for {SILENCE_S:g} s ({error})"
                    return

    def _is_mine(self) -> bool:
        return self._is(_read_holder(self.uri))

    def _is(self, holder: Mapping[str, Any] | None) -> bool:
        return holder is not None and holder.get("token") == self._token

    def _content(self) -> bytes:
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "job": self._job,
            "heartbeat": time.time(),
            "token": self._token,
        }
        return json.dumps(owner).encode()


def lock_holder(folder: str) -> str | None:
    """Return who works in an instance's folder right now, for people to read, or None."""
    holder = _read_holder(join(folder, "_lock"))
    return None if holder is None or _is_abandoned(holder) else _describe(holder)


def _read_holder(uri: str) -> dict[str, Any] | None:
    """Return the lock's content, None if there is no lock; one still without content has the heartbeat of its creation."""
    try:
        holder: dict[str, Any] | None = read_json(uri)
    except RunError:
        fs, path = open_fs(uri)
        try:
            return {"heartbeat": fs.modified(path).timestamp()}
        except FileNotFoundError:
            return None
    return holder


def _is_abandoned(holder: Mapping[str, Any]) -> bool:
    if holder.get("host") == socket.gethostname() and "pid" in holder:
        start = _process_start(holder["pid"])
        if start is None:
            return True
        if start == holder.get("started"):
            return False
        # Either the pid was reused, or the clock was set, which moves the start of a process: the heartbeat tells.
    return bool(time.time() - holder.get("heartbeat", 0.0) > SILENCE_S)


def _process_start(pid: int) -> float | None:
    """Return when a process of this host began, or None when there is none: a reused pid has another start."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _describe(holder: Mapping[str, Any] | None) -> str:
    if holder is None:
        return "nobody"
    age_s = time.time() - holder.get("heartbeat", 0.0)
    return f"{holder.get('job', '?')} (host {holder.get('host', '?')}, pid {holder.get('pid', '?')}, seen {age_s:.0f} s ago)"


def prove(planned: list[str], table: Table, dropped: Table) -> dict[str, Any]:
    """Compute from the files what became of the planned images; raise RunError unless each is done or dropped exactly once.

    Returns:
        ``images``, ``done``, ``dropped``, ``duplicates`` and ``text``, the line that a stage ends with.
    """
    done = table.ids()
    lost = set(dropped.ids()) - set(done)
    duplicates = len(done) - len(set(done))
    missing = set(planned) - set(done) - lost
    surplus = (set(done) | lost) - set(planned)
    text = f"images {len(planned):,} = done {len(set(done)):,} + dropped {len(lost):,} · duplicates {duplicates:,}"
    if missing or surplus or duplicates:
        some = ", ".join(sorted(missing | surplus)[:5])
        raise RunError(
            f"{table.folder}: the proof does not hold: {text}, missing {len(missing):,}, not asked for {len(surplus):,} "
            f"({some}). Run the same command again; if it persists, `weaksam clean` the instance."
        )
    return {"images": len(planned), "done": len(set(done)), "dropped": len(lost), "duplicates": 0, "text": text}
