"""The lock of an instance's folder: who may write there, on a disk or in a bucket that several machines share."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from pipelines.store.exclusive import create_exclusively, is_exclusive, remove_if
from pipelines.store.files import write_bytes
from pipelines.store.sight import Sight, State, look, this_process
from weaksam.errors import RunError
from weaksam.io.files import join

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0  # how often a working owner renews its lock
SILENCE_S = 90.0  # a lock not renewed for this long belongs to nobody any more
WAIT_S = 150.0  # for a lock, by default: until the lock of a lost machine is free, and some more
_PAUSE_S = 1.0  # between two looks at a lock
_MOST_MISSED = 50  # times that a lock is in the way and not to be seen
_SETTLE_S = 2.0  # until several that created one file know whose it is, in a store that lets them


class Lock:
    """The right to write into one instance's folder, held by one process at a time; a context manager.

    The lock is a file created exclusively and renewed by a heartbeat. It is taken over when its owner is a dead process of this
    machine, or when it has been silent for ``SILENCE_S`` by the storage's own clock and the claimant has seen it stay as it is
    for two heartbeats and a half. An owner has lost it once it finds another's token there, or has not been able to renew it
    for almost as long: ``on_lost`` is called with the reason, in another thread, and ``check`` raises RunError.
    """

    def __init__(
        self, folder: str, job: str, wait_s: float = 0.0, on_lost: Callable[[str], None] = lambda _reason: None
    ) -> None:
        self.uri = join(folder, "_lock")
        self._job = job
        self._wait_s = wait_s
        self._on_lost = on_lost
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._figures: Mapping[str, Any] | None = None
        self._lost = ""  # why, once it is
        self._losing = threading.Lock()
        self._trouble = ""  # that kept the last beat from the storage
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._beat,), name="lock-heartbeat", daemon=True
        )
        self._deadline = threading.Timer(0, self._give_up)

    @property
    def token(self) -> str:
        """What tells this owner from all others (32 hex digits), in the lock and in the names of what its owner writes."""
        return self._token

    def __enter__(self) -> Lock:
        exclusive, deadline = is_exclusive(self.uri), time.monotonic() + self._wait_s
        self._acquire(deadline)
        try:
            while not exclusive and not self._has_settled():
                self._acquire(deadline)
            self._renewed(time.monotonic())
            self._thread.start()
            _held.append(self)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._release()

    def _release(self) -> None:
        self._stop.set()
        self._deadline.cancel()
        try:
            remove_if(self.uri, lambda: self._is(look(self.uri)))
        except Exception as error:  # of the storage, whichever it is; what ended the work is what people must hear
            logger.warning("%s: not released (%s); it is free in %g s", self.uri, error, SILENCE_S)
        with suppress(ValueError):  # never held
            _held.remove(self)

    def check(self) -> None:
        """Raise RunError when another process has taken the lock over, or may have."""
        if self._lost:
            raise RunError(self._lost)

    def tell(self, figures: Mapping[str, Any]) -> None:
        """Let the lock say from its next beat on how far the work is, as plain JSON values."""
        self._figures = figures

    def _has_settled(self) -> bool:
        """Wait until it is clear who created a lock last, and so has it; return whether this process did."""
        time.sleep(_SETTLE_S)
        return self._is(look(self.uri))

    def _acquire(self, deadline: float) -> None:
        """Create the lock once it is nobody's, or raise RunError at a moment of this machine's monotonic clock."""
        watch, told, missed = _Watch(), None, 0
        while True:
            seen = look(self.uri)
            if seen is None and create_exclusively(self.uri, self._content()):
                return
            if seen is None:  # somebody created it between the two calls, and may have released it since
                missed += 1
                if missed > _MOST_MISSED and time.monotonic() >= deadline:
                    raise RunError(
                        f"{self.uri}: the storage refuses to create it, and shows none; `weaksam doctor` tries more"
                    )
                time.sleep(_PAUSE_S / 10)
                continue
            state, unchanged_s = seen.state(SILENCE_S), watch.unchanged_s(seen)
            if state is State.DEAD or (state is State.SILENT and unchanged_s > _watch_s()):
                self._take_away(seen)
                continue
            if state is not told:
                if state is State.SILENT:  # however short the wait: this is how long it takes to know
                    deadline = max(deadline, time.monotonic() + _watch_s() + 2 * _PAUSE_S)
                self._say(seen, state, deadline)
                told = state
            if time.monotonic() >= deadline:
                raise RunError(f"{self.uri} is held by {seen.describe()}; wait for it or stop it first")
            time.sleep(min(_PAUSE_S, max(_PAUSE_S / 10, deadline - time.monotonic())))

    def _say(self, seen: Sight, state: State, deadline: float) -> None:
        """Say what this process waits for."""
        left_s = deadline - time.monotonic()
        if state is State.SILENT:
            logger.warning("%s: no sign of %s; watching for %g s", self.uri, seen.describe(), _watch_s())
        elif left_s > 0:
            line = "%s is held by %s; waiting for up to %.0f s until it ends or gives no sign of life for %g s"
            logger.warning(line, self.uri, seen.describe(), left_s, SILENCE_S)

    def _take_away(self, abandoned: Sight) -> None:
        """Remove an abandoned lock; one claimant at a time may, since a second one might remove the lock of the first."""
        ticket = f"{self.uri}-takeover"
        if not create_exclusively(ticket, self._content()):
            seen = look(ticket)
            if _is_left_over(seen):
                remove_if(ticket, lambda: look(ticket) == seen)
            else:
                time.sleep(_PAUSE_S)
            return
        logger.warning("taking over %s from %s", self.uri, abandoned.describe())
        try:
            remove_if(self.uri, lambda: look(self.uri) == abandoned)
        finally:
            remove_if(ticket, lambda: self._is(look(ticket)))

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S) and not self._lost:
            try:
                self._renew()
            except Exception as error:  # of the storage, whichever it is: the next beat may reach it
                self._trouble = str(error)
                logger.warning("%s: not renewed: %s", self.uri, error)

    def _renew(self) -> None:
        began, seen = time.monotonic(), look(self.uri)
        if not self._is(seen):
            self._lose(f"taken over by {_name(seen)}")
        elif not self._lost:
            self._beats += 1
            write_bytes(self.uri, self._content())
            self._renewed(began)

    def _renewed(self, at: float) -> None:
        """Start the time anew in which the next beat must succeed; the beat itself may wait for the storage for longer."""
        self._deadline.cancel()
        self._deadline = threading.Timer(_patience_s() - (time.monotonic() - at), self._give_up)
        self._deadline.daemon = True
        self._deadline.start()

    def _give_up(self) -> None:
        self._lose(f"not renewed for {_patience_s():g} s ({self._trouble or 'the storage does not answer'})")

    def _lose(self, reason: str) -> None:
        with self._losing:
            if self._lost or self._stop.is_set():
                return
            self._lost = f"{self.uri}: {reason}; this process stops writing"
        self._on_lost(self._lost)

    def _is(self, seen: Sight | None) -> bool:
        return seen is not None and seen.holder.get("token") == self._token

    def _content(self) -> bytes:
        work = {"job": self._job, "figures": self._figures}
        return json.dumps({**this_process(), **work, "beats": self._beats, "token": self._token}).encode()


class _Watch:
    """For how long a lock has stayed as it is, by the watcher's clock: the storage's may have been set, or be its writer's."""

    def __init__(self) -> None:
        self._seen: Sight | None = None
        self._since = 0.0

    def unchanged_s(self, seen: Sight) -> float:
        """Return for how many seconds it has been what is seen now."""
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since


