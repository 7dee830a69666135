"""What a run folder holds, read from its files alone: for `weaksam status`, `weaksam dropped` and `weaksam clean`."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from pipelines.recipe.model import load_recipe
from pipelines.store.dropped import DroppedReason, dropped_by_reason
from pipelines.store.files import DamagedFileError, read_object
from pipelines.store.instances import Instance, current_instances
from pipelines.store.lock import lock_holder
from pipelines.store.schemas import IMAGES
from pipelines.store.tables import Table
from weaksam.errors import RunError, WeaksamError
from weaksam.io.files import join, open_fs

TABLES = "tables"  # folder of a run: what `weaksam table` measured, and on which instances


@dataclass(frozen=True, kw_only=True)
class InstanceStatus:
    """One line of `weaksam status`."""

    name: str
    key: str
    state: str  # "finished", "running" or "interrupted"
    detail: str  # the proof, who works on it, or how far it came
    seconds: float | None
    dropped: list[DroppedReason]


def run_status(run_uri: str) -> list[InstanceStatus]:
    """Return the state of every current instance of a run, see ``instances_in_order``.

    Raises:
        RunError: there is no run at this place.
    """
    return [_status(instance) for instance in instances_in_order(run_uri)]


def run_dropped(run_uri: str) -> list[DroppedReason]:
    """Return what the current instances of a run, finished or not, have dropped, in their order.

    Raises:
        RunError: there is no run at this place.
    """
    return [reason for instance in instances_in_order(run_uri) for reason in _dropped(instance)]


def instances_in_order(run_uri: str) -> list[Instance]:
    """Return the current instances of a run in the order of its recipe, each after those that it reads.

    Raises:
        RunError: there is no run at this place.
    """
    current = {instance.name: instance for instance in current_instances(run_uri)}
    if not current:
        previews = ", ".join(join(run_uri, name) for name in _previews(run_uri))
        hint = f"; the previews in it are runs of their own: {previews}" if previews else ""
        raise RunError(f"{run_uri}: expected a run folder, as --out names it, found no stage of a run in it{hint}")
    ordered: dict[str, Instance] = {}
    met: set[str] = set()

    def visit(name: str) -> None:
        if name in current and name not in met:
            met.add(name)
            for read in (current[name].plan() or {}).get("parts", {}).get("reads", {}):
                visit(read)
            ordered[name] = current[name]

    for name in (*_instances_of_recipe(run_uri), *current):
        visit(name)
    return list(ordered.values())


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
                superseded = key[0] != "_" and key not in ("current", current[name]) and (name, key) not in in_tables
                if superseded and lock_holder(folder) is None:
                    found.append(Leftover(uri=folder, what=f"{name}: an earlier key", size_bytes=fs.du(key_path)))
        elif previews and name.startswith("preview-"):
            found.append(Leftover(uri=join(run_uri, name), what="a preview", size_bytes=fs.du(path)))
    return found


def _instances_of_recipe(run_uri: str) -> list[str]:
    """Return the instances that the recipe last used for a run names; none where it cannot be read."""
    try:
        return list(load_recipe(join(run_uri, "recipe.yaml"))[0].stages)
    except WeaksamError:  # it is not there, or another version of this package wrote it
        return []


def _previews(run_uri: str) -> list[str]:
    fs, root = open_fs(run_uri)
    if not fs.isdir(root):
        return []
    names = (posixpath.basename(path.rstrip("/")) for path in fs.ls(root, detail=False))
    return sorted(name for name in names if name.startswith("preview-"))


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


def remove(leftover: Leftover) -> None:
    """Delete a leftover with everything in it."""
    fs, path = open_fs(leftover.uri)
    fs.rm(path, recursive=True)


def _dropped(instance: Instance) -> list[DroppedReason]:
    return dropped_by_reason(instance) if instance.dropped.count() else []


def _status(instance: Instance) -> InstanceStatus:
    manifest, dropped = instance.manifest(), _dropped(instance)
    if manifest is not None:
        return InstanceStatus(
            name=instance.name,
            key=instance.key,
            state="finished",
            detail=manifest.get("text", ""),
            seconds=manifest.get("seconds"),
            dropped=dropped,
        )
    holder = lock_holder(instance.folder)
    rows = Table(instance.folder, IMAGES).count()  # any schema will do: only rows are counted
    done = f"{rows:,} rows, {sum(len(reason.images) for reason in dropped):,} dropped so far"
    return InstanceStatus(
        name=instance.name,
        key=instance.key,
        state="interrupted" if holder is None else "running",
        detail=done if holder is None else f"{done}; {holder}",
        seconds=None,
        dropped=dropped,
    )
