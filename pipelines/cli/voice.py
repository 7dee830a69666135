"""The voice of the command line: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipelines.cli.table_layout import TableLayout
from pipelines.cli.tones import has_highlights, to_text
from pipelines.engine.voice import ShowStep, Step, TextTable, Tone, Toned, Words
from pipelines.store.numbers import loss_figure

_LOG_COLUMNS = 120
_POLL_S = 1.0  # on a terminal
_LINE_S = 15.0  # one plain line this often where there is no terminal
_SIGN_S = 2.0  # from a stage's start to its first sign of life


class ConsoleVoice:
    """A ``Voice`` on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, *words: Words) -> None:
        """See ``Voice``."""
        text = to_text(words)
        self._console.print(self._console.highlighter(text) if has_highlights(words) else text)

    def table(self, table: TextTable) -> None:
        """See ``Voice``."""
        if table.rows or not table.title:
            self._console.print(TableLayout(table))
        else:  # it says why there are none
            self.say(table.title)

    @contextmanager
    def sign_of_life(self, line: str) -> Iterator[None]:
        """See ``Voice``."""
        timer = threading.Timer(_SIGN_S, lambda: self.say(Toned(line, Tone.VERBATIM)))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    @contextmanager
    def rows(self, label: str, total: int, count: Callable[[], int]) -> Iterator[None]:
        """See ``Voice``."""
        stop = threading.Event()
        watch = self._watch_bar if self._console.is_terminal else self._watch_lines
        thread = threading.Thread(target=watch, args=(label, total, count, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextmanager
    def steps(self, label: str) -> Iterator[ShowStep]:
        """See ``Voice``."""
        if not self._console.is_terminal:
            last = time.monotonic()

            def line(step: Step) -> None:
                nonlocal last
                if time.monotonic() - last >= _LINE_S:
                    last = time.monotonic()
                    self.say(f"  {label} step {step.done:,}/{step.planned:,} {_figures(step)}")

            yield line
            return
        with self._bar("figures", TimeElapsedColumn()) as bar:
            shown = bar.add_task(label, total=None, figures="starting workers")
            yield lambda step: bar.update(shown, total=step.planned, completed=step.done, figures=_figures(step))

    def _bar(self, field: str, *times: ProgressColumn) -> Progress:
        """Return a bar that shows a field of its task beside it."""
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
        return Progress(*columns, TextColumn(f"{{task.fields[{field}]}}"), *times, console=self._console)

    def _watch_bar(self, label: str, total: int, count: Callable[[], int], stop: threading.Event) -> None:
        start, first = time.monotonic(), count()
        with self._bar("rate", TimeElapsedColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task(label, total=total, completed=first, rate="")
            while not stop.wait(_POLL_S):
                done = count()
                bar.update(task, completed=done, rate=_rate(done - first, start))
            bar.update(task, completed=count())

    def _watch_lines(self, label: str, total: int, count: Callable[[], int], stop: threading.Event) -> None:
        start, first = time.monotonic(), count()
        shown = first
        while not stop.wait(_LINE_S):
            done = count()
            if done != shown:
                self.say(f"  {label} {done:,}/{total:,} {_rate(done - first, start)}")
            shown = done


def voice_in_log(file: TextIO) -> ConsoleVoice:
    """Return a voice that writes a log for people."""
    return ConsoleVoice(Console(file=file, width=_LOG_COLUMNS, soft_wrap=True))


def _figures(step: Step) -> str:
    minutes, seconds = divmod(round(step.left_s), 60)
    return f"loss {loss_figure(step.loss)} {_pace(step.images_per_s)}, {minutes}:{seconds:02} left"


def _rate(rows: int, start: float) -> str:
    return _pace(rows / max(time.monotonic() - start, 1e-9)) if rows else ""


def _pace(images_per_s: float) -> str:
    return f"{images_per_s:.{0 if images_per_s >= 10 else 1}f} img/s"
