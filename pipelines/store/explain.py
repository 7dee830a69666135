"""What people are told when the world outside fails: a full disk, a folder that is a file, a bucket that does not answer.

Such errors arrive wrapped, from Ray's tasks, actors, writers and training workers, and one often leads to a second, such as a
torn file after a full disk. ``explain`` finds the first cause and says it in one line: where, what, and what to do.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from weaksam import errors
from weaksam.errors import RunError, StorageError, WeaksamError
from weaksam.io.files import is_remote

AGAIN = "run the same command again: it goes on where it stopped"

_SPACE = f"free some space there, or name a place on another disk, and {AGAIN}"
_RIGHTS = "check the owner and the permissions of it and of the folders above it, or name another place"
_IN_THE_WAY = "move it away or name another place"
_NETWORK = f"check the address and the network, and {AGAIN}"
_FILES = f"raise the limit (ulimit -n 4096) and {AGAIN}"

# errno -> what it means, what to do about it
_MEANINGS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space left on this disk", _SPACE),
    errno.EDQUOT: ("the disk quota is used up", _SPACE),
    errno.EROFS: ("this file system is read-only", "name a place that can be written to"),
    errno.EACCES: ("permission denied", _RIGHTS),
    errno.EPERM: ("not permitted", _RIGHTS),
    errno.ENOENT: ("no such file or folder", "check the path, and that nobody removes it while the command works"),
    errno.ENOTDIR: ("is a file, but a folder is needed here", _IN_THE_WAY),
    errno.EEXIST: ("is there already", _IN_THE_WAY),
    errno.EISDIR: ("is a folder, but a file is needed here", "name a file"),
    errno.ENOTEMPTY: ("this folder is not empty", _IN_THE_WAY),
    errno.ELOOP: ("these links lead in a circle", "mend or remove the link, or name another place"),
    errno.ENAMETOOLONG: ("this name is too long for the file system", "choose a shorter name or path"),
    errno.EMFILE: ("too many files are open", _FILES),
    errno.ENFILE: ("too many files are open on this machine", _FILES),
    errno.EFBIG: ("this file is larger than the file system or `ulimit -f` allows", "name a place on another disk"),
    errno.EIO: ("the disk reports an input or output error", f"check the disk (dmesg), and {AGAIN}"),
    errno.ESTALE: ("the network folder was replaced meanwhile (stale handle)", f"mount it afresh, and {AGAIN}"),
    errno.ENOMEM: ("no memory left", f"free some, or use fewer processes (resources.segment_actors), and {AGAIN}"),
    errno.ETIMEDOUT: ("no answer in time", _NETWORK),
    errno.ECONNREFUSED: ("nobody answers there", _NETWORK),
    errno.ECONNRESET: ("the connection broke", _NETWORK),
    errno.EHOSTUNREACH: ("this machine cannot be reached", _NETWORK),
    errno.ENETUNREACH: ("this network cannot be reached", _NETWORK),
}
# Of a storage that fails as a whole: whatever is said afterwards follows from it, and trying at once again does not help.
_OF_THE_WHOLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
_BY_TYPE: dict[type[OSError], int] = {  # of file systems that raise without a number, such as s3fs
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    TimeoutError: errno.ETIMEDOUT,
    ConnectionRefusedError: errno.ECONNREFUSED,
    ConnectionError: errno.ECONNRESET,
}
_NUMBER = re.compile(r"(?:errno|os error) (\d+)", re.IGNORECASE)  # as Python, Arrow and Rust (safetensors) write it
_QUOTED = re.compile(r"'((?:/|[a-z0-9+]+://)[^']*)'")
_TEMPORARY = re.compile(r"/\.([^/]+)\.[0-9a-f]{8}$")  # a file's name before it is complete
_STORAGE_CLIENTS = (
    "botocore.",
    "aiobotocore.",
    "aiohttp.",
    "s3fs.",
    "gcsfs.",
    "google.",
    "fsspec.",
)  # whose errors are of families of their own


def explain(error: BaseException, where: str = "") -> WeaksamError | None:
    """Return the first cause of an error as something to tell people, or None if it is a mistake in this program.

    An error of ours is returned as it is, unless it came up while a failure of the whole storage was being handled. ``where``
    is said of an error of a storage that names no place.
    """
    if told := storage_failure(error, where):
        return told
    chain = list(_chain(error))[::-1]  # the first cause first
    for cause in chain:
        if isinstance(cause, WeaksamError):
            return cause
    for cause in chain:
        if isinstance(cause, OSError) or _number(cause) is not None or _is_of_client(cause):
            return _of_storage(cause, where)
    if isinstance(chain[0], MemoryError):
        return StorageError("; ".join(_MEANINGS[errno.ENOMEM]))
    first = next((cause for cause in chain if str(cause)), chain[0])  # Ray Data raises some from one that says nothing
    return _of_ray(first) if _is_of_ray(first) else None


def storage_failure(error: BaseException, where: str = "") -> StorageError | None:
    """Return what to tell people if an error came of a storage that fails as a whole: it is full, read-only or broken.

    ``where`` is said if the error itself names no place.
    """
    for cause in list(_chain(error))[::-1]:
        if _number(cause) in _OF_THE_WHOLE:
            return _of_storage(cause, where)
    return None


@contextmanager
def naming(uri: str) -> Iterator[None]:
    """Let OSErrors of the body that name no file, as those of writing do, name ``uri``."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = uri
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, outermost first. What an error of ours was raised *from* is told by it already."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        error = todo.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        inner = _wrapped(error)
        if inner:  # a wrapper may pretend to be of the type of what it wraps; its text is a whole traceback
            todo += reversed(inner)
            continue
        yield error
        if error.__cause__ is not None:
            todo += [] if isinstance(error, WeaksamError) else [error.__cause__]
        elif error.__context__ is not None and not error.__suppress_context__:
            todo.append(error.__context__)


