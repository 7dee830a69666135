"""Whose rows a table has: the identities of its rows, kept in a small list beside its parts.

The list is a shortcut and no authority: a part that is not in it, or has changed since, is opened, and so is everything once
a reader has found a part damaged. Whoever holds the lock of the folder writes it when its work is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.store.files import write_bytes
from pipelines.store.schemas import IMAGE_ID, INPUT
from pipelines.store.tables import LIST_FILE, Table, to_parquet
from weaksam.io.files import join, open_fs

_READERS = 16
_ROW = pa.schema([IMAGE_ID, INPUT])
_CALLED = pa.field("part", pa.dictionary(pa.int32(), pa.string()))  # as ``Table.stamped`` calls it
_LIST = pa.schema([_CALLED, *_ROW])

_met: dict[str, pa.Table] = {}  # folder -> what this process knows of its parts


def identities(table: Table) -> pa.Table:
    """Return whose rows a table has, ``image_id``, ``input`` and the ``part`` (file name) that each is in, by part.

    Raises:
        DamagedFileError: a file is no part of a table of rows.
    """
    found = _listed(table)
    encoded = found["part"].combine_chunks()
    names = np.array([called.partition("\t")[0] for called in encoded.dictionary.to_pylist()], np.object_)
    order = np.argsort(names)
    place = np.argsort(order)[encoded.indices.to_numpy()]
    rows = np.argsort(place, kind="stable")
    table.note_counts(dict(zip(names[order], np.bincount(place, minlength=len(names)).tolist(), strict=True)))
    part = pa.DictionaryArray.from_arrays(pa.array(place[rows], pa.int32()), pa.array(names[order], pa.string()))
    return found.take(rows).set_column(0, "part", part)


def keep(table: Table) -> None:
    """Write the list beside a table. Only for the holder of the lock."""
    write_bytes(join(table.folder, LIST_FILE), to_parquet(_listed(table)))


def believed(table: Table) -> set[str]:
    """Return the files, as ``Table.stamped`` calls them, that the list beside a table has."""
    return set(_kept(table.folder)["part"].combine_chunks().dictionary.to_pylist())


def _listed(table: Table) -> pa.Table:
    stamped = table.stamped()
    known = _met.get(table.folder)
    known = _of(_kept(table.folder) if known is None else known, stamped)
    missing = stamped.keys() - set(known["part"].combine_chunks().dictionary.to_pylist())
    if missing and table.folder in _met:  # another process may have listed them meanwhile
        listed = _of(_kept(table.folder), {called: stamped[called] for called in missing})
        missing -= set(listed["part"].combine_chunks().dictionary.to_pylist())
        known = _together(known, listed)
    with ThreadPoolExecutor(_READERS) as pool:
        read = list(pool.map(lambda called: _read(table, called, stamped[called]), sorted(missing)))
    _met[table.folder] = _together(known, *read)
    return _met[table.folder]


def _of(known: pa.Table, stamped: Mapping[str, str]) -> pa.Table:
    """Return the rows of the parts that are still there as they were; the dictionary has their names alone."""
    rows = known.filter(pc.is_in(known["part"].cast(pa.string()), pa.array(list(stamped), pa.string())))
    return rows.set_column(0, _CALLED, rows["part"].cast(pa.string()).dictionary_encode().cast(_CALLED.type))


def _read(table: Table, called: str, path: str) -> pa.Table:
    rows = table.read_part(path, _ROW)
    return rows.add_column(0, _CALLED, pa.array([called] * rows.num_rows, pa.string()).dictionary_encode()).cast(_LIST)


def _together(*tables: pa.Table) -> pa.Table:
    found = pa.concat_tables([_LIST.empty_table(), *tables])
    text = found["part"].cast(pa.string()).combine_chunks()
    return found.set_column(0, _CALLED, text.dictionary_encode().cast(_CALLED.type)).combine_chunks()


def _kept(folder: str) -> pa.Table:
    fs, path = open_fs(join(folder, LIST_FILE))
    with suppress(OSError, pa.ArrowException):  # there is none, or it is damaged: the parts are opened
        kept = pq.ParquetFile(
            pa.BufferReader(fs.cat_file(path)), page_checksum_verification=True, pre_buffer=False
        ).read(use_threads=False)  # a thread of Arrow's that is still at it ends a process that ends
        return kept.cast(_LIST)
    return _LIST.empty_table()
