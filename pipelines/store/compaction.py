"""Rows that nobody asks for any more, and the many small files that a run writes: fewer and larger ones with the other rows.

Readers may be at work: what replaces files is written first; then one small file, ``_retired.json``, takes the old ones out
of the table at once; they are deleted when nobody can be reading them any longer, by whoever holds the lock then. A cleaner
that is killed leaves rows twice, or files that are no part of the table: neither is ever seen.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.store import identities
from pipelines.store.files import read_object, write_json
from pipelines.store.planned import first_of_each, identity_keys
from pipelines.store.tables import RETIRED_FILE, Table, part_name
from weaksam.io.files import join, open_fs

GRACE_S = 3_600.0  # a reader that has listed a table has opened its last file within it
SMALL_BYTES = 8 * 2**20  # files below it are put together
_PART_BYTES = 128 * 2**20  # of a file's rows in memory; zstd makes a half to a tenth of it


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What there is to do for a table."""

    superseded: int  # rows that nobody asks for
    copies: int  # rows that are there twice
    files: tuple[str, ...]  # that are replaced by fewer ones
    files_before: int
    retired: int  # files that were replaced long enough ago to be deleted

    def __bool__(self) -> bool:
        return bool(self.superseded or self.copies or self.files or self.retired)


def plan_compaction(table: Table, asked: pa.Table) -> Compaction:
    """Say what compacting a table would do.

    Args:
        table: of rows.
        asked: identities of all rows that somebody asks for.
    """
    wanted, first = _judged(table, asked)
    found = identities.identities(table)
    names = found["part"].cast(pa.string())
    spoilt = set(pc.unique(names.filter(pa.array(~(wanted & first)))).to_pylist())
    sizes = table.sizes()
    small = {name for name, size in sizes.items() if size < SMALL_BYTES}
    files = spoilt | (small if len(small) > 1 else set())
    return Compaction(
        superseded=int((~wanted).sum()),
        copies=int((wanted & ~first).sum()),
        files=tuple(sorted(files)),
        files_before=len(sizes),
        retired=len(_due(table, GRACE_S)),
    )


def compact(table: Table, asked: pa.Table, token: str) -> Compaction:
    """Compact a table; return what was done. Only for the holder of the lock, whose ``token`` the new files carry."""
    plan = plan_compaction(table, asked)
    if plan.files:
        written = {
            f"{name}.parquet" for name in (_write(table, rows, token) for rows in _merged(table, asked, plan.files))
        }
        _retire(table, set(plan.files) - written)
        identities.keep(table)
    return plan


def remove_retired(table: Table, grace_s: float = GRACE_S) -> int:
    """Delete files that were replaced at least ``grace_s`` ago; return how many wait. Only for the holder of the lock."""
    fs, root = open_fs(table.folder)
    due = _due(table, grace_s)
    for name in due:
        path = posixpath.join(root, name)
        if fs.exists(path):
            fs.rm_file(path)
    left = {name: when for name, when in _retired(table).items() if name not in due}
    if due and left:
        write_json(join(table.folder, RETIRED_FILE), left)
    elif due:
        fs.rm_file(posixpath.join(root, RETIRED_FILE))
    return len(left)


def _judged(table: Table, asked: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say of each row of ``identities(table)`` whether somebody asks for it, and whether it is the first of its identity."""
    found = identities.identities(table)
    wanted = pc.is_in(identity_keys(found), identity_keys(asked)).to_numpy(zero_copy_only=False)
    return wanted, first_of_each(found)


def _merged(table: Table, asked: pa.Table, files: tuple[str, ...]) -> Iterator[pa.Table]:
    """Yield the rows of some files that are kept, as much at a time as one new file holds."""
    found = identities.identities(table)
    wanted, first = _judged(table, asked)
    kept = wanted & first
    of_part = found["part"].combine_chunks()  # the rows of a part stand together
    ends = np.searchsorted(of_part.indices.to_numpy(), np.arange(len(of_part.dictionary)), side="right")
    rows_of = {
        name: slice(begin, end)
        for name, begin, end in zip(of_part.dictionary.to_pylist(), [0, *ends[:-1]], ends, strict=True)
    }
    paths = {posixpath.basename(path): path for path in table.parts()}
    held: list[pa.Table] = []
    held_bytes = 0
    for name in files:
        if kept[rows_of[name]].any():
            held.append(table.read_part(paths[name], table.schema).filter(pa.array(kept[rows_of[name]])))
            held_bytes += held[-1].nbytes
        if held_bytes >= _PART_BYTES:
            yield pa.concat_tables(held)
            held, held_bytes = [], 0
    if held:
        yield pa.concat_tables(held)


def _write(table: Table, rows: pa.Table, token: str) -> str:
    name = part_name(rows, token)
    table.write_part(rows, name)
    return name


def _retire(table: Table, names: set[str]) -> None:
    write_json(join(table.folder, RETIRED_FILE), {**_retired(table), **dict.fromkeys(sorted(names), time.time())})


def _retired(table: Table) -> dict[str, float]:
    """Return when each file was replaced, in seconds since 1970."""
    return read_object(join(table.folder, RETIRED_FILE), table.mended_by) or {}


def _due(table: Table, grace_s: float) -> set[str]:
    return {name for name, when in _retired(table).items() if time.time() - when >= grace_s}
