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
from pipelines.engine.status import TABLES, run_status
from pipelines.store.compaction import Compaction, compact, plan_compaction, remove_retired
from pipelines.store.files import DamagedFileError, read_object
from pipelines.store.instances import PREVIEW, SETS, Instance, current_instances, previews_of
from pipelines.store.lock import Lock, lock_holder
from pipelines.store.planned import PLANNED_ROWS, Planned, index_folder, planned_rows
from pipelines.store.schemas import IMAGE_ID, INPUT
from pipelines.store.tables import Table
from weaksam.errors import RunError
from weaksam.io.files import join, open_fs

_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A folder in a run folder that nothing kept needs."""

    uri: str
    what: str
    size_bytes: int
    instance: Instance | None = None  # whose folder it is; None: a preview's

    def remove(self, kept: Kept) -> None:
        """Delete it with everything in it, unless somebody has come to need it since it was found."""
        fs, path = open_fs(self.uri)
        if self.instance is None:
            fs.rm(path, recursive=True)
            return
        with Lock(self.instance.folder, "weaksam clean"):
            if not kept.keeps(self.instance):
                fs.rm(path, recursive=True)


@dataclass(frozen=True, kw_only=True)
class SharedRows:
    """The rows of an instance that is kept, and what there is to do for its table."""

    instance: Instance  # under no set
    plan: Compaction

    def __str__(self) -> str:
        plan = self.plan
        done = {
            f"{plan.superseded:,} superseded rows": plan.superseded,
            f"{plan.copies:,} rows that are there twice": plan.copies,
            f"{len(plan.files):,} of {plan.files_before:,} files become fewer": plan.files,
            f"{plan.retired:,} files that were replaced are deleted": plan.retired,
        }
        return f"{self.instance.folder}  {', '.join(said for said, some in done.items() if some)}"

    def compact(self, kept: Kept) -> int:
        """Compact the table; return how many replaced files wait to be deleted, for readers.

        What sets ask for is looked up under the lock: a run may have finished since the plan was made.
        """
        with (
            interrupts.revocable() as revoke,
            Lock(self.instance.folder, "weaksam clean", on_lost=revoke) as lock,
        ):
            table = _table(self.instance)
            compact(table, kept.asked(self.instance), lock.token)
            return remove_retired(table)


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What there is to clean."""

    leftovers: Sequence[Leftover]
    tables: Sequence[SharedRows]
    kept: Kept

    def carry_out(self) -> int:
        """Clean; return how many replaced files wait to be deleted, for readers."""
        waiting = sum(table.compact(self.kept) for table in self.tables)
        for leftover in self.leftovers:
            leftover.remove(self.kept)
        return waiting


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
    instances = list(_instances(run_uri))
    _refuse_beside_work(run_uri, instances)
    kept = Kept(run_uri, since=time.time() - keep_days * _DAY_S, previews=previews)
    needed = [instance for instance in instances if kept.keeps(instance)]
    found = [
        *(_leftover(join(run_uri, name), "a preview") for name in (previews_of(run_uri) if previews else [])),
        *(
            _leftover(instance.folder, f"{instance.name}: an earlier key", instance)
            for instance in instances
            if instance not in needed
        ),
    ]
    shared = [
        SharedRows(instance=instance, plan=plan_compaction(_table(instance), kept.asked(instance)))
        for instance in needed
        if INPUT.name in _stored(instance).names
    ]
    return Cleaning(leftovers=found, tables=[table for table in shared if table.plan], kept=kept)


class Kept:
    """Which instances of a run folder are kept, and which rows their sets ask for.

    What was finished after this was made is kept, too.
    """

    def __init__(self, run_uri: str, *, since: float, previews: bool) -> None:
        runs = [run_uri, *([] if previews else [join(run_uri, name) for name in previews_of(run_uri)])]
        current = [instance for uri in runs for instance in current_instances(uri)]
        self._run_uri = run_uri
        self._since = since
        self._keys = {(instance.name, instance.key) for instance in current} | _in_tables(run_uri)
        # The indexes of the sets that are shown, and of those that trainings which are used as they are have learnt from.
        sets = {planned for instance in current for planned in (instance.planned, instance.learnt_from())}
        self._keys |= {("index", planned.index) for planned in sets if planned is not None}

    def keeps(self, instance: Instance) -> bool:
        """Whether an instance is kept."""
        return (instance.name, instance.key) in self._keys or self._is_young(instance)

    def asked(self, instance: Instance) -> pa.Table:
        """Return the identities of all rows of an instance that a set of a kept index asks for."""
        sets = (p for p in _sets(instance) if self.keeps(Instance(self._run_uri, "index", p.index)))
        rows = (planned_rows(index_folder(self._run_uri, planned.index), planned) for planned in sets)
        return pa.concat_tables([PLANNED_ROWS.empty_table(), *rows])

    def _is_young(self, instance: Instance) -> bool:
        fs, root = open_fs(join(instance.folder, SETS))
        fs.invalidate_cache()
        files = fs.ls(root, detail=False) if fs.exists(root) else []
        return any(fs.modified(path).timestamp() >= self._since for path in files)


def _refuse_beside_work(run_uri: str, instances: Sequence[Instance]) -> None:
    for instance in instances:
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


def _leftover(uri: str, what: str, instance: Instance | None = None) -> Leftover:
    fs, path = open_fs(uri)
    return Leftover(uri=uri, what=what, size_bytes=fs.du(path), instance=instance)


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
