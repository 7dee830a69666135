"""Looks after a pass from the driver: asks for further nodes, says what is waited for, and gives up after some time."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine import nodes as cluster
from pipelines.engine.nodes import Node
from pipelines.engine.notes import Kind, Notes
from pipelines.engine.reach import AGAIN_WITH_WORKERS, SAY_EVERY_S, stop_asking, words_of_ray
from pipelines.engine.voice import Voice, Waiting

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_STARTS_S = 60.0  # that a process takes at most, on a busy node, to start and import what an actor needs
_ASKED_AT_ONCE = 8  # nodes
_TO_GROW_S = 10.0  # that a pool has to take room which was found; whoever asked on would be given it instead


@dataclass
class Watch:
    """What is seen while a pass runs."""

    notes: Notes
    voice: Voice
    bundle: dict[str, float]  # what an actor reserves
    most: int  # actors that nodes are asked for; 0 = none is asked for
    tasks_left: int  # of the pass, which counts them down; no more actors are of use
    wait_s: float  # that no actor may be there, before the pass is given up; 0 = as long as it takes
    give_up: Callable[[str], None]  # ends the pass, with these words
    _groups: list[Any] = field(default_factory=list)
    _ask_from: float = 0.0  # time.monotonic()
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch while the body runs a pass."""
        thread = threading.Thread(target=copy_context().run, args=(self._look,), name="pass-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            for group in self._groups:
                stop_asking(group)

    def task_ended(self) -> None:
        """Count one of the pass's tasks as done."""
        self.tasks_left -= 1

    def _look(self) -> None:
        started = said = time.monotonic()
        while not self._stop.wait(_LOOK_EVERY_S):
            try:
                found = cluster.nodes()
                alive = {node.node_id for node in found}
                built = self._built(alive)
                self._ask(built)
                now = time.monotonic()
                if built or any(note.node_id in alive for note in self.notes.read(Kind.BUILDING)):
                    started = said = now
                elif self.wait_s and now - started > self.wait_s + self._starts_s(found):
                    self.give_up(
                        f"no room for an actor within {self.wait_s:g} s (resources.wait_for_workers): {len(alive)} node(s); "
                        f"{words_of_ray()}. {AGAIN_WITH_WORKERS}"
                    )
                    return
                elif now - said >= SAY_EVERY_S:
                    starting = ", on which processes may still be starting" if self._starts_s(found) else ""
                    details = f"{len(alive)} node(s){starting}; {words_of_ray()}"
                    self.voice.say(Waiting(what="workers", seconds=now - started, details=details))
                    said = now
            except Exception:  # a cluster that does not answer for a moment does so when it is asked again
                logger.warning("the cluster could not be looked at", exc_info=True)

    def _starts_s(self, found: Sequence[Node]) -> float:
        """Return for how long an actor may be about to start and leave no note, on nodes of which one can carry it."""
        return _STARTS_S if any(node.gpus if "GPU" in self.bundle else node.cpus for node in found) else 0.0

    def _built(self, alive: Collection[str]) -> int:
        """Return how many actors of the kind that there are most of have been built on nodes that are alive."""
        actors = {note.actor_id: note.actor for note in self.notes.read(Kind.BUILT) if note.node_id in alive}
        return max(Counter(actors.values()).values(), default=0)

    def _ask(self, built: int) -> None:
        """Keep asking for the room that further actors would need; leave what was found to the pool, which grows into it."""
        import ray

        now, wanted = time.monotonic(), min(min(self.most, self.tasks_left) - built, _ASKED_AT_ONCE)
        if any(group.wait(0) for group in self._groups):
            wanted, self._ask_from = 0, now + _TO_GROW_S
        while len(self._groups) > max(0, wanted):
            stop_asking(self._groups.pop())
        if now >= self._ask_from:
            self._groups += [ray.util.placement_group([dict(self.bundle)]) for _ in range(wanted - len(self._groups))]
