"""What a run folder holds, read from its files alone: for `weaksam status`, `weaksam dropped` and `weaksam clean`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from pipelines.engine.figures import Figures, Unit
from pipelines.recipe.model import load_recipe
from pipelines.store.dropped import DroppedReason, dropped_by_reason
from pipelines.store.files import DamagedFileError
from pipelines.store.instances import Instance, current_instances, no_run_at
from pipelines.store.lock import held_lock
from pipelines.store.schemas import IMAGE_ID, IMAGES, INPUT
from pipelines.store.tables import Table
from weaksam.errors import WeaksamError
from weaksam.io.files import join

TABLES = "tables"  # folder of a run: what `weaksam table` measured, and on which instances


class State(StrEnum):
    """How far an instance is."""

    FINISHED = "finished"
    RUNNING = "running"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class InstanceStatus:
    """One line of `weaksam status`."""

    name: str
    key: str
    state: State
    detail: str  # the proof, who works on it, or how far it came
    seconds: float | None
    figures: Figures  # of a running one, as its last heartbeat has them
    dropped: list[DroppedReason]


def run_status(run_uri: str) -> list[InstanceStatus]:
    """Return the state of every current instance of a run, see ``instances_in_order``.

    Raises:
        RunError: there is no run at this place.
    """
    return [_status(instance) for instance in instances_in_order(run_uri)]


def status_json(lines: Sequence[InstanceStatus]) -> str:
    """Return a run's state as JSON: a list of objects, see docs/RUNNING.md."""
    rows = [
        {
            "name": line.name,
            "key": line.key,
            "state": line.state,
            "detail": line.detail,
            "seconds": line.seconds,
            **line.figures.to_plain(),
            "dropped": [{"reason": reason.reason, "images": len(reason.images)} for reason in line.dropped],
        }
        for line in lines
    ]
    return json.dumps(rows, indent=2)


def unfinished_of_recipe(run_uri: str, lines: Sequence[InstanceStatus]) -> list[str]:
    """Return the instances of a run's recipe that are not finished, begun or not, in its order."""
    finished = {line.name for line in lines if line.state is State.FINISHED}
    return [name for name in _instances_of_recipe(run_uri) if name not in finished]


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
        raise no_run_at(run_uri)
    ordered: dict[str, Instance] = {}
    met: set[str] = set()

    def visit(name: str) -> None:
        if name in current and name not in met:
            met.add(name)
            for read in ("index", *(current[name].plan() or {}).get("parts", {}).get("reads", {})):
                visit(read)
            ordered[name] = current[name]

    for name in (*_instances_of_recipe(run_uri), *current):
        visit(name)
    return list(ordered.values())


def _instances_of_recipe(run_uri: str) -> list[str]:
    """Return the instances that the recipe last used for a run names; none where it cannot be read."""
    try:
        return list(load_recipe(join(run_uri, "recipe.yaml"))[0].stages)
    except WeaksamError:  # it is not there, or another version of this package wrote it
        return []


def _dropped(instance: Instance) -> list[DroppedReason]:
    return dropped_by_reason(instance) if instance.dropped.count() else []


def _status(instance: Instance) -> InstanceStatus:
    manifest, dropped = instance.manifest(), _dropped(instance)
    if manifest is not None:
        return InstanceStatus(
            name=instance.name,
            key=instance.key,
            state=State.FINISHED,
            detail=manifest.get("text", ""),
            seconds=manifest.get("seconds"),
            figures=_proved(manifest),
            dropped=dropped,
        )
    lock = held_lock(instance.folder)
    rows = Table(instance.folder, IMAGES).count()  # any schema will do: only rows are counted
    told = None if lock is None else Figures.from_plain(lock.holder.get("figures"))
    figures = told or _counted(instance, rows)
    so_far = _so_far(figures, rows, dropped)
    return InstanceStatus(
        name=instance.name,
        key=instance.key,
        state=State.INTERRUPTED if lock is None else State.RUNNING,
        detail=so_far if lock is None else f"{so_far}; {lock.describe()}",
        seconds=None,
        figures=figures,
        dropped=dropped,
    )


def _so_far(figures: Figures, rows: int, dropped: Sequence[DroppedReason]) -> str:
    """Say how far an instance came that is not finished."""
    if figures.unit is Unit.STEPS:
        so_far = f"{figures.done or 0:,} of {figures.planned or 0:,} steps"
    else:
        so_far = f"{rows:,} rows, {sum(len(reason.images) for reason in dropped):,} dropped so far"
    waiting = figures.waiting_for
    return so_far if waiting is None else f"{so_far}; waiting for {waiting.what}, {waiting.seconds:.0f} s"


def _proved(manifest: Mapping[str, Any]) -> Figures:
    """Return the figures of a finished instance."""
    ended: dict[str, Any] = {"updated": manifest.get("finished")}
    if throughput := manifest.get("throughput"):
        ended["images_per_s"] = throughput.get("images_per_s")
    if steps := manifest.get("steps"):
        return Figures(unit=Unit.STEPS, done=steps.get("done"), planned=steps.get("planned"), **ended)
    if images := manifest.get("images"):
        return Figures(unit=Unit.IMAGES, done=images.get("done"), planned=images.get("images"), **ended)
    return Figures(**ended)


def _counted(instance: Instance, rows: int) -> Figures:
    """Return the figures of an instance that says none itself, by the ``rows`` that it has of all sets of images."""
    if instance.planned is None or not rows:
        return Figures()
    with suppress(DamagedFileError):  # of a part that is being written, or that the next run sets aside
        mine = instance.current(instance.table(pa.schema([IMAGE_ID, INPUT]))).ids()
        return Figures(unit=Unit.IMAGES, done=len(mine), planned=instance.planned_rows().num_rows)
    return Figures()
