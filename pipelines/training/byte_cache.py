"""Encoded images that come over a network, kept on the node's disk: each is fetched (or drawn) once per node.

Loaders of one training and of the next ones share the files. A file is known by the image's address and content, so that a
picture that was replaced is fetched anew; it begins with the SHA-256 of the bytes that follow, which is checked at every
reading. Local files are not kept: they are on a disk already, and the operating system keeps them in memory.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

from weaksam.io.files import is_drawn, is_remote, read_bytes
from weaksam.io.node_cache import OF_THIS_DISK, cache_folder, touch, trim, write_whole

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32  # SHA-256
_STEPS = 64  # a process looks at the folder again whenever it has written this part of what fits
_FULL_S = 60.0  # and after this long where there was no room


class StoredImage(Protocol):
    """An image that can be kept."""

    @property
    def uri(self) -> str:
        """Where it is."""

    @property
    def content(self) -> str:
        """What it holds, see ``weaksam.io.contents``; "" where nobody knows."""


class ByteCache:
    """Reads images, and keeps up to ``limit_mib`` of them on the node's disk, of which a tenth stays free.

    What other trainings have left makes room, the least recently used files first. Nothing is thrown out that was used since
    this cache was opened: an epoch visits every image once, and then forgetting the oldest would forget exactly what is needed
    next. Processes that write at the same time may together exceed the limit, each by a 64th of it.
    """

    def __init__(self, limit_mib: int) -> None:
        self._limit = limit_mib * 2**20
        self._opened = time.time()
        self._room = 0  # bytes that may be written before the folder is looked at again
        self._full_until = 0.0  # by the monotonic clock

    def read(self, image: StoredImage) -> bytes:
        """Return the encoded bytes; raises what ``weaksam.io.files.read_bytes`` raises, which is not remembered."""
        name = hashlib.sha256(f"{image.uri}\n{image.content}".encode()).hexdigest()
        is_kept = bool(self._limit and image.content and (is_remote(image.uri) or is_drawn(image.uri)))
        data = self._read_kept(name) if is_kept else None
        if data is None:
            data = read_bytes(image.uri)
            if is_kept:
                self._keep(name, data)
        return data

    @cached_property
    def _folder(self) -> Path:
        return cache_folder("images")

    def _read_kept(self, name: str) -> bytes | None:
        """Return what a file keeps, or None if there is none that is whole."""
        try:
            path = self._folder / name[:2] / name[2:]
            kept = path.read_bytes()
        except OSError:
            return None
        digest, data = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            with suppress(OSError):
                path.unlink()
            return None
        touch(path)
        return data

    def _keep(self, name: str, data: bytes) -> None:
        size = _DIGEST_BYTES + len(data)
        try:
            if self._has_room(self._folder, size):
                write_whole(self._folder / name[:2] / name[2:], hashlib.sha256(data).digest(), data)
                self._room -= size
        except OSError as error:
            if error.errno not in OF_THIS_DISK:
                raise
            logger.warning(
                "%s: cannot keep images here (%s), so that they are fetched in every epoch; free some space, or set "
                "WEAKSAM_CACHE to a folder on another disk",
                error.filename or self._folder,
                error.strerror,
            )
            self._limit = 0

    def _has_room(self, folder: Path, size: int) -> bool:
        if size > self._room and time.monotonic() >= self._full_until:
            folder.mkdir(parents=True, exist_ok=True)
            step = max(self._limit // _STEPS, size)
            left = trim(folder, self._limit - step, spare_used_after=self._opened)
            disk = shutil.disk_usage(folder)
            self._room = min(step, self._limit - left, disk.free - disk.total // 10)
            if size > self._room:
                self._full_until = time.monotonic() + _FULL_S
        return size <= self._room
