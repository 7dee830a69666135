"""One damaged file: made, read, and judged."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from benchmarks.fuzz.annotations import ANNOTATIONS
from benchmarks.fuzz.binaries import BINARIES
from weaksam.errors import WeaksamError

KINDS = {**ANNOTATIONS, **BINARIES}

_LONGEST_MESSAGE = 4000  # characters; more tells nobody anything


class Outcome(NamedTuple):
    """What became of a damaged file."""

    word: Literal["read", "named", "fault"]
    text: str  # the error's message, or of a fault the traceback


def damaged_file(kind: str, seed: int, number: int) -> bytes:
    """Return input ``number`` of a kind; the same whenever and wherever it is asked for."""
    return KINDS[kind].make(Random(f"{seed}/{kind}/{number}"))


def attempt(kind: str, seed: int, number: int, path: Path, *, limit_s: float = 20) -> Outcome:
    """Write an input to ``path``, where ``Kind.place`` put it, and read it.

    A fault is what is neither read nor refused by a ``WeaksamError`` whose message can be printed, in at most ``limit_s``
    seconds. Only the main thread of a process may call this.
    """
    path.write_bytes(damaged_file(kind, seed, number))
    try:
        with _time_limit(limit_s):
            KINDS[kind].read(path)
    except WeaksamError as error:
        message = str(error)
        try:
            message.encode()
        except UnicodeEncodeError:
            return Outcome("fault", f"a message that no terminal can print: {message!a}")
        if not 0 < len(message) <= _LONGEST_MESSAGE:
            return Outcome(
                "fault", f"a message of {len(message):,} characters: {message[:200]} … ({type(error).__name__})"
            )
        return Outcome("named", message)
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit, a panic of a library in Rust, the time limit: faults like any other
        return Outcome("fault", traceback.format_exc())
    return Outcome("read", "")


class _TooLong(BaseException):
    """Not an ``Exception``: readers turn those of other libraries into errors of their own."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> None:
        raise _TooLong(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
