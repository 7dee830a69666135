"""Tables as folders of Parquet files, on a disk or in a bucket, and nothing else.

A table's rows are whatever its readable ``*.parquet`` files hold: there is no second record of what is done that could
disagree with them. Local writes are atomic (a hidden name, then a rename), bucket writes are so by nature; files torn by a
kill can only come from other writers and are removed by ``remove_torn``, which only the holder of the folder's lock may call.
"""

from __future__ import annotations

import json
import logging
import posixpath
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import schemas
from pipelines.explain import naming
from weaksam.errors import RunError
from weaksam.files import join, open_fs

logger = logging.getLogger(__name__)

_READERS = 16  # concurrent footers; a bucket answers each in tens of milliseconds


class Table:
    """The Parquet files of one folder, read under one schema. Names starting with ``_`` or ``.`` are not its files."""

    def __init__(self, folder: str, schema: pa.Schema) -> None:
        self.folder = folder
        self.schema = schema
        self._rows: dict[str, int] = {}  # files never change once written, so their row counts are remembered

    def parts(self) -> list[str]:
        """Return the paths of the table's files, sorted; empty when the folder does not exist."""
        fs, root = open_fs(self.folder)
        fs.invalidate_cache()  # other processes add files
        if not fs.exists(root):
            return []
        names = (posixpath.basename(path) for path in fs.ls(root, detail=False))
        return sorted(posixpath.join(root, n) for n in names if n.endswith(".parquet") and n[0] not in "._")

    def count(self) -> int:
        """Return the number of rows in readable files; a file that is being written counts as none."""
        fs, _ = open_fs(self.folder)
        parts = self.parts()
        for path in parts:
            if path not in self._rows:
                try:
                    with fs.open(path, "rb") as file:
                        self._rows[path] = pq.ParquetFile(file).metadata.num_rows
                except (pa.ArrowInvalid, OSError):
                    continue
        return sum(self._rows.get(path, 0) for path in parts)

    def ids(self) -> list[str]:
        """Return the image ids of all rows, one each, so that duplicates show."""
        fs, _ = open_fs(self.folder)

        def read(path: str) -> list[str]:
            with fs.open(path, "rb") as file:
                ids: list[str] = pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
            return ids

        with ThreadPoolExecutor(_READERS) as pool:
            return [image_id for ids in pool.map(read, self.parts()) for image_id in ids]

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the whole table in memory, its files in name order. Class names stay in the metadata."""
        parts = [part for part in self.iter_parts(columns) if part.num_rows]
        if not parts:
            empty = self.schema.empty_table()
            return empty.select(list(columns)) if columns else empty
        return pa.concat_tables(parts).combine_chunks()

    def iter_parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the table file by file, for what does not fit into memory."""
        fs, _ = open_fs(self.folder)
        wanted = [f for f in self.schema if columns is None or f.name in columns]
        for path in self.parts():
            with fs.open(path, "rb") as file:
                part = pq.read_table(file, columns=[f.name for f in wanted])
            yield schemas.check(part, pa.schema(wanted), path)

    def iter_rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows as dictionaries, file by file."""
        for part in self.iter_parts(columns):
            yield from part.to_pylist()

    def class_names(self) -> tuple[str, ...]:
        """Return the class list that travels with the table; empty when it has no file or no classes."""
        fs, _ = open_fs(self.folder)
        for path in self.parts()[:1]:
            with fs.open(path, "rb") as file:
                return schemas.class_names_of(pq.read_schema(file))
        return ()

    def write_part(self, table: pa.Table, name: str) -> None:
        """Write one file ``<name>.parquet``, all or nothing; one of the same name is replaced."""
        schemas.check(table, self.schema, f"{self.folder}/{name}.parquet")
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_bytes(join(self.folder, f"{name}.parquet"), sink.getvalue().to_pybytes())

    def write_rows(self, rows: Sequence[dict[str, Any]], name: str) -> None:
        """Write rows given as dictionaries as one file under this table's schema and metadata."""
        self.write_part(pa.Table.from_pylist(list(rows), schema=self.schema), name)

    def remove_torn(self) -> list[str]:
        """Delete files that no reader can open, left by a kill; return their paths. Only for the holder of the lock."""
        fs, _ = open_fs(self.folder)
        torn = []
        for path in self.parts():
            try:
                with fs.open(path, "rb") as file:
                    pq.ParquetFile(file)
            except pa.ArrowInvalid:
                fs.rm_file(path)
                torn.append(path)
        if torn:
            logger.warning("removed %d torn file(s) of an interrupted write in %s", len(torn), self.folder)
        return torn

    def remove_all(self) -> None:
        """Delete all files of the table. Only for the holder of the lock."""
        fs, _ = open_fs(self.folder)
        for path in self.parts():
            fs.rm_file(path)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a small file, all or nothing, making its folder."""
    fs, path = open_fs(uri)
    if _is_local(fs):
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        temporary = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.{uuid.uuid4().hex[:8]}")
        with naming(path):
            fs.pipe_file(temporary, data)
            fs.mv(temporary, path)
    else:
        fs.pipe_file(path, data)


def write_json(uri: str, value: Any) -> None:
    """Write a small JSON file for people and programs to read."""
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(uri: str) -> Any:
    """Return what a JSON file holds, or None when there is no such file; raise RunError on anything unreadable."""
    fs, path = open_fs(uri)
    fs.invalidate_cache(posixpath.dirname(path))
    try:
        data = fs.cat_file(path)
    except FileNotFoundError:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        raise RunError(
            f"{uri}: expected JSON, got {data[:40]!r} ({error}). Delete the file to start afresh."
        ) from error


def create_exclusively(uri: str, data: bytes) -> bool:
    """Create a non-empty file that must not exist yet; return False when it does. Safe against a second caller anywhere."""
    fs, path = open_fs(uri)
    if _is_local(fs):
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
    try:
        with naming(path), fs.open(path, "xb") as file:  # O_EXCL on a disk, a conditional put (If-None-Match) on S3
            file.write(data)
    except FileExistsError:
        return False
    return True


def _is_local(fs: Any) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
