"""A file that only one of many can create, and remove, wherever they are: what a lock stands on.

A disk has O_EXCL for it; S3 a header, ``If-None-Match: *``; Google's storage a parameter, ``ifGenerationMatch=0``. Other stores
that speak S3 may answer in words of their own (a 409, a 412 without AWS's code), or ignore the header, which only trying shows.
"""

from __future__ import annotations

import logging
import os
import posixpath
import time
import uuid
from collections.abc import Callable
from functools import partial
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
_REFUSED = (
    409,
    412,
)  # statuses of a conditional request: it conflicts with another one; the file is there, or another one
_UNKNOWN = (400, 501)  # of one with a condition that the store does not know
_REMOVALS = 6  # attempts to remove a file, before their refusal is an error
_REMOVAL_PAUSE_S = 0.1  # after each


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


def remove_if(uri: str, is_it: Callable[[], bool]) -> None:
    """Remove a file that another process may create anew as soon as it is gone, as long as it is the one that is meant.

    A client that got no answer asks again by itself, and would remove what was created meanwhile: the store is asked to remove
    the very version that was looked at. One that does not know such a condition is asked without.

    Args:
        uri: of the file; nothing is done when there is none.
        is_it: looks whether the file that is there now is the one that is meant.

    Raises:
        OSError: naming the file, which may be there still. Clients of stores raise errors of their own, too.
    """
    fs, path = open_fs(uri)
    for attempts_left in reversed(range(_REMOVALS)):
        try:
            remove = _removal(fs, path)
            if is_it():
                remove()
            return
        except FileNotFoundError:
            return
        except Exception as error:  # of the client's families, besides OSError
            if not attempts_left or _status(error) not in _REFUSED:  # by another's version, or another's request
                raise
            time.sleep(_REMOVAL_PAUSE_S)


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


def _removal(fs: Any, path: str) -> Callable[[], Any]:
    """Return what removes a file as it is at this moment, where its store can tell."""
    if "gs" in fs.protocol:
        bucket, key, _ = fs.split_path(path)
        return partial(fs.call, "DELETE", "b/{}/o/{}", bucket, key, generation=fs.info(path)["generation"])
    if "s3" in fs.protocol:
        return partial(_remove_version, fs, path, fs.info(path)["ETag"])
    return partial(fs.rm_file, path)


def _remove_version(fs: Any, path: str, etag: str) -> None:
    bucket, _, key = path.partition("/")
    try:
        fs.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=etag)
    except Exception as error:
        if _status(error) not in _UNKNOWN:
            raise
        fs.rm_file(path)


def _content(fs: Any, path: str) -> bytes | None:
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def _is_refusal(error: BaseException) -> bool:
    """Whether a store refused to create a file because of another one."""
    return isinstance(error, FileExistsError) or _status(error) in _REFUSED


def _status(error: BaseException) -> Any:
    """Return the status of a store's answer, which its client wraps, or None."""
    answer: Any = error.__cause__ or error
    metadata = getattr(answer, "response", None) or {}
    status = metadata.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(metadata, dict) else None
    return status or getattr(answer, "code", None)
