"""Rows that a table has twice: a former owner of its lock, or its tasks on other machines, wrote them once more."""

from __future__ import annotations

import posixpath

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.store.identities import identities
from pipelines.store.planned import first_of_each
from pipelines.store.tables import Table, part_name
from weaksam.io.files import open_fs


def remove_copies(table: Table) -> int:
    """Leave each row once, that of the first file by name; return how many were removed. Only for the holder of the lock."""
    found = identities(table)
    copy = ~first_of_each(found)
    if not copy.any():
        return 0
    fs, _ = open_fs(table.folder)
    paths = {posixpath.basename(path): path for path in table.parts()}
    names = found["part"].cast(pa.string())
    written = set()
    for name in pc.unique(names.filter(pa.array(copy))).to_pylist():
        kept = ~copy[pc.equal(names, name).to_numpy()]
        if kept.any():
            part = table.read_part(paths[name], table.schema).filter(pa.array(kept))
            table.write_part(part, part_name(part))
            written.add(f"{part_name(part)}.parquet")
        if name not in written:  # where it is, all of this file was copies, and what is kept of another took its place
            fs.rm_file(paths[name])
    return int(copy.sum())
