"""Encoded images kept in memory between epochs, so that each is fetched (or drawn) once per process."""

from __future__ import annotations

from weaksam.io.files import read_bytes


class ByteCache:
    """Reads images by URI and remembers their bytes until ``limit_mib`` are full.

    Nothing is thrown out again: an epoch visits every image once, and then forgetting the oldest would forget exactly what
    is needed next.
    """

    def __init__(self, limit_mib: int) -> None:
        self._left = limit_mib * 2**20
        self._known: dict[str, bytes] = {}

    def read(self, uri: str) -> bytes:
        """Return the encoded bytes; raises what ``weaksam.io.files.read_bytes`` raises, which is not remembered."""
        data = self._known.get(uri)
        if data is None:
            data = read_bytes(uri)
            if len(data) <= self._left:
                self._known[uri] = data
                self._left -= len(data)
        return data
