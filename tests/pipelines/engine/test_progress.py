from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.engine import progress
from pipelines.engine.progress import rows_progress, sign_of_life
from pipelines.store.schemas import IMAGES
from pipelines.store.tables import Table
from tests.support.patience import wait_until


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(str(tmp_path), IMAGES)


def write(table: Table, *ids: str) -> None:
    rows = [{"image_id": i, "uri": "", "split": "train", "labels": None, "labels_difficult": None} for i in ids]
    table.write_rows(rows, f"part-{'-'.join(ids)}")


def until(printed: io.StringIO, text: str) -> None:
    wait_until(lambda: text in printed.getvalue(), explain=printed.getvalue)


def test_plain_lines_count_the_rows_that_are_in_the_files(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_S", 0.02)
    printed = io.StringIO()
    write(table, "first")
    with rows_progress(Console(file=printed, width=100), table, total=1000, label="propose"):
        written = 1
        while not printed.getvalue():  # the watching thread may have counted the first ones as done before
            write(table, str(written))
            written += 1
            time.sleep(0.05)
        until(printed, f"  propose {written}/1,000 ")
        until(printed, "img/s\n")
        lines = len(printed.getvalue().splitlines())
        time.sleep(0.2)
        assert len(printed.getvalue().splitlines()) == lines  # nothing new, nothing to say


def test_a_bar_ends_at_what_was_done(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_POLL_S", 0.02)
    printed = io.StringIO()
    with rows_progress(Console(file=printed, width=100, force_terminal=True), table, total=2, label="propose"):
        write(table, "a")
    assert "propose" in printed.getvalue()
    assert "1/2" in printed.getvalue()


def test_short_work_prints_no_lines_and_leaves_no_thread(table: Table) -> None:
    printed = io.StringIO()
    before = set(threading.enumerate())
    with rows_progress(Console(file=printed), table, total=0, label="propose"):
        pass
    assert printed.getvalue() == ""
    assert set(threading.enumerate()) <= before


def test_work_that_fails_ends_the_progress_too(table: Table) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), rows_progress(Console(file=io.StringIO()), table, total=1, label="x"):
        raise ZeroDivisionError
    assert set(threading.enumerate()) <= before


def test_work_that_takes_a_moment_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SIGN_S", 0.02)
    printed = io.StringIO()
    with sign_of_life(Console(file=printed), "  propose [x] is at work"):
        until(printed, "  propose [x] is at work\n")
    assert printed.getvalue().count("\n") == 1
    assert progress._SIGN_S < 3


def test_short_work_needs_no_sign_of_life() -> None:
    printed, before = io.StringIO(), set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), sign_of_life(Console(file=printed), "x"):
        raise ZeroDivisionError
    assert printed.getvalue() == ""
    assert set(threading.enumerate()) <= before