def _wrapped(error: BaseException) -> list[BaseException]:
    """Return what an error of Ray's tasks, actors and trainings, or a group of errors, carries."""
    if isinstance(error, BaseExceptionGroup):
        return list(error.exceptions)
    if not _is_of_ray(error):
        return []
    failures = getattr(error, "worker_failures", None) or {}  # of a training, by rank
    inner = [*failures.values(), *(getattr(error, name, None) for name in ("cause", "_base_exc", "base_exc"))]
    return [cause for cause in inner if isinstance(cause, BaseException)]


def _is_of_ray(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] == "ray" for kind in type(error).__mro__)


def _is_of_client(error: BaseException) -> bool:
    return f"{type(error).__module__}.".startswith(_STORAGE_CLIENTS)


def _number(error: BaseException) -> int | None:
    """Return the errno of an error, as a number, as text, or by its type."""
    if isinstance(error, WeaksamError):
        return None
    if isinstance(error, OSError):
        if error.errno is not None:
            return error.errno
        if match := _NUMBER.search(str(error)):
            return int(match[1])
        return next((number for kind, number in _BY_TYPE.items() if isinstance(error, kind)), None)
    match = _NUMBER.search(str(error)) if isinstance(error, Exception) else None
    return int(match[1]) if match else None


def _of_storage(error: BaseException, where: str) -> StorageError:
    number, text = _number(error), last_line(error)
    where = _place(error, text) or where
    what, remedy = _MEANINGS.get(number or 0, ("", f"mend this, and {AGAIN}"))
    if number in (errno.EEXIST, errno.ENOTDIR) and where and (found := in_the_way(where)):
        return StorageError(f"{found}, but a folder is needed here; {_IN_THE_WAY}")
    what = what or (number and os.strerror(number)) or f"{type(error).__name__}: {text}"
    said = f"{where}: {what}" if where else what if text in what else f"{what} ({text})"
    return StorageError(f"{said}; {remedy}")


def _of_ray(error: BaseException) -> RunError | None:
    """Return what Ray says of a node, process or actor that it lost; None for what a mistake of ours brought about in one."""
    text = last_line(error)
    if type(error).__name__ in ("RayTaskError", "UserCodeException"):
        return None
    if "creation task" not in str(error):
        return RunError(f"Ray: {text}; {AGAIN}")
    kind, _, said = text.partition(": ")  # of an actor's constructor only the text of a traceback arrives
    of_ours = getattr(errors, kind.removeprefix("weaksam.errors."), None)
    return RunError(said) if isinstance(of_ours, type) and issubclass(of_ours, WeaksamError) else None


def _place(error: BaseException, text: str) -> str:
    """Return the file or address that an error is about, "" if it names none."""
    name: Any = getattr(error, "filename", None) or getattr(error, "filename2", None)
    if isinstance(name, bytes | str) and b"\n" not in os.fsencode(name):  # Ray Data puts a text of its own there
        return _TEMPORARY.sub(r"/\1", os.fsdecode(name))
    match = _QUOTED.search(text)
    return match[1] if match else ""


def in_the_way(path: str) -> str:
    """Return which part of a local path is no folder and what it is instead; "" if there could be a folder at the path."""
    if is_remote(path):
        return ""
    parts = os.path.abspath(path).split(os.sep)
    for part in (os.sep.join(parts[:n]) for n in range(2, len(parts) + 1)):
        if os.path.lexists(part) and not os.path.isdir(part):
            return f"{part} is {'a file' if os.path.exists(part) else 'a link that leads nowhere'}"
    return ""


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, which of a traceback is the one that says something, or its type's name."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
