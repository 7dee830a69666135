"""The one place of the method that touches storage: local folders, ``s3://``, ``gs://`` and whatever else fsspec speaks.

A URI is a local path, an address with a scheme, or that of an image which is drawn when read (``DRAWN``). Local paths are
taken as they are: nothing in them is decoded or expanded, so that blanks, ``#``, ``%``, ``*`` and ``::`` are characters
like any other.
Clients take their endpoint and credentials from the environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …;
``GOOGLE_APPLICATION_CREDENTIALS``, ``STORAGE_EMULATOR_HOST``).
"""

from __future__ import annotations

import codecs
import os
import posixpath
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weaksam.errors import DataError, ImageError, StorageError
from weaksam.io.stamps import NOTHING, Stamp, stamp_of_listed, stamp_of_stat
from weaksam.registry import load

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class Drawer(NamedTuple):
    """Where to find what draws images of a kind, each as "module:attribute"."""

    read: str  # the function that draws one as a file
    version: str  # the number that is raised whenever the same address draws another image


# By what precedes the colon of addresses whose images are drawn and not stored.
DRAWN = {"shapes": Drawer("weaksam.datasets.shapes:read_shape_png", "weaksam.datasets.shapes:DRAWING_VERSION")}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BYTE_ORDER_MARKS = (  # UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_S3_WAIT_S = {"connect_timeout": 5, "read_timeout": 10}  # for an answer or more of it, before the request is made again
_S3_ATTEMPTS = {"total_max_attempts": 3}  # a server that never answers is an error within two minutes
_READ_ATTEMPTS = 2  # at an object whose transfer breaks off, each with as many requests
_READERS = 32  # concurrent reads; small objects on S3 wait for the network, not for this machine


def is_remote(uri: str) -> bool:
    """Whether reading ``uri`` goes over a network; False for local paths, ``file://`` and ``shapes:``."""
    scheme = _SCHEME.match(uri)
    return scheme is not None and scheme[1] not in ("file", "local")


def is_drawn(uri: str) -> bool:
    """Whether what lies at ``uri`` is drawn when it is read."""
    return uri.partition(":")[0] in DRAWN


def join(uri: str, *parts: str) -> str:
    """Append path ``parts`` (POSIX, relative) to a folder's URI; nothing in them is quoted or resolved."""
    return posixpath.join(uri, *(part.lstrip("/") for part in parts))


def absolute(uri: str) -> str:
    """Make a local path or ``file://`` address an absolute path; other URIs stay as they are."""
    if is_remote(uri) or is_drawn(uri):
        return uri
    return posixpath.join(os.getcwd(), uri.removeprefix("file://").removeprefix("local://"))


def open_fs(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system behind ``uri`` and the path there (absolute if local).

    Listings are not cached: what another process writes is seen. Raises ``DataError`` for an unknown scheme.
    """
    import fsspec

    if not is_remote(uri):
        return fsspec.filesystem("file"), absolute(uri)
    scheme = uri.partition("://")[0]
    options = _CLIENT_OPTIONS[scheme]() if scheme in _CLIENT_OPTIONS else {}
    try:
        fs = fsspec.filesystem(scheme, **options)
    except (ValueError, ImportError) as error:  # fsspec: no such protocol, or its package is not installed
        raise DataError(
            f"{uri}: expected a local path, s3://, gs:// or another address that fsspec reads: {error}"
        ) from error
    if options:
        fs.retries = _READ_ATTEMPTS
    return fs, fs._strip_protocol(uri)


def _s3_options() -> dict[str, Any]:
    # botocore would find the endpoint by itself; naming it keeps clients of different endpoints apart in fsspec's cache.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    retries = {} if "AWS_MAX_ATTEMPTS" in os.environ else {"retries": _S3_ATTEMPTS}
    return {"endpoint_url": endpoint, "use_listings_cache": False, "config_kwargs": {**_S3_WAIT_S, **retries}}


def _gcs_options() -> dict[str, Any]:
    # Read when gcsfs is imported: for the sake of zonal buckets it asks a service for each bucket's kind, by gRPC, and waits
    # for a minute where none answers.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    emulator = os.environ.get(
        "STORAGE_EMULATOR_HOST"
    )  # whose clients need no credentials, as with Google's own libraries
    return {"endpoint_url": emulator, "use_listings_cache": False, **({"token": "anon"} if emulator else {})}


_CLIENT_OPTIONS = {"s3": _s3_options, "s3a": _s3_options, "gs": _gcs_options, "gcs": _gcs_options}


def read_bytes(uri: str) -> bytes:
    """Read one image's file whole, or draw it.

    Raises:
        ImageError: With the reason "missing", "permission denied" or "unreadable" (a folder, an I/O error).
        StorageError: The store that holds it does not answer, which is no fault of the image.
    """
    if is_drawn(uri):
        drawn: bytes = load(DRAWN[uri.partition(":")[0]].read)(uri)
        return drawn
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
            raise DataError(f"expected a readable file: {error}; check the path and its permissions") from error

    with ThreadPoolExecutor(_READERS) as threads:
        yield from threads.map(read, uris)


def read_texts(uris: Sequence[str]) -> Iterator[str]:
    """Read annotation files as text, in the order of ``uris``: UTF-8, or what their byte-order marks say.

    Raises:
        DataError: A file cannot be read, or is not text in these encodings.
    """
    for uri, data in zip(uris, read_annotations(uris), strict=True):
        yield decode_text(data, uri)


def decode_text(data: bytes, uri: str, encoding: str = "") -> str:
    """Decode a text file.

    Args:
        data: Its content.
        uri: Its address, for the message.
        encoding: What the file says of itself; a byte-order mark overrules it, and UTF-8 is meant where neither is.

    Raises:
        DataError: Bytes that this encoding does not know, or zeros, with their line.
    """
    encoding = next((codec for mark, codec in _BYTE_ORDER_MARKS if data.startswith(mark)), encoding or "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        text, got = error.object[: error.start].decode(encoding), f"byte {error.object[error.start]:#04x}"
    else:
        if "\0" not in text:
            return text
        text, got = text[: text.index("\0")], "a zero byte"
    line = 1 + text.count("\n")
    name = "UTF-8" if encoding in ("utf-8", "utf-8-sig") else encoding
    raise DataError(f"{uri}:{line}: expected {name} text, got {got}; save the file as UTF-8")


def split_lines(text: str) -> list[str]:
    """The lines of a text of any system: ended by LF, CR LF or CR, and by nothing else that Unicode calls a line's end."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


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
            names = [entry.name for entry in _scan(path) if _leads_to_folder(entry)]
    return sorted(name for name in names if not name.startswith("."))


def list_files(uri: str) -> list[tuple[str, Stamp]]:
    """List every file under the folder ``uri`` as (POSIX path relative to it, stamp), sorted by path.

    Hidden files and folders (a leading dot) are left out, and so are S3's empty "folder" keys. Local links are followed,
    each folder once, by its path without links if it has one, but not to folders that hold ``uri``; a link that leads
    nowhere, or to itself, is ``NOTHING``. A folder that is missing or empty gives an empty list.

    Raises:
        DataError: A folder cannot be listed, or a name is not valid Unicode, so that no table could hold it.
    """
    fs, path = open_fs(uri)
    with _listing(uri):
        found = sorted(_walk_remote(fs, path) if is_remote(uri) else _walk_local(path))
    for name, _ in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{uri}: expected file names in UTF-8, got {name!a}; rename it (convmv -f latin1 -t utf8 -r --notest "
                "does so for a whole folder of Latin-1 names), or move it elsewhere"
            ) from None
    return found


def list_objects(uri: str, *, deep: bool) -> dict[str, Stamp]:
    """List a folder of a bucket, hidden names too: stamps by path relative to it; empty if there is none.

    Args:
        uri: of the folder.
        deep: list what lies in folders below it as well, a request for every thousand objects.

    Raises:
        DataError: it cannot be listed.
    """
    fs, root = open_fs(uri)
    with _listing(uri):
        try:
            found = fs.find(root, detail=True).values() if deep else fs.ls(root, detail=True)
        except FileNotFoundError:
            return {}
    return {i["name"].removeprefix(root).lstrip("/"): stamp_of_listed(i) for i in found if i["type"] == "file"}


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
        if is_remote(uri):
            _require_answer(fs, path, uri)
        raise ImageError("unreadable", f"{uri}: {type(error).__name__}: {error}") from error


def _require_answer(fs: AbstractFileSystem, path: str, uri: str) -> None:
    """Raise StorageError if a store says nothing of an object, neither that it is there nor that it is not."""
    try:
        fs.info(path)
    except (FileNotFoundError, PermissionError):
        pass
    except Exception as error:
        raise StorageError(
            f"{uri}: no answer from where it is kept ({type(error).__name__}: {error}); check the network, the endpoint and "
            "the credentials of this machine"
        ) from error


@contextmanager
def _listing(uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as in _fetch
        place = getattr(error, "filename", None) or uri
        raise DataError(
            f"{place if isinstance(place, str) else uri}: cannot list this folder ({type(error).__name__}: {error}); "
            + _listing_remedy(uri, error)
        ) from error


def _listing_remedy(uri: str, error: Exception) -> str:
    if is_remote(uri):
        return "check the address, its permissions and the credentials in the environment"
    if isinstance(error, NotADirectoryError):
        return "give the folder that holds it"
    if isinstance(error, PermissionError):
        return "check the address, its permissions (chmod -R u+rX), or move it out of the data set"
    return "check the address, its permissions and its links, or move it out of the data set"


def _walk_local(root: str) -> Iterator[tuple[str, Stamp]]:
    """Folders before the links to them, so that a folder goes by the same path whatever its links are called."""
    visited = {str(folder) for folder in Path(os.path.realpath(root)).parents}
    folders, links = deque([root]), deque[str]()
    while folders or links:
        folder = (folders or links).popleft()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        inside = posixpath.relpath(folder, root)
        for entry in _scan(folder):
            if entry.name.startswith("."):
                continue
            if _leads_to_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif _is_file_or_dangling(entry):
                yield entry.name if inside == "." else f"{inside}/{entry.name}", _stamp(entry)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing if it is gone."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or past what may be seen
        return False


def _is_file_or_dangling(entry: os.DirEntry[str]) -> bool:
    """Whether reading it gives a picture or a reason why not; False for pipes and sockets."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    try:
        return stamp_of_stat(entry.stat())
    except OSError:
        return NOTHING


def _walk_remote(fs: AbstractFileSystem, root: str) -> Iterator[tuple[str, Stamp]]:
    for path, info in fs.find(root, detail=True).items():
        name = path.removeprefix(root).lstrip("/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if info["type"] == "file" and not path.endswith("/") and not hidden:
            yield name, stamp_of_listed(info)
