"""Downloads of single files, and what their servers call the version of a file."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weaksam.errors import CheckpointError
from weaksam.io.files import open_fs
from weaksam.io.stamps import RACE_NS, TIME_NAMES, VERSION_NAMES

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: the server does not say)

SILENCE_S = 60.0  # give a download up when nothing arrives for this long
ANSWER_S = 10.0  # the same of a question, where there is something to go on with
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # never of the other end of a download


def version_at(uri: str, silence_s: float = SILENCE_S) -> str:
    """Return what the file at an address is called there, by its content or its last change.

    It is "" where the server says neither, or a time that has hardly passed: the file may change again within it.

    Raises:
        Exception: of whatever kind the protocol has: the server cannot be asked.
    """
    fs, path = _open(uri, silence_s)
    info = fs.info(path)
    name = next((name for name in (*VERSION_NAMES, *TIME_NAMES) if info.get(name)), "")
    if not name or (name in TIME_NAMES and time.time_ns() - _nanoseconds(info[name]) < RACE_NS):
        return ""
    return f"{name} {info[name]}, {info.get('size')} bytes"


def _nanoseconds(moment: Any) -> int:
    """Return a moment, as file systems and web servers write it, in nanoseconds since 1970; now if it cannot be read."""
    try:
        if isinstance(moment, str):
            moment = parsedate_to_datetime(moment)
        return int(float(moment.timestamp() if isinstance(moment, datetime) else moment) * 10**9)
    except (TypeError, ValueError):
        return time.time_ns()


def download(uri: str, target: Path, progress: Progress | None = None) -> None:
    """Fetch what lies at an address into a file of this machine.

    Raises:
        CheckpointError: it cannot be fetched, or not be kept here.
    """
    from fsspec.callbacks import Callback

    class Report(Callback):  # type: ignore[misc]
        def call(self, *_: Any, **__: Any) -> None:
            if progress is not None:
                progress(self.value, self.size)

    try:
        fs, path = _open(uri, SILENCE_S)
        fs.get_file(path, str(target), callback=Report())
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THIS_DISK:
            raise cannot_keep(uri, target.parent, error) from error
        # Every protocol has errors of its own (aiohttp, botocore, OSError, ValueError for an unknown one): all mean this.
        raise CheckpointError(f"{uri}: cannot fetch the weights ({type(error).__name__}: {error})") from error


def cannot_keep(uri: str, folder: Path, error: OSError) -> CheckpointError:
    """Return the error of a folder that does not take what is fetched."""
    return CheckpointError(
        f"{folder}: cannot keep {uri} here ({error.strerror}); free some space, or set WEAKSAM_CACHE or weights.cache to a "
        "folder on another disk"
    )


def _open(uri: str, silence_s: float) -> tuple[AbstractFileSystem, str]:
    if not uri.startswith(("http://", "https://")):
        return open_fs(uri)
    import aiohttp
    import fsspec

    # aiohttp's own limit is five minutes for the whole file, and it ignores proxies unless told otherwise.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
    return fsspec.filesystem("https", client_kwargs={"timeout": timeout, "trust_env": True}), uri
