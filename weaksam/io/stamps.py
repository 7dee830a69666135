"""What tells a file from the one that it replaces, without reading it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

# What file systems and web servers say of a file: what changes with its content alone, and times. S3, Google, Azure, others.
VERSION_NAMES = ("ETag", "md5Hash", "generation", "etag", "Content-MD5")
TIME_NAMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "created")
# A file system's clock ticks slowly, and another machine's may be off: a file that is written again this shortly after it was
# read may have the time of modification that it had before.
RACE_NS = 2 * 10**9


class Stamp(NamedTuple):
    """Of a file: another one means that the file was written again; compared, never interpreted."""

    size: int  # bytes
    version: str  # on a disk the time of modification in nanoseconds; in a bucket what it has, "" where it has nothing


NOTHING = Stamp(0, "")  # of a link that leads nowhere


def stamp_of_stat(stat: os.stat_result) -> Stamp:
    """Return the stamp of a local file."""
    return Stamp(stat.st_size, str(stat.st_mtime_ns))


def stamp_of_listed(info: Mapping[str, Any]) -> Stamp:
    """Return the stamp of an object in a bucket from what fsspec's listing says of it."""
    version = next((str(info[name]) for name in (*VERSION_NAMES, *TIME_NAMES) if info.get(name)), "")
    return Stamp(int(info.get("size") or 0), version.strip('"'))
