"""What ends work before its end: Ctrl-C, SIGTERM and SIGHUP (the terminal is gone), and other threads of ours.

first     KeyboardInterrupt in the main thread; everything unwinds, with locks released and Ray left, and signals that come
          meanwhile do not disturb it
second    the same, but whoever is not done after some seconds is ended: exit code and line are the same
revoked   ``Revoked``, a KeyboardInterrupt, in the thread that works: its lock was lost, or the workers it waits for do not
          come; as hurried as a second signal

However the work ends after a signal, with an error of a library whose process was ended, say: it was interrupted (``asked``).
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = "interrupted; the same command goes on where this one stopped"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HURRY_S = 5.0  # from the second signal to the end of a process that does not end by itself
_GRACE_S = 20.0  # from SIGTERM, which is often followed by SIGKILL after half a minute, to the same
_WAKE = signal.SIGURG  # wakes a main thread that waits; nobody else sends it, and it is ignored where nobody handles it
_POLL_S = 0.5  # a thread that is not the main one is interrupted between two of these waits


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(INTERRUPTED)
        self.signum = signum


class Revoked(KeyboardInterrupt):
    """This process may not go on, for another one may be doing the same work, or cannot; its text says why."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code of an interrupted command: 1, or as shells count, 128 and the signal's number."""
    if isinstance(error, Revoked):
        return 1
    return 128 + (error.signum if isinstance(error, Stopped) else signal.SIGINT)


_forced_end: Callable[[KeyboardInterrupt], None] = lambda _error: None  # noqa: E731  # of the command that is running
_asked: Stopped | None = None


def asked() -> Stopped | None:
    """Return the first signal that asked this process to stop, if one did."""
    return _asked


def install(forced_end: Callable[[KeyboardInterrupt], None]) -> None:
    """Handle signals from now on as this module says; only for the main thread of a command's process.

    ``forced_end`` is called with the interrupt, in a thread, once a hurried process has not ended by itself.
    """
    global _forced_end, _asked
    _forced_end, _asked = forced_end, None

    def first(signum: int, _frame: FrameType | None) -> None:
        global _asked
        by = _asked = Stopped(signum)

        def again(_signum: int, _frame: FrameType | None) -> None:
            hold()
            _end_after(_HURRY_S, by)

        _set(again)
        if signum != signal.SIGINT:
            _end_after(_GRACE_S, by)
        raise by

    _set(first)


@contextmanager
def revocable() -> Iterator[Callable[[str], None]]:
    """Give a function with which another thread ends the body, wherever it is: it raises ``Revoked`` with the words given.

    In a main thread whatever waits is woken; any other thread ends once it runs Python again.
    """
    worker, said, hearing = threading.current_thread(), list[str](), threading.Lock()
    in_main = worker is threading.main_thread()
    working = True
    end = threading.Timer(_HURRY_S, lambda: _forced_end(Revoked(*said)))
    end.daemon = True

    def revoke(reason: str) -> None:
        with hearing:
            if said or not working:
                return
            said.append(reason)
            end.start()
            if in_main:
                signal.pthread_kill(worker.ident or 0, _WAKE)
            else:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident or 0), ctypes.py_object(Revoked))

    def woken(_signum: int, _frame: FrameType | None) -> None:
        if working:
            raise Revoked(*said)

    before = signal.signal(_WAKE, woken) if in_main else None
    try:
        yield revoke
    except KeyboardInterrupt as error:
        if said:
            raise Revoked(*said) from error
        raise
    finally:
        working = False  # whoever is woken from here on has ended already
        with hearing:
            end.cancel()
        if in_main:
            signal.signal(_WAKE, before)


def hold() -> None:
    """Let no signal disturb the end of this process."""
    _set(signal.SIG_IGN)


def _end_after(seconds: float, why: KeyboardInterrupt) -> None:
    timer = threading.Timer(seconds, _forced_end, (why,))
    timer.daemon = True
    timer.start()


def _set(handler: Any) -> None:
    for signum in _SIGNALS:
        # A job in the background ignores Ctrl-C, and one under nohup SIGHUP.
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, handler)


@contextmanager
def kept() -> Iterator[None]:
    """Keep SIGTERM's handler over a body that sets one of its own, such as Ray's start."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Do work in a thread and wait for it: libraries take a main thread's Ctrl-C for themselves. An interrupt ends the wait."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="work", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
