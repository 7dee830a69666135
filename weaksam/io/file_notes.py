"""What the processes of a machine remember of a large file: its SHA-256, and which version of an address it was fetched from.

A note is a small JSON file in a folder of notes. Of several processes that want the note of one file, one holds it and the
others wait. Notes only spare work: one that is missing or damaged is made again, and where none can be written nothing is
remembered.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from weaksam.io.stamps import RACE_NS


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What is known of a file that came from an address; the defaults of one of which nothing is."""

    sha256: str = ""
    version: str = ""  # what its server called it; "" = it did not say, or may call another one the same
    asked_at_s: float = 0.0  # seconds since 1970, when it was asked for


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a note says."""

    path: str = ""  # of the file, for people
    stamp: list[int] = field(default_factory=list)  # of the file when it was read
    sha256: str = ""
    fetched: Fetched = Fetched()


class FileNote:
    """A file and what is remembered of it, held by this process alone; see ``hold_note``."""

    def __init__(self, path: Path, storage: IO[bytes] | None) -> None:
        self.path = path
        self._storage = storage  # None: nothing can be remembered
        self._known = _Known() if storage is None else _parse(storage.read())

    @property
    def fetched(self) -> Fetched:
        """What was fetched here last."""
        return self._known.fetched

    def sha256(self) -> str:
        """Return the file's SHA-256; it is read if it may have changed since it was read last."""
        stamp = _stamp(self.path)
        if self._known.stamp == stamp:
            return self._known.sha256
        digest = file_sha256(self.path)
        if stamp == _stamp(self.path) and time.time_ns() - max(stamp[1], stamp[2]) > RACE_NS:
            self._remember(stamp=stamp, sha256=digest)
        return digest

    def keep_fetched(self, source: Path, fetched: Fetched) -> None:
        """Put what was fetched, a file in the same folder, in the place of the file; nobody else ever writes there."""
        source.replace(self.path)
        self._remember(stamp=_stamp(self.path), sha256=fetched.sha256, fetched=fetched)

    def _remember(self, **news: Any) -> None:
        self._known = replace(self._known, path=str(self.path), **news)
        if self._storage is not None and self._storage.writable():
            with suppress(OSError):  # such as a full disk
                self._storage.seek(0)
                self._storage.truncate()
                self._storage.write(json.dumps(asdict(self._known)).encode())
                self._storage.flush()


@contextmanager
def hold_note(path: Path, folder: Path) -> Iterator[FileNote]:
    """Hold the note of the file at ``path``, which need not exist, in a folder of notes; it ends with the process."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
    storage = _open(folder / f"{name}.json")
    try:
        if storage is not None:
            with suppress(OSError):  # some network file systems have no locks; what is done here twice does no harm
                fcntl.flock(storage, fcntl.LOCK_EX)
        yield FileNote(path, storage)
    finally:
        if storage is not None:
            storage.close()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> IO[bytes] | None:
    """Open a note to read and write it, to read it where more is not allowed, or not at all."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    for flags, mode in ((os.O_RDWR | os.O_CREAT, "r+b"), (os.O_RDONLY, "rb")):
        with suppress(OSError):
            return os.fdopen(os.open(path, flags, 0o666), mode, buffering=0)
    return None


def _parse(text: bytes) -> _Known:
    try:
        known = json.loads(text)
        return _Known(**{**known, "fetched": Fetched(**known["fetched"])})
    except (ValueError, TypeError, KeyError):  # new, or its writer was killed or is of another version
        return _Known()


def _stamp(path: Path) -> list[int]:
    """Return what changes when a file does: size, times in nanoseconds, inode. A copy can keep all but the second time."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
