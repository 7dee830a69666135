"""What stages and the runner tell the person who waits: lines, tables, progress. Whoever calls the library says to whom.

The command line gives a voice that knows a terminal. Without one the library is silent; what must not be lost then is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

logger = logging.getLogger(__name__)


class Tone(Enum):
    """How words are meant."""

    PLAIN = "plain"
    VERBATIM = "verbatim"  # from elsewhere, such as names of files: nothing in it is picked out
    NAME = "name"  # what a line is about
    HEADING = "heading"  # of many lines
    QUIET = "quiet"  # particulars
    GOOD = "good"
    BUSY = "busy"
    NOTICE = "notice"  # worth a look
    WARNING = "warning"  # something may be wrong; logged where nobody listens
    ERROR = "error"  # something failed; logged where nobody listens


@dataclass(frozen=True)
class Toned:
    """Words in a tone."""

    text: str
    tone: Tone


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A line about what the work waits for. It is said every 15 s for as long as it does."""

    what: str
    seconds: float  # so far
    details: str  # what there is, and what is known of the rest

    @property
    def text(self) -> str:
        """What people read."""
        return f"  waiting for {self.what}, {self.seconds:.0f} s: {self.details}"

    @property
    def tone(self) -> Tone:
        """How it is meant."""
        return Tone.PLAIN


Words = str | Toned | Waiting  # a string is plain; markup in it means nothing


def plain(words: Iterable[Words]) -> str:
    """Return words without their tones."""
    return "".join(part if isinstance(part, str) else part.text for part in words)


class Kind(Enum):
    """What the cells of a column are."""

    NAME = "name"  # of the row: repeated where a table is split, never wrapped
    FIGURE = "figure"  # never wrapped
    TEXT = "text"  # wrapped where it is long


@dataclass(frozen=True)
class Column:
    """A column's heading and what its cells are."""

    heading: str
    kind: Kind


Cell = tuple[Words, ...]


class TextTable:
    """A table for people to read."""

    def __init__(self, title: str = "") -> None:
        """Begin a table; the title stands above it."""
        self.title = title
        self.columns: list[Column] = []
        self.rows: list[list[Cell]] = []

    def add_columns(self, kind: Kind, *headings: str) -> None:
        """Add columns at the right."""
        self.columns += [Column(heading, kind) for heading in headings]

    def add_row(self, *cells: Words | Sequence[Words]) -> None:
        """Add a row of as many cells as there are columns."""
        if len(cells) != len(self.columns):
            raise ValueError(f"expected {len(self.columns)} cells, got {len(cells)}")
        self.rows.append([(cell,) if isinstance(cell, Words) else tuple(cell) for cell in cells])


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a training is, with means over the steps since it was last said."""

    done: int  # steps
    planned: int
    loss: float
    images_per_s: float
    left_s: float  # until the end


ShowStep = Callable[[Step], None]


class Voice(Protocol):
    """How a person hears of the work. A voice need not be picklable: it stays in the process of whoever gave it."""

    def say(self, *words: Words) -> None:
        """Say a line, or several with line breaks between them."""

    def table(self, table: TextTable) -> None:
        """Show a table."""

    def sign_of_life(self, line: str) -> AbstractContextManager[None]:
        """Say a line once the body takes longer than a moment, such as while models load and processes start."""

    def rows(self, label: str, total: int, count: Callable[[], int]) -> AbstractContextManager[None]:
        """Show how many rows are done, of how many and how fast, while the body runs.

        Args:
            label: what they are rows of.
            total: how many there will be.
            count: returns how many there are; called now and then, from another thread.
        """

    def steps(self, label: str) -> AbstractContextManager[ShowStep]:
        """Give a function that shows the steps of a training while the body runs."""


class Silent:
    """A voice that says nothing; lines with a warning or an error in them go to the log."""

    def say(self, *words: Words) -> None:
        """See ``Voice``."""
        if any(isinstance(part, Toned) and part.tone in (Tone.WARNING, Tone.ERROR) for part in words):
            logger.warning("%s", plain(words).strip())

    def table(self, table: TextTable) -> None:
        """See ``Voice``."""

    def sign_of_life(self, line: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """See ``Voice``."""
        return nullcontext()

    def rows(self, label: str, total: int, count: Callable[[], int]) -> AbstractContextManager[None]:  # noqa: ARG002
        """See ``Voice``."""
        return nullcontext()

    def steps(self, label: str) -> AbstractContextManager[ShowStep]:  # noqa: ARG002
        """See ``Voice``."""
        return nullcontext(lambda _step: None)


SILENT = Silent()
