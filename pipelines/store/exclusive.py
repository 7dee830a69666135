"""A file that only one of many can create, wherever they are: what a lock stands on.

A disk has O_EXCL for it; S3 a header, ``If-None-Match: *``; Google's storage a parameter, ``ifGenerationMatch=0``. Other stores
that speak S3 may answer in words of their own (a 409, a 412 without AWS's code), or ignore the header, which only trying shows.
"""

from __future__ import annotations

import logging
import os
import posixpath
import uuid
from typing import Any

from pipelines.store.explain import naming
from pipelines.store.files import is_local
from weaksam.errors import StorageError
from weaksam.io.files import join, open_fs

logger = logging.getLogger(__name__)

UNSAFE_ENV = "WEAKSAM_ALLOW_UNSAFE_STORE"
UNSAFE = (
    "this store lets two processes create one file (it ignores If-None-Match), so that a lock there keeps nobody out"
)
UNSAFE_REMEDY = (
    "take a store with conditional writes (`weaksam doctor URI` tries one), or never start two commands on one run folder and "
    f"set {UNSAFE_ENV}=1"
)
_REFUSED = (409, 412)  # statuses of a conditional request: it conflicts with another one; there is a file already


def create_exclusively(uri: str, data: bytes) -> bool:
    """Create a file that must not exist yet; return whether it now holds ``data``. Safe against a second caller anywhere.

    Args:
        uri: of the file.
        data: not empty, and the caller's alone: a client whose answer was lost tries again, and finds its own file there.

    Raises:
        OSError: naming the file, of which nothing is left behind on a disk. Clients of stores raise errors of their own, too.
    """
    fs, path = open_fs(uri)
    if is_local(fs):
        return _create_on_disk(path, data)
    try:
        fs.pipe_file(path, data, mode="create")
    except Exception as error:  # of the client's families, besides OSError
        there = _content(fs, path)
        if there is None and not _is_refusal(error):
            raise
        return there == data
    return True


def is_exclusive(uri: str) -> bool:
    """Return whether the store of a file keeps a second process from creating it; tried once per bucket and process.

    Raises:
        StorageError: it does not, and ``WEAKSAM_ALLOW_UNSAFE_STORE`` is not 1.
    """
    fs, path = open_fs(uri)
    if is_local(fs):
        return True
    store = (fs, path.partition("/")[0])
    if store not in _exclusive:
        _exclusive[store] = keeps_out(posixpath.dirname(uri))
    if _exclusive[store]:
        return True
    if os.environ.get(UNSAFE_ENV) != "1":
        raise StorageError(f"{uri}: {UNSAFE}; {UNSAFE_REMEDY}")
    logger.warning("%s: %s; see to it that no two commands work on one run folder", uri, UNSAFE)
    return False


_exclusive: dict[tuple[Any, str], bool] = {}  # of a file system and its bucket


def keeps_out(folder: str) -> bool:
    """Try whether the store of a folder keeps a second process from creating a file; nothing is left behind."""
    uri = join(folder, f"_probe-{uuid.uuid4().hex}")
    create_exclusively(uri, b"first")
    fs, path = open_fs(uri)
    try:
        return not create_exclusively(uri, b"second")
    finally:
        fs.rm_file(path)


def _create_on_disk(path: str, data: bytes) -> bool:
    os.makedirs(posixpath.dirname(path), exist_ok=True)
    try:
        file = open(path, "xb")  # noqa: SIM115
    except FileExistsError:
        return False
    try:
        with naming(path), file:
            file.write(data)
    except OSError:
        os.unlink(path)  # ours, and of no use
        raise
    return True


def _content(fs: Any, path: str) -> bytes | None:
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def _is_refusal(error: BaseException) -> bool:
    """Whether a store refused to create a file because of another one; clients wrap its answer."""
    answer: Any = error.__cause__ or error
    metadata = getattr(answer, "response", None) or {}
    status = metadata.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(metadata, dict) else None
    return isinstance(error, FileExistsError) or (status or getattr(answer, "code", None)) in _REFUSED
