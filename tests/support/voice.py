"""A voice that remembers what it was told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pipelines.engine.voice import ShowStep, Silent, Step, TextTable, Words, plain


class Recorder(Silent):
    """Remembers lines and tables as plain text, and what progress it was shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.counted: list[tuple[str, int, int, int]] = []  # of rows: label, total, done before and after
        self.steps_shown: list[tuple[str, Step]] = []  # of trainings, with their labels

    @property
    def text(self) -> str:
        """Everything said, and a line for each row of the tables."""
        return "".join(f"{line}\n" for line in self.lines)

    def say(self, *words: Words) -> None:
        """See ``Voice``."""
        self.lines.append(plain(words))

    def table(self, table: TextTable) -> None:
        """See ``Voice``."""
        self.lines += [table.title, "  ".join(column.heading for column in table.columns)]
        self.lines += ["  ".join(map(plain, row)) for row in table.rows]

    @contextmanager
    def rows(self, label: str, total: int, count: Callable[[], int]) -> Iterator[None]:
        """See ``Voice``."""
        before = count()
        yield
        self.counted.append((label, total, before, count()))

    def steps(self, label: str) -> AbstractContextManager[ShowStep]:
        """See ``Voice``."""
        return nullcontext(lambda step: self.steps_shown.append((label, step)))
