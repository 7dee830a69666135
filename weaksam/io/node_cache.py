"""Files that the processes of a machine share on its own disk, and that can be made again: what is fetched or worked out once.

They lie under ``$WEAKSAM_CACHE``, else ``~/.cache/weaksam``, in a folder for each kind. A file appears there whole or not at
all, whoever is killed when; its time of change says when it was used last. Names that begin with a dot are unfinished.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

logger = logging.getLogger(__name__)

# What a disk says that takes no more, or nothing at all from us.
OF_THIS_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
)
_FORGOTTEN_S = 30 * 86_400.0  # files that nobody has used for so long go
_ABANDONED_S = 86_400.0  # unfinished files that nobody has written to for so long are those of the dead


def usual_folder(kind: str) -> Path:
    """Return the folder of a kind of files, whether it is there, or can be made, or not."""
    return Path(os.environ.get("WEAKSAM_CACHE") or "~/.cache/weaksam").expanduser() / kind


def cache_folder(kind: str) -> Path:
    """Return the folder of a kind of files, whether it is there or not.

    Where nobody says a folder and that in the home folder cannot be written to, it is a temporary folder, with a warning.

    Raises:
        OSError: nor is the temporary folder this user's.
    """
    usual = usual_folder(kind)
    if os.environ.get("WEAKSAM_CACHE") or _can_be_written(usual):
        return usual
    return _temporary_folder(usual.parent) / kind


def _can_be_written(folder: Path) -> bool:
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


@cache
def _temporary_folder(instead_of: Path) -> Path:
    """Return this user's folder among temporary files, and warn once of its use."""
    folder = Path(tempfile.gettempdir()) / f"weaksam-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        is_mine = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except OSError:
        is_mine = False
    if not is_mine:
        raise PermissionError(errno.EACCES, f"it cannot be written to, and {folder} is not mine", str(instead_of))
    logger.warning(
        "%s: cannot be written to; what belongs there is kept in %s, which may not last; set WEAKSAM_CACHE to a folder that "
        "can be written to",
        instead_of,
        folder,
    )
    return folder


def ensure(path: Path, make: Callable[[IO[bytes]], None]) -> bool:
    """Make a file unless it is there; one process makes it, and the others that want it wait for that one.

    Args:
        path: of the file.
        make: writes it into an empty file.

    Returns:
        Whether this process has made it.

    Raises:
        OSError: the disk does not take it (``OF_THIS_DISK``); nothing is left of it.
    """
    building = path.with_name(f".{path.name}.building")
    path.parent.mkdir(parents=True, exist_ok=True)
    while not path.exists():
        with open(building, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # goes with the process that holds it
            if not _lies_at(file, building):
                continue  # another process has made it meanwhile, or failed to
            file.truncate(0)  # what a killed one has left
            try:
                make(file)
                file.flush()
                os.fsync(file.fileno())
                os.replace(building, path)
            except BaseException:
                building.unlink(missing_ok=True)
                raise
            return True
    touch(path)
    return False


def write_whole(path: Path, *pieces: bytes) -> None:
    """Write a small file, all or nothing; of several processes that write it at once, the last one stays.

    Raises:
        OSError: the disk does not take it (``OF_THIS_DISK``); nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(unfinished, "wb") as file:
            file.writelines(pieces)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def touch(path: Path) -> None:
    """Note that a file is used."""
    with suppress(OSError):  # it is gone, or another user's
        os.utime(path)


def trim(folder: Path, limit_bytes: int, spare_used_after: float) -> int:
    """Remove files of a folder, the least recently used ones first, until the rest fits; safe beside those that use them.

    Files that nobody has used for 30 days go in any case, and so do the unfinished ones of killed processes.

    Args:
        folder: with what lies in folders of it.
        limit_bytes: of all files together.
        spare_used_after: seconds since the epoch; files used after it stay, even if they are too many.

    Returns:
        The bytes that are left.
    """
    now = time.time()
    found = sorted(_files(folder), key=lambda file: file.used)
    left = sum(file.size for file in found)
    for file in found:
        gone = now - (_ABANDONED_S if file.unfinished else _FORGOTTEN_S)
        if file.used < gone or (left > limit_bytes and file.used < spare_used_after and not file.unfinished):
            try:
                os.unlink(file.path)
            except FileNotFoundError:
                pass  # another process was faster
            except OSError:
                continue  # another user's
            left -= file.size
    return left


class _File(NamedTuple):
    path: str
    size: int
    used: float  # seconds since the epoch
    unfinished: bool


def _files(folder: Path) -> Iterator[_File]:
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                stat = os.stat(os.path.join(root, name))
                yield _File(os.path.join(root, name), stat.st_size, stat.st_mtime, name.startswith("."))


def _lies_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
