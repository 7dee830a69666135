"""What Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) do: the first ends the work in order, with locks released and Ray
left; a second one hurries.

first     KeyboardInterrupt in the main thread; everything unwinds, and signals that come meanwhile do not disturb it
second    the same, but whoever is not done after some seconds is ended: exit code and line are the same
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HURRY_S = 5.0  # from the second signal to the end of a process that does not end by itself
_GRACE_S = 20.0  # from SIGTERM, which is often followed by SIGKILL after half a minute, to the same


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code of an interrupted command, as shells count: 128 and the signal's number."""
    return 128 + (error.signum if isinstance(error, Stopped) else signal.SIGINT)


def install(forced_end: Callable[[int], None]) -> None:
    """Handle signals from now on as this module says; only for the main thread of a command's process.

    ``forced_end`` is called with the exit code, in a thread, once a hurried process has not ended by itself.
    """

    def end_after(seconds: float, signum: int) -> None:
        timer = threading.Timer(seconds, forced_end, (128 + signum,))
        timer.daemon = True
        timer.start()

    def again(signum: int, _frame: FrameType | None) -> None:
        hold()
        end_after(_HURRY_S, signum)

    def first(signum: int, _frame: FrameType | None) -> None:
        _set(again)
        if signum != signal.SIGINT:
            end_after(_GRACE_S, signum)
        raise Stopped(signum)

    _set(first)


def hold() -> None:
    """Let no signal disturb the end of this process."""
    _set(signal.SIG_IGN)


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
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]