_held: list[Lock] = []  # by this process


def release_all(patience_s: float = 3.0) -> None:
    """Release what this process still holds, since it ends without unwinding; a storage that does not answer is left alone.

    Nothing of this process may write any more.
    """
    threads = [threading.Thread(target=lock._release, daemon=True) for lock in tuple(_held)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience_s)


def held_lock(folder: str) -> Sight | None:
    """Return the lock of an instance's folder if somebody works there right now, or None."""
    seen = look(join(folder, "_lock"))
    return seen if seen is not None and seen.state(SILENCE_S) is State.HELD else None


def lock_holder(folder: str) -> str | None:
    """Return who works in an instance's folder right now, for people to read, or None."""
    seen = held_lock(folder)
    return None if seen is None else seen.describe()


def _is_left_over(ticket: Sight | None) -> bool:
    """Whether whoever was about to remove a lock, which takes a moment, does so no more."""
    if ticket is None:
        return False
    return ticket.state(SILENCE_S) is State.DEAD or (ticket.silent_s() or 0.0) > SILENCE_S


def _watch_s() -> float:
    """Return for how long a claimant watches a silent lock."""
    return 2.5 * HEARTBEAT_S


def _patience_s() -> float:
    """Return for how long an owner goes on without a renewal: it has stopped writing before others may take its lock."""
    return SILENCE_S - 2 * HEARTBEAT_S


def _name(seen: Sight | None) -> str:
    return "nobody" if seen is None else seen.describe()
