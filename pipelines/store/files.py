"""Small files of ours, on a disk or in a bucket: written all or nothing, read as JSON, set aside when they are damaged."""

from __future__ import annotations

import io
import json
import logging
import os
import posixpath
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipelines.store.explain import naming
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs

logger = logging.getLogger(__name__)

_ASIDE = "_damaged"  # folder beside damaged files, for whoever wants to know what happened to them


class DamagedFileError(RunError):
    """A file of ours that does not read as what it must be; ``path`` is where it is, ``reason`` what is wrong with it."""

    def __init__(self, path: str, reason: str, mended_by: str) -> None:
        super().__init__(f"{path}: damaged: {reason}. To set it aside and make it again, run {mended_by} again")
        self.path = path
        self.reason = reason
        self.mended_by = mended_by

    def __reduce__(self) -> tuple[type[DamagedFileError], tuple[str, str, str]]:
        return DamagedFileError, (self.path, self.reason, self.mended_by)


def set_aside(folder: str, damaged: Mapping[str, str]) -> None:
    """Move files, or folders, of a folder into its ``_damaged/`` and say so. Only for the holder of the lock.

    Args:
        folder: where they are.
        damaged: name -> what is wrong with it.
    """
    if not damaged:
        return
    fs, root = open_fs(folder)
    for name in damaged:
        _move(fs, posixpath.join(root, name), posixpath.join(root, _ASIDE, f"{uuid.uuid4().hex[:8]}-{name}"))
    name, reason = next(iter(damaged.items()))
    what = f"{len(damaged):,} damaged file{'s' if len(damaged) > 1 else ''}"
    logger.warning("set aside %s in %s: %s (%s); made again now", what, join(folder, _ASIDE), name, reason)


def _move(fs: Any, old: str, new: str) -> None:
    """Move a file or folder; ``fs.mv`` takes brackets in names for patterns."""
    if is_local(fs):
        os.makedirs(posixpath.dirname(new), exist_ok=True)
        os.rename(old, new)
        return
    for path in fs.find(old) or [old]:
        fs.cp_file(path, new + path.removeprefix(old))
        fs.rm_file(path)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a small file, all or nothing, making its folder.

    Raises:
        OSError: naming the file; what was there before is still there, and nothing else is left behind.
    """
    fs, path = open_fs(uri)
    if not is_local(fs):
        fs.pipe_file(path, data)
        return
    with _in_place(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_large(uri: str, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a file of any size on this machine's disk, and put it in its place, all or nothing.

    Raises:
        OSError: as in ``write_bytes``, whatever ``write`` makes of it.
    """
    fs, path = open_fs(uri)
    if not is_local(fs):
        with tempfile.TemporaryDirectory() as scratch:
            written = posixpath.join(scratch, posixpath.basename(path))
            _fill(written, write)
            fs.put_file(written, path)
        return
    with _in_place(path) as temporary:
        _fill(temporary, write)


@contextmanager
def _in_place(path: str) -> Iterator[str]:
    """Make a file's folder and yield the path of another file there, which takes the file's place once the body has ended."""
    os.makedirs(posixpath.dirname(path), exist_ok=True)
    temporary = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.{uuid.uuid4().hex[:8]}")
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # gone, unless something went wrong
            os.unlink(temporary)


def _fill(path: str, write: Callable[[BinaryIO], None]) -> None:
    with _File(path, "w") as file:
        try:
            write(cast(BinaryIO, file))
        except Exception as error:
            raise (file.failed or error) from error


class _File(io.FileIO):
    """A file that remembers why it could not be written: what writes from C++ says something else."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as a file without a buffer does, to the end."""
        left = memoryview(data).cast("B")
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            self.failed = error
            raise
        return memoryview(data).nbytes


@contextmanager
def on_disk(uri: str) -> Iterator[Path]:
    """Give a file of any size on this machine's disk: where it is, or a copy as long as the body runs.

    Raises:
        FileNotFoundError: there is none.
        IsADirectoryError: it is a folder.
    """
    fs, path = open_fs(uri)
    if is_local(fs):
        if os.path.isdir(path):
            raise IsADirectoryError(path)
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, posixpath.basename(path))
        fs.get_file(path, str(copy))
        yield copy


def write_json(uri: str, value: Any) -> None:
    """Write a small JSON file for people and programs to read."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(uri: str, mended_by: str = "the command that made it") -> Any:
    """Return what a JSON file holds, or None when there is no such file.

    Raises:
        DamagedFileError: it holds no JSON; the message says to run ``mended_by`` again.
    """
    fs, path = open_fs(uri)
    fs.invalidate_cache(posixpath.dirname(path))
    try:
        data = fs.cat_file(path)
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise DamagedFileError(uri, "expected a file, found a folder", mended_by) from error
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(uri, f"expected JSON, got {data[:40]!r} ({error})", mended_by) from error


def read_object(uri: str, mended_by: str = "the command that made it") -> dict[str, Any] | None:
    """Return the object that a JSON file holds, or None when there is no such file; raise DamagedFileError for all else."""
    value = read_json(uri, mended_by)
    if value is not None and not isinstance(value, dict):
        raise DamagedFileError(uri, f"expected a JSON object, got a {type(value).__name__}", mended_by)
    return value


def is_local(fs: Any) -> bool:
    """Whether an fsspec file system is a disk of this machine."""
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def open_arrow_fs(uri: str) -> tuple[Any, str]:
    """Return ``open_fs(uri)``, wrapped for Arrow and Ray: by themselves they would look for credentials elsewhere."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    fs, path = open_fs(uri)
    return PyFileSystem(FSSpecHandler(fs)), path
