"""How far the work on an instance has come, in figures for programs: made of what people are told, kept in the instance's lock.

Whoever works says how far it is to a ``Voice``; ``Measured`` is one that makes figures of it. The lock's heartbeat carries them
to whoever looks at the run folder, on whatever machine, and they are gone with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.engine.voice import ShowStep, Step, TextTable, Voice, Waiting, Words

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 10.0  # at the number of rows, as often as the lock is renewed
_RATE_OVER_S = 60.0
_WAIT_OVER_S = 20.0  # a wait that is not said again for so long is over, see ``Waiting``


class Unit(Enum):
    """What is counted."""

    IMAGES = "images"
    STEPS = "steps"  # of a training's optimisers


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How far the work is; what is not known is None."""

    unit: Unit | None = None
    done: int | None = None
    planned: int | None = None
    # Over the last minute; of a training since its last figures; when finished, of all.
    images_per_s: float | None = None
    loss: float | None = None  # of a training
    waiting_for: Waiting | None = None
    updated: str | None = None  # when all this was so, in UTC by the clock of the process that works

    def to_plain(self) -> dict[str, Any]:
        """Return them as JSON keeps them."""
        plain: dict[str, Any] = _FIGURES.dump_python(self, mode="json")
        return plain

    @staticmethod
    def from_plain(plain: Any) -> Figures | None:
        """Return what ``to_plain`` gave; None for all else, such as what another version wrote."""
        with suppress(ValidationError):
            return _FIGURES.validate_python(plain)
        return None


_FIGURES = TypeAdapter(Figures)


class Measured:
    """A ``Voice`` that passes on to another one what it is told, and tells the figures that this makes."""

    def __init__(self, voice: Voice, tell: Callable[[Figures], None]) -> None:
        self._voice = voice
        self._tell = tell
        self._figures = Figures()
        self._wait: tuple[Waiting, float] | None = None  # what was said of it, and when: time.monotonic()
        self._telling = threading.Lock()  # rows are counted in another thread

    def say(self, *words: Words) -> None:
        """See ``Voice``."""
        self._voice.say(*words)
        for word in words:
            if isinstance(word, Waiting):
                self._wait = word, time.monotonic()
                self._update()

    def table(self, table: TextTable) -> None:
        """See ``Voice``."""
        self._voice.table(table)

    def sign_of_life(self, line: str) -> AbstractContextManager[None]:
        """See ``Voice``."""
        return self._voice.sign_of_life(line)

    @contextmanager
    def rows(self, label: str, total: int, count: Callable[[], int]) -> Iterator[None]:
        """See ``Voice``."""
        rate, stop = _Rate(), threading.Event()

        def look() -> None:
            try:
                done = count()
            except Exception as error:  # of the storage, whichever it is: the next time it may answer
                logger.warning("%s: rows could not be counted: %s", label, error)
                return
            self._update(unit=Unit.IMAGES, done=done, planned=total, images_per_s=rate.after(done, time.monotonic()))

        def watch() -> None:
            while not stop.wait(_LOOK_EVERY_S):
                look()

        look()
        thread = threading.Thread(target=copy_context().run, args=(watch,), name="figures", daemon=True)
        thread.start()
        try:
            with self._voice.rows(label, total, count):
                yield
        finally:
            stop.set()
            thread.join()
        look()

    @contextmanager
    def steps(self, label: str) -> Iterator[ShowStep]:
        """See ``Voice``."""
        self._update(unit=Unit.STEPS)
        with self._voice.steps(label) as show:

            def show_and_tell(step: Step) -> None:
                show(step)
                self._update(done=step.done, planned=step.planned, images_per_s=step.images_per_s, loss=step.loss)

            yield show_and_tell

    def _update(self, **known: Any) -> None:
        with self._telling:
            if known.get("done", self._figures.done) != self._figures.done:
                self._wait = None  # something came of it
            self._figures = replace(self._figures, **known, waiting_for=self._waiting_for(), updated=_now())
            self._tell(self._figures)

    def _waiting_for(self) -> Waiting | None:
        if self._wait is None:
            return None
        waiting, said = self._wait
        since = time.monotonic() - said
        return replace(waiting, seconds=round(waiting.seconds + since, 1)) if since < _WAIT_OVER_S else None


class _Rate:
    """How fast a count has grown over the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()  # seconds, count

    def after(self, count: int, now: float) -> float | None:
        """Return the growth per second up to ``count``; None of the first one."""
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _RATE_OVER_S:
            self._seen.popleft()
        began, first = self._seen[0]
        return round((count - first) / (now - began), 3) if now > began else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
