"""Progress of a stage: a sign of life soon after its start, then the rows that are safely in its files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.store.tables import Table

_POLL_S = 1.0  # on a terminal
_LINE_S = 15.0  # one plain line this often where there is no terminal
_SIGN_S = 2.0  # from a stage's start to its first sign of life


@contextmanager
def sign_of_life(console: Console, line: str) -> Iterator[None]:
    """Print a line once the body takes longer than a moment, such as while models load and processes start."""
    timer = threading.Timer(_SIGN_S, lambda: console.print(line, markup=False, highlight=False))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextmanager
def rows_progress(console: Console, table: Table, *, total: int, label: str) -> Iterator[None]:
    """Show how many rows of a table are done while the body runs: a bar on a terminal, plain lines elsewhere."""
    stop = threading.Event()
    watch = _watch_bar if console.is_terminal else _watch_lines
    thread = threading.Thread(target=watch, args=(console, table, total, label, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch_bar(console: Console, table: Table, total: int, label: str, stop: threading.Event) -> None:
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    start, first = time.monotonic(), table.count()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(label, total=total, completed=first, rate="")
        while not stop.wait(_POLL_S):
            done = table.count()
            progress.update(task, completed=done, rate=_rate(done - first, start))
        progress.update(task, completed=table.count())


def _watch_lines(console: Console, table: Table, total: int, label: str, stop: threading.Event) -> None:
    start, first = time.monotonic(), table.count()
    shown = first
    while not stop.wait(_LINE_S):
        done = table.count()
        if done != shown:
            console.print(f"  {label} {done:,}/{total:,} {_rate(done - first, start)}")
        shown = done


def _rate(rows: int, start: float) -> str:
    return f"{rows / max(time.monotonic() - start, 1e-9):.1f} img/s" if rows else ""
