"""What tells a file from the one that it replaces, without reading it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

# What listings of buckets say of an object, from what changes with its content alone to its times: S3, Google, Azure, others.
_VERSIONS = ("ETag", "md5Hash", "generation", "etag", "LastModified", "last_modified", "mtime", "created")


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
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return Stamp(int(info.get("size") or 0), version.strip('"'))
