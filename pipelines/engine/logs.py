"""What the lines of the log are about: run, stage and image, in the process that was asked and in those that work for it.

Whoever works on an image says so with ``about``; ``Subjects`` lets the records of a handler tell it, as ``run``, ``stage`` and
``image_id`` of the record and, all in one, as ``about``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")

_IN_WORKERS = "%(asctime)s %(levelname)s %(name)s: %(message)s%(about)s"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is worked on; "" where it is no one thing."""

    run: str = ""  # folder
    stage: str = ""  # name of the instance
    image_id: str = ""

    def __str__(self) -> str:
        """What a line ends with."""
        told = " ".join(f"{name}={value}" for name, value in vars(self).items() if value)
        return f" ({told})" if told else ""


_subject: ContextVar[Subject] = ContextVar("subject", default=Subject())  # noqa: B039  # it is frozen


class Subjects(logging.Filter):
    """Lets all records of a handler pass, and say what they are about."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See ``logging``."""
        subject = _subject.get()
        vars(record).update(vars(subject), about=str(subject))
        return True


def subject() -> Subject:
    """Return what is being worked on here and now."""
    return _subject.get()


@contextmanager
def about(**known: str) -> Iterator[None]:
    """Let lines of the body be about something, besides what they are about already; names as of ``Subject``."""
    with _within(replace(_subject.get(), **known)):
        yield


def of_image(function: Callable[[dict[str, Any]], T]) -> Callable[[dict[str, Any]], T]:
    """Return a function of rows whose lines are about their images, also in threads."""
    here = _subject.get()

    def work(row: dict[str, Any]) -> T:
        with _within(replace(here, image_id=row["image_id"])):
            return function(row)

    return work


@contextmanager
def in_worker(subject: Subject) -> Iterator[None]:
    """Let lines of the body, in a process that Ray started, go to its standard error, and be about ``subject``."""
    root = logging.getLogger()
    if not root.handlers:  # else Ray was told to set up the log of its processes
        ours = logging.StreamHandler()
        ours.setFormatter(logging.Formatter(_IN_WORKERS))
        root.addHandler(ours)
    for handler in root.handlers:
        if not any(isinstance(known, Subjects) for known in handler.filters):
            handler.addFilter(Subjects())
    with _within(subject):
        yield


@contextmanager
def _within(subject: Subject) -> Iterator[None]:
    token = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(token)
