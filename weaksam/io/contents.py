"""What an image's file holds, in 32 hexadecimal digits: other digits, and everything that was computed from it is done again.

A local file is read and hashed, once: whoever remembers what came out saves the next reading, for as long as size and time of
modification are the same. An object in a bucket is what its listing says, and nothing is read; an image that is drawn is its
address. A picture that cannot be read has the content "", so that it is another one when it can.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from weaksam.io.files import DRAWN, absolute, is_drawn, is_remote, join, list_objects
from weaksam.io.stamps import RACE_NS, Stamp, stamp_of_stat
from weaksam.registry import load

UNREADABLE = ""  # the content of a file that is missing or cannot be read

_DIGITS = 32
_READERS = 16
_AT_A_TIME = 64  # files that a thread takes on together
_LISTERS = 32
_FOLDERS = 64  # that are listed one by one; of more, all that lies in the folder that holds them is listed


@dataclass(frozen=True, slots=True)
class ImageContent:
    """What a file holds."""

    digest: str  # 32 hexadecimal digits, or UNREADABLE
    stamp: Stamp | None = None  # of a local file when it was read; None of others, which nobody need remember
    read_ns: int = 0  # when that was, in nanoseconds since 1970

    def is_of(self, stamp: Stamp) -> bool:
        """Whether a local file that has this stamp now still holds this."""
        return self.stamp == stamp and int(stamp.version) + RACE_NS < self.read_ns


def contents_of(
    uris: Sequence[str], known: Mapping[str, ImageContent] | None = None
) -> Iterator[tuple[str, ImageContent]]:
    """Yield what each image holds, with its address; local files are read by several threads, and come last.

    Args:
        uris: addresses of images, each once.
        known: contents of local files by address, as this function gave them before; those are not read again whose files have
            not been touched since.

    Raises:
        DataError: a folder of a bucket cannot be listed.
    """
    yield from ((uri, ImageContent(_drawn(uri))) for uri in uris if is_drawn(uri))
    yield from _in_buckets([uri for uri in uris if is_remote(uri)])
    local = [uri for uri in uris if not is_drawn(uri) and not is_remote(uri)]
    chunks = [local[start : start + _AT_A_TIME] for start in range(0, len(local), _AT_A_TIME)]
    threads = ThreadPoolExecutor(_READERS)
    try:
        for found in threads.map(partial(_on_disk, known=known or {}), chunks):
            yield from found
    finally:  # who stops listening does not wait for the files that nobody has begun
        threads.shutdown(cancel_futures=True)


def _drawn(uri: str) -> str:
    version = load(DRAWN[uri.partition(":")[0]].version)
    return _digest(f"{version} {uri}")


def _in_buckets(uris: Sequence[str]) -> Iterator[tuple[str, ImageContent]]:
    """Each folder is listed once, as many at a time as threads allow; never is a request made for an image."""
    names: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        folder, name = posixpath.split(uri)
        names[folder].append(name)
    deep = len(names) > _FOLDERS
    if deep:
        names = _under_one_folder(uris)
    with ThreadPoolExecutor(_LISTERS) as threads:
        for folder, stamps in zip(names, threads.map(partial(list_objects, deep=deep), names), strict=True):
            for name in names[folder]:
                yield join(folder, name), ImageContent(_of_object(stamps.get(name)))


def _under_one_folder(uris: Sequence[str]) -> dict[str, list[str]]:
    """Paths relative to the folder that holds all images, one folder in each bucket."""
    by_bucket: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        by_bucket["/".join(uri.split("/", 3)[:3])].append(uri)
    folders = {_head(group): group for group in by_bucket.values()}
    return {folder: [uri.removeprefix(f"{folder}/") for uri in group] for folder, group in folders.items()}


def _head(uris: Sequence[str]) -> str:
    """The deepest folder that holds all of ``uris``."""
    return posixpath.dirname(posixpath.commonprefix([min(uris), max(uris)]))


def _of_object(stamp: Stamp | None) -> str:
    return UNREADABLE if stamp is None else _digest(f"{stamp.size} {stamp.version}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _on_disk(uris: Sequence[str], known: Mapping[str, ImageContent]) -> list[tuple[str, ImageContent]]:
    return [(uri, _of_file(absolute(uri), known.get(uri))) for uri in uris]


def _of_file(path: str, known: ImageContent | None) -> ImageContent:
    try:
        if known is not None and known.is_of(stamp_of_stat(os.stat(path))):
            return known
        read_ns = time.time_ns()
        with open(path, "rb") as file:
            stamp = stamp_of_stat(os.fstat(file.fileno()))  # taken first: a change while it is read shows in the next
            return ImageContent(hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS], stamp, read_ns)
    except (OSError, ValueError):  # a zero byte in its name
        return ImageContent(UNREADABLE)
