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
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipelines.store import integrity
from pipelines.store.schemas import DROPPED
from pipelines.store.tables import (
    DamagedFileError,
    Table,
    create_exclusively,
    read_object,
    set_aside,
    write_bytes,
    write_json,
)
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs

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
    def mended_by(self) -> str:
        """The command that makes the instance, for messages."""
        verb, _, label = self.name.partition(".")
        if verb == "import":
            return f"`weaksam import {self.run_uri} FILE --name {label}`"
        if verb == "true-boxes":  # a recipe need not say what noise they were made with
            return f"`weaksam export {self.run_uri} --as pseudo-labels --name {label} [--noise SHARE --seed N]`"
        return f"`weaksam {verb} {self.run_uri}{f' --label {label}' if label else ''}`"

    @property
    def dropped(self) -> Table:
        """One row per image that could not be processed."""
        return Table(join(self.folder, "_dropped"), DROPPED, self.mended_by)

    def table(self, schema: pa.Schema) -> Table:
        """Return the instance's table."""
        return Table(self.folder, schema, self.mended_by)

    def file(self, *names: str) -> str:
        """Return the URI of a file of the instance."""
        return join(self.folder, *names)

    def plan(self) -> dict[str, Any] | None:
        """Return what the instance was asked to do, or None before it started; raise DamagedFileError if nobody can tell."""
        return self._read("_plan.json", {"parts": dict})

    def manifest(self) -> dict[str, Any] | None:
        """Return what the instance has proved to have done, or None while it is not finished; raises as ``plan``."""
        kinds = {"text": str, "images": dict, "reads": dict, "files": dict, "parts": int, "rows": dict}
        return self._read("_manifest.json", kinds)

    def state(self) -> dict[str, Any]:
        """Return which instance this is, and what those that read it find in it; raises as ``plan``.

        Who has read it has to read it again when this changes: rows that --retry-dropped brings back, or files that were
        damaged and came out otherwise when they were made again, leave the key as it is.
        """
        manifest = self.manifest() or {}
        return {"key": self.key, **{name: manifest[name] for name in ("rows", "files") if name in manifest}}

    def begin(self, parts: Mapping[str, Any], *, make_current: bool = True) -> None:
        """Record what is going to be done, before the first row, and make this the current instance of its name."""
        write_json(self.file("_plan.json"), {"instance": self.name, "key": self.key, "parts": parts})
        if make_current:
            self.make_current()

    def make_current(self) -> None:
        """Make this the instance of its name that is shown, and that cleaning keeps."""
        try:
            if current_instance(self.run_uri, self.name) == self:
                return
        except DamagedFileError as error:
            set_aside(join(self.run_uri, self.name), {"current": error.reason})
        write_bytes(join(self.run_uri, self.name, "current"), f"{self.key}\n".encode())

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Record that the work is done and proved, and what it left behind; return the manifest."""
        manifest = {"instance": self.name, "key": self.key, **summary, **integrity.record(self.folder)}
        write_json(self.file("_manifest.json"), manifest)
        return manifest

    def reopen(self) -> None:
        """Withdraw the manifest, if there is one, because rows are about to change."""
        fs, path = open_fs(self.file("_manifest.json"))
        if fs.exists(path):
            fs.rm_file(path)

    def finished(self, schema: pa.Schema | None) -> dict[str, Any] | None:
        """Return the manifest if the instance is finished and its files read as they were written; see ``damage``."""
        with suppress(DamagedFileError):
            manifest = self.manifest()
            return None if manifest is None or self.damage(schema) else manifest
        return None

    def damage(self, schema: pa.Schema | None) -> dict[str, str]:
        """Return what is wrong with the files of a finished instance, by name in its folder; its parts are read to their end.

        Args:
            schema: of its table; None where it has none.
        """
        found = {}
        for name, read in (("_plan.json", self.plan), ("_manifest.json", self.manifest)):
            try:
                read()
            except DamagedFileError as error:
                found[name] = error.reason
        manifest = {} if "_manifest.json" in found else self.manifest() or {}
        found |= integrity.damage(self.folder, manifest, None if schema is None else self.table(schema))
        return found | {f"_dropped/{name}": reason for name, reason in self.dropped.damaged().items()}

    def set_aside_damaged(self, schema: pa.Schema | None) -> None:
        """Move damaged files out of the way; see ``damage``. Only for the holder of the lock."""
        self.dropped.set_aside_damaged()
        fs, root = open_fs(self.folder)
        found = self.damage(schema)
        there = {name: reason for name, reason in found.items() if name and fs.exists(posixpath.join(root, name))}
        set_aside(self.folder, there)
        for name in found.keys() - there.keys():
            logger.warning("%s: %s; made again now", self.file(name) if name else self.folder, found[name])

    def previous(self) -> Instance | None:
        """Return the instance of the same name that was worked on last, if it is another one and known."""
        with suppress(DamagedFileError):
            current = current_instance(self.run_uri, self.name)
            return None if current is None or current.key == self.key else current
        return None

    def _read(self, name: str, kinds: Mapping[str, type]) -> dict[str, Any] | None:
        content = read_object(self.file(name), self.mended_by)
        for field, kind in kinds.items():
            if content is not None and field in content and not isinstance(content[field], kind):
                got = type(content[field]).__name__
                raise DamagedFileError(self.file(name), f"{field}: expected {kind.__name__}, got {got}", self.mended_by)
        return content


def current_instance(run_uri: str, name: str) -> Instance | None:
    """Return the instance of this name that was worked on last, or None; raise DamagedFileError if nobody can tell."""
    uri = join(run_uri, name, "current")
    fs, path = open_fs(uri)
    fs.invalidate_cache()
    try:
        data = fs.cat_file(path)
    except (FileNotFoundError, NotADirectoryError):  # no such instance; a file of the run folder, such as recipe.yaml
        return None
    except IsADirectoryError:
        data = b"(a folder)"
    key = data.decode(errors="replace").strip()
    if not key.isalnum():
        raise DamagedFileError(
            uri, f"expected the key of an instance, got {key[:40]!r}", Instance(run_uri, name, "").mended_by
        )
    return Instance(run_uri, name, key)


def finished_instance(run_uri: str, name: str) -> Instance:
    """Return the current instance of this name; raise RunError unless it is finished."""
    instance = current_instance(run_uri, name)
    if instance is None or instance.manifest() is None:
        state = "has not been run" if instance is None else "is not finished"
        raise RunError(f"{run_uri}: {name} {state}; run {Instance(run_uri, name, '').mended_by} first")
    return instance


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


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What became of the planned images, counted from files."""

    images: int  # planned
    done: int
    dropped: int
    duplicates: int = 0

    def __str__(self) -> str:
        """The line that a stage ends with."""
        return (
            f"images {self.images:,} = done {self.done:,} + dropped {self.dropped:,} · duplicates {self.duplicates:,}"
        )


def prove(planned: list[str], table: Table, dropped: Table) -> Proof:
    """Compute from the files what became of the planned images; raise RunError unless each is done or dropped exactly once."""
    done = table.ids()
    lost = set(dropped.ids()) - set(done)
    duplicates = len(done) - len(set(done))
    missing = set(planned) - set(done) - lost
    surplus = (set(done) | lost) - set(planned)
    proof = Proof(images=len(planned), done=len(set(done)), dropped=len(lost), duplicates=duplicates)
    if missing or surplus or duplicates:
        some = ", ".join(sorted(missing | surplus)[:5])
        raise RunError(
            f"{table.folder}: the proof does not hold: {proof}, missing {len(missing):,}, not asked for {len(surplus):,} "
            f"({some}). Run the same command again; if it persists, delete {table.folder} and run it once more"
        )
    return proof
