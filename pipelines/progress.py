"""Progress of a table stage, fed by nothing but the rows that are safely in its files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.store import Table

_POLL_S = 1.0  # on a terminal
_LINE_S = 15.0  # one plain line this often where there is no terminal


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
