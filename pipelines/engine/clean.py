"""What nobody needs any more in a run folder: `weaksam clean`.

    instances of earlier settings, sets and indexes     removed, unless --keep-days, a preview or a table of the run keeps them
    rows that no set of a kept index asks for           taken out of their tables
    many small files of rows                            put together into few

A cleaner refuses to begin while anybody works in the folder, and holds the lock of each instance that it works on.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from pipelines.engine import interrupts
from pipelines.engine.status import TABLES, previews_of, run_status
from pipelines.store.compaction import Compaction, compact, plan_compaction, remove_retired
from pipelines.store.files import DamagedFileError, read_object
from pipelines.store.instances import PREVIEW, SETS, Instance, current_instances
from pipelines.store.lock import Lock, lock_holder
from pipelines.store.planned import PLANNED_ROWS, Planned, index_folder, planned_rows
from pipelines.store.schemas import IMAGE_ID, INPUT
from pipelines.store.tables import Table
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs

_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something in a run folder that nothing kept needs."""

    uri: str
    what: str
    size_bytes: int

    def remove(self) -> None:
        """Delete it with everything in it."""
        fs, path = open_fs(self.uri)
        fs.rm(path, recursive=True)


@dataclass(frozen=True, kw_only=True)
class SharedRows:
    """The rows of an instance that is kept, and the sets that ask for some of them."""

    instance: Instance  # under no set
    asked: pa.Table  # identities
    plan: Compaction

    def __str__(self) -> str:
        done = [f"{self.plan.superseded:,} superseded rows"] if self.plan.superseded else []
        done += [f"{self.plan.copies:,} rows that are there twice"] if self.plan.copies else []
        done += (
            [f"{len(self.plan.files):,} of {self.plan.files_before:,} files become fewer"] if self.plan.files else []
        )
        done += [f"{self.plan.retired:,} files that were replaced are deleted"] if self.plan.retired else []
        return f"{self.instance.folder}  {', '.join(done)}"

    def compact(self) -> int:
        """Compact the table; return how many replaced files wait to be deleted, for readers."""
        with (
            interrupts.revocable() as revoke,
            Lock(self.instance.folder, "weaksam clean", on_lost=revoke) as lock,
        ):
            table = _table(self.instance)
            compact(table, self.asked, lock.token)
            return remove_retired(table)


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What there is to clean."""

    leftovers: Sequence[Leftover]
    tables: Sequence[SharedRows]


def plan_cleaning(run_uri: str, *, previews: bool, keep_days: float = 0.0) -> Cleaning:
    """Find what a run folder does not need any more.

    Args:
        run_uri: a run folder.
        previews: remove its previews, too.
        keep_days: what was finished within so many days is kept.

    Raises:
        RunError: there is no run at this place, or somebody works in it.
    """
    run_status(run_uri)  # refuses what is no run folder: nothing is ever deleted elsewhere
    _refuse_beside_work(run_uri)
    kept = _Kept(run_uri, since=time.time() - keep_days * _DAY_S, previews=previews)
    found = [
        *(_leftover(join(run_uri, name), "a preview") for name in (previews_of(run_uri) if previews else [])),
        *(
            _leftover(instance.folder, f"{instance.name}: an earlier key")
            for instance in _instances(run_uri)
            if not kept.keeps(instance)
        ),
    ]
    tables = [kept.rows_of(instance) for instance in _instances(run_uri) if kept.keeps(instance)]
    return Cleaning(leftovers=found, tables=[table for table in tables if table is not None and table.plan])


class _Kept:
    """Which instances of a run folder are kept, and which rows their sets ask for."""

    def __init__(self, run_uri: str, *, since: float, previews: bool) -> None:
        runs = [run_uri, *([] if previews else [join(run_uri, name) for name in previews_of(run_uri)])]
        current = [instance for uri in runs for instance in current_instances(uri)]
        self._run_uri = run_uri
        self._since = since
        self._keys = {(instance.name, instance.key) for instance in current} | _in_tables(run_uri)
        # The index of a set that is shown, whatever index is the current one.
        self._keys |= {("index", instance.planned.index) for instance in current if instance.planned is not None}

    def keeps(self, instance: Instance) -> bool:
        return (instance.name, instance.key) in self._keys or self._is_young(instance)

    def rows_of(self, instance: Instance) -> SharedRows | None:
        """Return the rows of an instance that has some that sets ask for, or None."""
        if INPUT.name not in _stored(instance).names:
            return None
        asked = [PLANNED_ROWS.empty_table()]
        for planned in _sets(instance):
            index = Instance(self._run_uri, "index", planned.index)
            if self.keeps(index):
                asked.append(planned_rows(index_folder(self._run_uri, planned.index), planned))
        rows = pa.concat_tables(asked)
        return SharedRows(instance=instance, asked=rows, plan=plan_compaction(_table(instance), rows))

    def _is_young(self, instance: Instance) -> bool:
        fs, root = open_fs(join(instance.folder, SETS))
        files = fs.ls(root, detail=False) if fs.exists(root) else []
        return any(fs.modified(path).timestamp() >= self._since for path in files)


def _refuse_beside_work(run_uri: str) -> None:
    for instance in _instances(run_uri):
        if (holder := lock_holder(instance.folder)) is not None:
            raise RunError(f"{run_uri}: {holder} is at work in it; wait for its end, or stop it, and clean then")


def _instances(run_uri: str) -> Iterator[Instance]:
    """Yield every instance of a run folder, under no set, by name and key."""
    fs, root = open_fs(run_uri)
    for path in sorted(fs.ls(root, detail=False)):
        name = posixpath.basename(path.rstrip("/"))
        if name.startswith((PREVIEW, "_", ".")) or not fs.isdir(path):
            continue
        for key_path in sorted(fs.ls(path, detail=False)):
            key = posixpath.basename(key_path.rstrip("/"))
            if key.isalnum() and fs.exists(posixpath.join(root, name, key, SETS)):
                yield Instance(run_uri, name, key)


def _sets(instance: Instance) -> Iterator[Planned]:
    fs, root = open_fs(join(instance.folder, SETS))
    for path in sorted(fs.glob(posixpath.join(root, "*.plan.json"))) if fs.exists(root) else []:
        uri = join(instance.folder, SETS, posixpath.basename(path))
        plan = read_object(uri, instance.mended_by) or {}
        if "planned" in plan:
            try:
                yield TypeAdapter(Planned).validate_python(plan["planned"])
            except ValidationError as error:
                raise DamagedFileError(uri, "it does not say which images are meant", instance.mended_by) from error


def _stored(instance: Instance) -> pa.Schema:
    return instance.table(pa.schema([IMAGE_ID])).stored_schema()


def _table(instance: Instance) -> Table:
    return instance.table(_stored(instance))


def _leftover(uri: str, what: str) -> Leftover:
    fs, path = open_fs(uri)
    return Leftover(uri=uri, what=what, size_bytes=fs.du(path))


def _in_tables(run_uri: str) -> set[tuple[str, str]]:
    """Return (name, key) of the instances that the tables of a run were measured on."""
    fs, root = open_fs(run_uri)
    files = fs.glob(posixpath.join(root, TABLES, "*.json"))
    found: set[tuple[str, str]] = set()
    for path in files:
        uri = join(run_uri, TABLES, posixpath.basename(path))
        document = read_object(uri, "`weaksam table`") or {"rows": []}
        try:
            cells = [keys for row in document["rows"] for keys in row["instances"].values()]
            found |= {(str(name), str(key)) for keys in cells for name, key in keys.items()}
        except (LookupError, TypeError, AttributeError) as error:
            raise DamagedFileError(uri, "expected a table of instances", "`weaksam table`") from error
    return found
