"""What a run folder holds, read from its files alone: for `weaksam status` and `weaksam clean`."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from pipelines.runs import Instance, current_instances, lock_holder
from pipelines.schemas import IMAGES
from pipelines.store import Table, read_json
from weaksam.errors import RunError
from weaksam.files import join, open_fs

TABLES = "tables"  # folder of a run: what `weaksam table` measured, and on which instances


@dataclass(frozen=True, kw_only=True)
class InstanceStatus:
    """One line of `weaksam status`."""

    name: str
    key: str
    state: str  # "finished", "running" or "interrupted"
    detail: str  # the proof, who works on it, or how far it came
    seconds: float | None


def run_status(run_uri: str) -> list[InstanceStatus]:
    """Return the state of every current instance of a run.

    Raises:
        RunError: there is no run at this place.
    """
    instances = current_instances(run_uri)
    if not instances:
        raise RunError(f"{run_uri}: expected a run folder (with <instance>/current in it), found none")
    return [_status(instance) for instance in instances]


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something in a run folder that no current instance needs."""

    uri: str
    what: str
    size_bytes: int


def leftovers(run_uri: str, *, previews: bool) -> list[Leftover]:
    """Return the folders of superseded keys, and the previews if asked for.

    Instances at work are left out, and so are those that a table of the run was measured on.
    """
    run_status(run_uri)  # refuses what is no run folder: nothing is ever deleted elsewhere
    fs, root = open_fs(run_uri)
    found = []
    current = {instance.name: instance.key for instance in current_instances(run_uri)}
    in_tables = _in_tables(run_uri)
    for path in sorted(fs.ls(root, detail=False)):
        name = posixpath.basename(path.rstrip("/"))
        if name in current:
            for key_path in sorted(fs.ls(path, detail=False)):
                key = posixpath.basename(key_path.rstrip("/"))
                folder = join(run_uri, name, key)
                superseded = key not in ("current", current[name]) and (name, key) not in in_tables
                if superseded and lock_holder(folder) is None:
                    found.append(Leftover(uri=folder, what=f"{name}: an earlier key", size_bytes=fs.du(key_path)))
        elif previews and name.startswith("preview-"):
            found.append(Leftover(uri=join(run_uri, name), what="a preview", size_bytes=fs.du(path)))
    return found


def _in_tables(run_uri: str) -> set[tuple[str, str]]:
    """Return (name, key) of the instances that the tables of a run were measured on."""
    fs, root = open_fs(run_uri)
    files = fs.glob(posixpath.join(root, TABLES, "table-*.json"))
    documents = (read_json(join(run_uri, TABLES, posixpath.basename(path))) for path in files)
    cells = (keys for document in documents for row in document["rows"] for keys in row["instances"].values())
    return {(name, key) for keys in cells for name, key in keys.items()}


def remove(leftover: Leftover) -> None:
    """Delete a leftover with everything in it."""
    fs, path = open_fs(leftover.uri)
    fs.rm(path, recursive=True)


def _status(instance: Instance) -> InstanceStatus:
    manifest = instance.manifest()
    if manifest is not None:
        return InstanceStatus(
            name=instance.name,
            key=instance.key,
            state="finished",
            detail=manifest.get("text", ""),
            seconds=manifest.get("seconds"),
        )
    holder = lock_holder(instance.folder)
    rows = Table(instance.folder, IMAGES).count()  # any schema will do: only rows are counted
    done = f"{rows:,} rows, {instance.dropped.count():,} dropped so far"
    return InstanceStatus(
        name=instance.name,
        key=instance.key,
        state="interrupted" if holder is None else "running",
        detail=done if holder is None else f"{done}; {holder}",
        seconds=None,
    )
