"""The one place of the method that touches storage: local folders, ``s3://`` and whatever else fsspec speaks.

A URI is a local path, an address with a scheme, or ``shapes:…``, which is drawn when read. Local paths are taken as they
are: nothing in them is decoded or expanded, so that blanks, ``#``, ``%``, ``*`` and ``::`` are characters like any other.
S3 clients take their endpoint and credentials from the environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from weaksam.errors import DataError, ImageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_READERS = 32  # concurrent reads; small objects on S3 wait for the network, not for this machine


def is_remote(uri: str) -> bool:
    """Whether reading ``uri`` goes over a network; False for local paths, ``file://`` and ``shapes:``."""
    scheme = _SCHEME.match(uri)
    return scheme is not None and scheme[1] not in ("file", "local")


def join(uri: str, *parts: str) -> str:
    """Append path ``parts`` (POSIX, relative) to a folder's URI; nothing in them is quoted or resolved."""
    return posixpath.join(uri, *(part.lstrip("/") for part in parts))


def absolute(uri: str) -> str:
    """Make a local path or ``file://`` address an absolute path; other URIs stay as they are."""
    if is_remote(uri) or uri.startswith("shapes:"):
        return uri
    return posixpath.join(os.getcwd(), uri.removeprefix("file://").removeprefix("local://"))


def open_fs(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system behind ``uri`` and the path there (absolute if local).

    Listings are not cached: what another process writes is seen. Raises ``DataError`` for an unknown scheme.
    """
    import fsspec

    if not is_remote(uri):
        return fsspec.filesystem("file"), absolute(uri)
    options: dict[str, Any] = {}
    if uri.startswith(("s3://", "s3a://")):
        # botocore would find the endpoint by itself; naming it keeps clients of different endpoints apart in fsspec's cache.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options = {"endpoint_url": endpoint, "use_listings_cache": False}
    try:
        fs = fsspec.filesystem(uri.partition("://")[0], **options)
    except (ValueError, ImportError) as error:  # fsspec: no such protocol, or its package is not installed
        raise DataError(f"{uri}: expected a local path, s3:// or another address that fsspec reads: {error}") from error
    return fs, fs._strip_protocol(uri)


def read_bytes(uri: str) -> bytes:
    """Read one image's file whole, or draw it.

    Raises:
        ImageError: With the reason "missing", "permission denied" or "unreadable" (a folder, an I/O error).
    """
    if uri.startswith("shapes:"):
        from weaksam.datasets.shapes import read_shape_png

        return read_shape_png(uri)
    return _fetch(*open_fs(uri), uri)


def read_annotations(uris: Sequence[str]) -> Iterator[bytes]:
    """Read annotation files concurrently and yield their contents in the order of ``uris``.

    Raises:
        DataError: A file is missing or cannot be read.
    """
    if not uris:
        return
    fs = open_fs(uris[0])[0]  # made once: fsspec would connect anew in every thread

    def read(uri: str) -> bytes:
        path = fs._strip_protocol(uri) if is_remote(uri) else absolute(uri)
        try:
            return _fetch(fs, path, uri)
        except ImageError as error:
            raise DataError(
                f"expected a readable annotation file: {error}; check the path and its permissions"
            ) from error

    with ThreadPoolExecutor(_READERS) as threads:
        yield from threads.map(read, uris)


def read_texts(uris: Sequence[str]) -> Iterator[str]:
    """Read annotation files as UTF-8, with or without a byte-order mark, in the order of ``uris``. Raises ``DataError``."""
    for uri, data in zip(uris, read_annotations(uris), strict=True):
        try:
            yield data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            got = f"{data[error.start]:#04x}"
            raise DataError(f"{uri}:{line}: expected UTF-8 text, got byte {got}; save the file as UTF-8") from error


def read_text(uri: str) -> str:
    """Read one annotation file, see ``read_texts``."""
    return next(read_texts([uri]))


def is_folder(uri: str) -> bool:
    """Whether there is a folder at ``uri``; on S3, whether any key lies under it."""
    fs, path = open_fs(uri)
    with _listing(uri):
        return bool(fs.isdir(path))


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly in the folder ``uri``, sorted, hidden ones left out; empty if there is none."""
    fs, path = open_fs(uri)
    with _listing(uri):
        if not fs.isdir(path):
            return []
        if is_remote(uri):
            items = fs.ls(path, detail=True)
            names = [posixpath.basename(item["name"].rstrip("/")) for item in items if item["type"] == "directory"]
        else:  # follows links, which fsspec does not
            names = [entry.name for entry in os.scandir(path) if entry.is_dir()]
    return sorted(name for name in names if not name.startswith("."))


def list_files(uri: str) -> list[tuple[str, int]]:
    """List every file under the folder ``uri`` as (POSIX path relative to it, bytes), sorted by path.

    Hidden files and folders (a leading dot) are left out, and so are S3's empty "folder" keys. Local links are followed,
    each folder once; a dangling link counts 0 bytes. A folder that is missing or empty gives an empty list.

    Raises:
        DataError: The folder cannot be listed, or a name is not valid Unicode, so that no table could hold it.
    """
    fs, path = open_fs(uri)
    with _listing(uri):
        found = sorted(_walk_remote(fs, path) if is_remote(uri) else _walk_local(path))
    for name, _ in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{uri}: expected file names in UTF-8, got {name!a}; rename the file") from None
    return found


def _fetch(fs: AbstractFileSystem, path: str, uri: str) -> bytes:
    try:
        if not is_remote(uri):
            with open(path, "rb") as file:
                return file.read()
        return bytes(fs.cat_file(path))
    except FileNotFoundError as error:
        raise ImageError("missing", uri) from error
    except PermissionError as error:
        raise ImageError("permission denied", uri) from error
    except Exception as error:  # besides OSError every protocol has a family of its own (botocore, aiohttp)
        raise ImageError("unreadable", f"{uri}: {type(error).__name__}: {error}") from error


@contextmanager
def _listing(uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as in _fetch
        raise DataError(
            f"{uri}: cannot list this folder ({type(error).__name__}: {error}); check the address, its permissions and, "
            "if it is remote, the credentials in the environment"
        ) from error


def _walk_local(root: str) -> Iterator[tuple[str, int]]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    visited: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = os.path.join(folder, name)
            dangling = not os.path.exists(path)
            if not name.startswith(".") and (dangling or os.path.isfile(path)):  # neither pipes nor sockets
                yield posixpath.relpath(path, root), 0 if dangling else os.path.getsize(path)


def _walk_remote(fs: AbstractFileSystem, root: str) -> Iterator[tuple[str, int]]:
    for path, info in fs.find(root, detail=True).items():
        name = path.removeprefix(root).lstrip("/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if info["type"] == "file" and not path.endswith("/") and not hidden:
            yield name, int(info["size"] or 0)
