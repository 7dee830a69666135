"""A disk that is full: files open and take no byte."""

from __future__ import annotations

import builtins
import errno
import os


class FullDisk:
    """Lets files be opened, and fails when they are written to, as a full disk does."""

    def __init__(self, *args: object) -> None:
        self._file = builtins.open(*args)  # type: ignore[call-overload]  # noqa: SIM115

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data[:3])
        self._file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
