"""Tables as folders of Parquet files, on a disk or in a bucket.

A table's rows are whatever its ``*.parquet`` files hold, but for files that others have replaced (``compaction``). A list
beside them says whose rows they are (``identities``): it saves opening them, and is believed as long as sizes and times agree.
Local writes are atomic (a hidden name, then a rename), bucket writes are so by nature. Pages carry checksums, which are
verified at every reading; a file that does not read as a part of its table is damaged, whoever damaged it: readers raise
``DamagedFileError``, and the holder of the folder's lock sets it aside into ``_damaged/`` and makes its rows again.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import posixpath
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.store import schemas
from pipelines.store.files import DamagedFileError, read_object, set_aside, write_bytes
from weaksam.errors import DataError
from weaksam.io.files import is_remote, join, open_fs

logger = logging.getLogger(__name__)

T = TypeVar("T")

_AHEAD = 4  # files that are fetched while one is worked on: of compacted ones each may take 128 MiB
_ROWS_AT_ONCE = 4096  # as objects of Python, which take ten times what Arrow's do
_READERS = 16  # concurrent files; a bucket answers each in tens of milliseconds
# Codes that a file system gives when asked for what a damaged file says (a place before its start) or for no file at all;
# Arrow's own findings have none. Any other code is the storage's trouble, not the file's.
_NOT_OF_STORAGE = (None, errno.EINVAL, errno.EISDIR, errno.ENOENT)
_DAMAGE = (pa.ArrowException, ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError, MemoryError)


LIST_FILE = "_identities.parquet"  # see ``identities``
RETIRED_FILE = "_retired.json"  # names of files that others have replaced, see ``compaction``


class Rows(ABC):
    """What a reader sees of a table: its rows, part by part.

    ``folder`` is where they lie, ``schema`` their columns, ``mended_by`` the command that makes them, for messages. Reading
    raises DamagedFileError for a file that is no part of the table.
    """

    folder: str
    schema: pa.Schema
    mended_by: str
    set: str = ""  # a digest of which rows are seen; "" where all are

    @abstractmethod
    def stamps(self) -> list[str]:
        """Return names, sizes and times of the files: others, and something was written anew."""

    @abstractmethod
    def iter_parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the table file by file, for what does not fit into memory."""

    @abstractmethod
    def ids(self) -> list[str]:
        """Return the image ids of all rows, one each, so that duplicates show."""

    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Return the class list that travels with the table; empty when it has no file or no classes."""

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the whole table in memory, its files in name order. Class names stay in the metadata."""
        parts = [part for part in self.iter_parts(columns) if part.num_rows]
        if not parts:
            empty = self.schema.empty_table()
            return empty.select(list(columns)) if columns else empty
        return pa.concat_tables(parts).combine_chunks()

    def of_images(self, image_ids: Sequence[str], columns: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the rows of some images by id, holding one file in memory; an image that has none is left out.

        ``columns``, ``image_id`` among them, are those that are read; None = all.
        """
        wanted = pa.array(image_ids, pa.string())
        parts = (part.filter(pc.is_in(part["image_id"], wanted)) for part in self.iter_parts(columns))
        return {row["image_id"]: row for part in parts for row in part.to_pylist()}

    def iter_rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows as dictionaries, file by file and of a large file some at a time."""
        for part in self.iter_parts(columns):
            for some in part.to_batches(max_chunksize=_ROWS_AT_ONCE):
                yield from some.to_pylist()


class Table(Rows):
    """The Parquet files of one folder, read under one schema. Names starting with ``_`` or ``.`` are not its files."""

    def __init__(self, folder: str, schema: pa.Schema, mended_by: str = "the command that made it") -> None:
        self.folder = folder
        self.schema = schema
        self.mended_by = mended_by
        self._rows: dict[str, int] = {}  # files never change once written, so their row counts are remembered

    def parts(self) -> list[str]:
        """Return the paths of the table's files, sorted; empty when the folder does not exist."""
        return list(self.stamped().values())

    def stamped(self) -> dict[str, str]:
        """Return the path of each file by its name and stamp, sorted by name: its size and times, "" where nobody says them.

        One that was written anew, or was damaged since, is called otherwise.
        """
        return {_stamp(info): info["name"] for info in self._listed()}

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file by its name."""
        return {posixpath.basename(info["name"]): int(info["size"] or 0) for info in self._listed()}

    def stored_schema(self) -> pa.Schema:
        """Return the schema of the first file, with its metadata; the table's own if there is no file."""
        fs, _ = open_fs(self.folder)
        for path in self.parts()[:1]:
            with fs.open(path, "rb") as file:
                return pq.read_schema(file)
        return self.schema

    def stamps(self) -> list[str]:
        """See ``Rows``."""
        return list(self.stamped())

    def count(self) -> int:
        """Return the number of rows in readable files; one that is being written, or is damaged, counts as none."""
        fs, _ = open_fs(self.folder)

        def read_footer(path: str) -> None:
            with suppress(*_DAMAGE, OSError), fs.open(path, "rb") as file:
                self._rows[posixpath.basename(path)] = pq.ParquetFile(file).metadata.num_rows

        parts = {posixpath.basename(path): path for path in self.parts()}
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(read_footer, [path for name, path in parts.items() if name not in self._rows]))
        return sum(self._rows.get(name, 0) for name in parts)

    def note_counts(self, counts: Mapping[str, int]) -> None:
        """Remember how many rows files have, by name, so that counting opens none of them."""
        self._rows |= counts

    def ids(self) -> list[str]:
        """See ``Rows``."""
        with ThreadPoolExecutor(_READERS) as pool:
            parts = pool.map(lambda path: self.read_part(path, pa.schema([schemas.IMAGE_ID])), self.parts())
            return [image_id for part in parts for image_id in part["image_id"].to_pylist()]

    def iter_parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """See ``Rows``."""
        wanted = pa.schema([f for f in self.schema if columns is None or f.name in columns])
        return read_ahead(lambda path: self.read_part(path, wanted), self.parts(), self.folder)

    def class_names(self) -> tuple[str, ...]:
        """See ``Rows``; the first file is asked."""
        for path in self.parts()[:1]:
            return schemas.class_names_of(self.read_part(path, pa.schema([schemas.IMAGE_ID])).schema)
        return ()

    def damaged(self, believed: Collection[str] = ()) -> dict[str, str]:
        """Read every file from end to end; return what is wrong with those that are no part of this table, by file name.

        Those that this process has found sound before, and that have not changed since, are not read again, nor those that are
        ``believed`` (``stamped``).
        """

        def examine(stamp: str, path: str) -> str | None:
            if stamp in believed or (stamp, path) in _sound:
                return None
            try:
                part = self.read_part(path, self.schema)
            except DamagedFileError as error:
                return error.reason
            if self.schema.metadata and schemas.class_names_of(part.schema) != schemas.class_names_of(self.schema):
                return "it is of other classes than the table"
            _sound.add((stamp, path))
            return None

        found = self.stamped()
        with ThreadPoolExecutor(_READERS) as pool:
            reasons = pool.map(examine, found.keys(), found.values())
            named = zip(map(posixpath.basename, found.values()), reasons, strict=True)
            return {name: reason for name, reason in named if reason is not None}

    def set_aside_damaged(self, believed: Collection[str] = ()) -> list[str]:
        """Move files that are no part of this table out of it; return their names. Only for the holder of the lock."""
        damaged = self.damaged(believed)
        set_aside(self.folder, damaged)
        return list(damaged)

    def _listed(self) -> list[dict[str, Any]]:
        fs, root = open_fs(self.folder)
        fs.invalidate_cache()  # other processes add files
        if not fs.exists(root):
            return []
        found = ({**info, "name": info["name"].rstrip("/")} for info in fs.ls(root, detail=True))
        named = ((posixpath.basename(info["name"]), info) for info in found)
        listed = dict(named)
        gone = read_object(join(self.folder, RETIRED_FILE), self.mended_by) if RETIRED_FILE in listed else None
        parts = [
            info
            for name, info in listed.items()
            if name.endswith(".parquet") and name[0] not in "._" and name not in (gone or {})
        ]
        return sorted(parts, key=lambda info: str(info["name"]))

    def read_part(self, path: str, wanted: pa.Schema) -> pa.Table:
        """Return the columns of one file under their types; raise DamagedFileError if they are not in it as they should be."""
        try:
            return self._read(path, wanted)
        except DamagedFileError:
            self._distrust_list()
            raise

    def _distrust_list(self) -> None:
        """Remove the list of whose rows there are, so that the holder of the lock looks at every file again."""
        fs, root = open_fs(self.folder)
        with suppress(OSError):  # there is none, or nothing may be written here
            fs.rm_file(posixpath.join(root, LIST_FILE))

    def _read(self, path: str, wanted: pa.Schema) -> pa.Table:
        fs, _ = open_fs(self.folder)
        uri = join(self.folder, posixpath.basename(path))
        try:
            with fs.open(path, "rb") as file:
                # In this thread alone: one of Arrow's own that still holds a file of Python's ends a process that ends.
                parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
                names = [name for name in wanted.names if name in parquet.schema_arrow.names]
                part = parquet.read(names, use_threads=False)
                rows = parquet.metadata.num_rows
            part = schemas.completed(part, wanted)
            schemas.check(part, wanted, uri)
            schemas.class_names_of(part.schema)
            part.validate(full=True)
        except DataError as error:
            raise DamagedFileError(uri, str(error).removeprefix(f"{uri}: "), self.mended_by) from error
        except (*_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NOT_OF_STORAGE:
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DamagedFileError(uri, reason, self.mended_by) from error
        if part.num_rows != rows:
            raise DamagedFileError(uri, f"expected {rows:,} rows, got {part.num_rows:,}", self.mended_by)
        return part

    def write_part(self, table: pa.Table, name: str) -> None:
        """Write one file ``<name>.parquet``, all or nothing; one of the same name is replaced."""
        schemas.check(table, self.schema, f"{self.folder}/{name}.parquet")
        write_bytes(join(self.folder, f"{name}.parquet"), to_parquet(table))

    def write_rows(self, rows: Sequence[dict[str, Any]], name: str) -> None:
        """Write rows given as dictionaries as one file under this table's schema and metadata."""
        self.write_part(pa.Table.from_pylist(list(rows), schema=self.schema), name)

    def require_room(self) -> None:
        """Raise OSError, naming a file, if the storage takes no more: it is full, read-only or out of reach."""
        uri = join(self.folder, "_room")
        write_bytes(uri, bytes(2**20))
        fs, path = open_fs(uri)
        fs.rm_file(path)

    def remove_all(self) -> None:
        """Delete all files of the table. Only for the holder of the lock."""
        fs, _ = open_fs(self.folder)
        for path in self.parts():
            fs.rm_file(path)


_sound: set[tuple[str, str]] = set()  # stamps and paths of files that this process has read from end to end


def read_ahead(read: Callable[[T], pa.Table], parts: Iterable[T], folder: str) -> Iterator[pa.Table]:
    """Yield what ``read`` makes of each part, in order; while one is worked on, the next few are fetched from a bucket.

    Args:
        read: called by other threads where the folder is in a bucket.
        parts: of a table.
        folder: of the table.
    """
    if not is_remote(folder):
        yield from map(read, parts)
        return
    waiting: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(_AHEAD) as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(read, part))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever asks for no more, or an error
            for unread in waiting:
                unread.cancel()


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as the content of a Parquet file, its pages with checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def part_name(rows: pa.Table, token: str = "") -> str:
    """Return the name of a file of rows: a task that is tried again writes the same file again.

    Args:
        rows: with the columns ``image_id`` and ``input``.
        token: of the lock under which they are written, so that a former owner of it replaces no file of the present one.
    """
    identities = sorted(zip(rows["image_id"].to_pylist(), rows["input"].to_pylist(), strict=True))
    digest = hashlib.sha1("\n".join("\t".join(identity) for identity in identities).encode()).hexdigest()
    return "-".join(["part", digest[:16], *([token[:8]] if token else [])])


def _stamp(info: Mapping[str, Any]) -> str:
    said = (str(info.get(name, "")) for name in ("size", "mtime", "ino", "ETag", "LastModified"))
    return "\t".join([posixpath.basename(info["name"]), *said])
