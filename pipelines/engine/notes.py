"""Where batches, actors and workers of a training are: notes in the cluster's own store, which outlive who left them.

A note is there while its batch is worked on, or its actor built. One that is still there when its process has ended says what
the process died of: a batch, and on which node. Actors that were built leave another one, for whoever waits for them; that of
a training's worker stays until whoever started the worker has read it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import wraps
from typing import Any

import pyarrow as pa

from pipelines.engine import logs
from pipelines.store.explain import explain, last_line
from weaksam.errors import RunError, WeaksamError

_MOST_UNBUILT = 3  # processes that die on a node over building an actor, before the node counts as unfit


class Kind(Enum):
    """What a note says of a node."""

    AT_WORK = "at work"  # a process on it works on images, or trains
    BUILDING = "building"  # a process on it builds an actor
    BUILT = "built"  # an actor was built on it
    UNFIT = "unfit"  # an actor cannot be built on it


@dataclass(frozen=True, kw_only=True)
class Note:
    """One of them."""

    kind: Kind
    node_id: str
    image_ids: tuple[str, ...] = ()  # of AT_WORK; of a training's worker none
    actor_id: str = ""  # "" of a task
    actor: str = ""  # of BUILT: the name of its class
    reason: str = ""  # of UNFIT


@dataclass(frozen=True)
class Notes:
    """Those of one pass or training; small and picklable, used by its driver and by all its processes."""

    pass_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    subject: logs.Subject = field(default_factory=logs.subject)  # of the driver when it made them

    def read(self, kind: Kind) -> list[Note]:
        """Return those of a kind that are there."""
        from ray.experimental import internal_kv

        found = []
        for key in internal_kv._internal_kv_list(self._prefix(kind)):
            value = internal_kv._internal_kv_get(key)
            if value is not None:  # removed meanwhile
                plain = json.loads(value)
                found.append(Note(kind=kind, **{**plain, "image_ids": tuple(plain["image_ids"])}))
        return found

    def remove(self) -> None:
        """Remove all."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(f"weaksam/{self.pass_id}/", del_by_prefix=True)

    def leave(self, kind: Kind, image_ids: Sequence[str] = (), *, actor: str = "", reason: str = "") -> str:
        """Leave a note of the node that this process runs on; return its key."""
        import ray
        from ray.experimental import internal_kv

        key = f"{self._prefix(kind)}{uuid.uuid4().hex}"
        here = ray.get_runtime_context()
        place = {"node_id": here.get_node_id(), "actor_id": here.get_actor_id() or ""}
        told = {**place, "image_ids": list(image_ids), "actor": actor, "reason": reason}
        internal_kv._internal_kv_put(key, json.dumps(told))
        return key

    @contextmanager
    def while_working(self, kind: Kind, image_ids: Sequence[str] = ()) -> Iterator[None]:
        """Leave a note until the body, whose log is about what the driver's is, ends in any way but this process's death."""
        from ray.experimental import internal_kv

        key = self.leave(kind, image_ids)
        try:
            with logs.in_worker(self.subject):
                yield
        finally:
            internal_kv._internal_kv_del(key)

    def died_building(self) -> int:
        """Return how many processes have died on this node over building the actor that this process is to be."""
        import ray

        here = ray.get_runtime_context()
        own = (here.get_node_id(), here.get_actor_id())
        return sum((note.node_id, note.actor_id) == own for note in self.read(Kind.BUILDING))

    def of_function(self, function: Any) -> Any:
        """Return a function of Arrow tables that leaves a note while it works."""

        @wraps(function)
        def noted(batch: pa.Table, **arguments: Any) -> pa.Table:
            with self.while_working(Kind.AT_WORK, batch["image_id"].to_pylist()):
                return function(batch, **arguments)

        return noted

    def of_actor(self, actor: type) -> type:
        """Return a class like one that is called with Arrow tables, whose objects leave notes of their lives."""
        notes = self

        class Noted(actor):  # type: ignore[misc]
            def __init__(self, **arguments: Any) -> None:
                died = notes.died_building()
                with notes.while_working(Kind.BUILDING):
                    try:
                        if died >= _MOST_UNBUILT:  # Ray would try again for ever
                            raise RunError(
                                f"{died} processes died on one node over loading the models; it may have too little memory "
                                "for them, which its dmesg or Ray's logs would say"
                            )
                        super().__init__(**arguments)
                    except Exception as error:
                        told = str(error) if isinstance(error, WeaksamError) else explain(error) or last_line(error)
                        notes.leave(Kind.UNFIT, reason=str(told))
                        raise
                notes.leave(Kind.BUILT, actor=actor.__name__)

            def __call__(self, batch: pa.Table) -> pa.Table:
                with notes.while_working(Kind.AT_WORK, batch["image_id"].to_pylist()):
                    return super().__call__(batch)

        Noted.__name__, Noted.__qualname__ = actor.__name__, actor.__qualname__
        return Noted

    def _prefix(self, kind: Kind) -> str:
        return f"weaksam/{self.pass_id}/{kind.value}/"
