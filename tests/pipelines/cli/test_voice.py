from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.cli import voice as module
from pipelines.cli.voice import ConsoleVoice, voice_in_log
from pipelines.engine.voice import Kind, Step, TextTable, Tone, Toned, Waiting
from pipelines.store.schemas import IMAGES
from pipelines.store.tables import Table
from tests.support.patience import wait_until


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(str(tmp_path), IMAGES)


def write(table: Table, *ids: str) -> None:
    rows = [
        {"image_id": i, "uri": "", "split": "train", "content": "", "labels": None, "labels_difficult": None}
        for i in ids
    ]
    table.write_rows(rows, f"part-{'-'.join(ids)}")


def until(printed: io.StringIO, text: str) -> None:
    wait_until(lambda: text in printed.getvalue(), explain=printed.getvalue)


def test_plain_lines_count_the_rows_that_are_in_the_files(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE_S", 0.02)
    printed = io.StringIO()
    write(table, "first")
    with ConsoleVoice(Console(file=printed, width=100)).rows("propose", 1000, table.count):
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
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    printed = io.StringIO()
    with ConsoleVoice(Console(file=printed, width=100, force_terminal=True)).rows("propose", 2, table.count):
        write(table, "a")
    assert "propose" in printed.getvalue()
    assert "1/2" in printed.getvalue()


def test_short_work_prints_no_lines_and_leaves_no_thread(table: Table) -> None:
    printed = io.StringIO()
    before = set(threading.enumerate())
    with ConsoleVoice(Console(file=printed)).rows("propose", 0, table.count):
        pass
    assert printed.getvalue() == ""
    assert set(threading.enumerate()) <= before


def test_work_that_fails_ends_the_progress_too(table: Table) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), ConsoleVoice(Console(file=io.StringIO())).rows("x", 1, table.count):
        raise ZeroDivisionError
    assert set(threading.enumerate()) <= before


def test_work_that_takes_a_moment_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SIGN_S", 0.02)
    printed = io.StringIO()
    with ConsoleVoice(Console(file=printed)).sign_of_life("  propose [x] is at work"):
        until(printed, "  propose [x] is at work\n")
    assert printed.getvalue().count("\n") == 1
    assert module._SIGN_S < 3


def test_short_work_needs_no_sign_of_life() -> None:
    printed, before = io.StringIO(), set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), ConsoleVoice(Console(file=printed)).sign_of_life("x"):
        raise ZeroDivisionError
    assert printed.getvalue() == ""
    assert set(threading.enumerate()) <= before


def test_steps_of_a_training_are_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    with ConsoleVoice(Console(file=printed)).steps("train-mil") as show:
        show(Step(done=3, planned=9, loss=0.5, images_per_s=1.0, left_s=6.0))
        assert printed.getvalue() == ""  # it has only just begun
        monkeypatch.setattr(module, "_LINE_S", 0.0)
        show(Step(done=4, planned=9000, loss=0.4, images_per_s=12.6, left_s=125.4))
    assert printed.getvalue() == "  train-mil step 4/9,000 loss 0.400 13 img/s, 2:05 left\n"


def test_of_a_table_without_rows_its_title_is_said() -> None:
    printed = io.StringIO()
    empty = TextTable("val: 3 images, no true boxes")
    empty.add_columns(Kind.FIGURE, "AP50", "CorLoc")
    ConsoleVoice(Console(file=printed)).table(empty)
    assert printed.getvalue() == "val: 3 images, no true boxes\n"


@pytest.mark.parametrize(
    ("loss", "images_per_s", "expected"),
    [(0.00031459, 12.6, "loss 0.000315 13 img/s"), (0.4, 0.34, "loss 0.400 0.3 img/s"), (0.4, 9.96, "10.0 img/s")],
)
def test_small_figures_are_more_than_zeros(
    loss: float, images_per_s: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(module, "_LINE_S", 0.0)
    with ConsoleVoice(Console(file=printed)).steps("train-prompts.maps") as show:
        show(Step(done=4, planned=9, loss=loss, images_per_s=images_per_s, left_s=125.4))
    assert f"{expected}, 2:05 left" in printed.getvalue()


def test_steps_of_a_training_are_a_bar_on_a_terminal() -> None:
    printed = io.StringIO()
    with ConsoleVoice(Console(file=printed, force_terminal=True, width=120)).steps("train-mil") as show:
        show(Step(done=3, planned=9, loss=0.5, images_per_s=1.0, left_s=6.0))
    assert "3/9" in printed.getvalue()
    assert "loss 0.500" in printed.getvalue()


SAID = {
    "a tone is a style, numbers stand out": (
        [Toned("propose", Tone.NAME), " took 3"],
        "\x1b[1mpropose\x1b[0m took \x1b[1;36m3\x1b[0m\n",
    ),
    "particulars stay quiet": ([Toned("sam 42", Tone.QUIET)], "\x1b[2msam 42\x1b[0m\n"),
    "what is waited for is a line like others": (
        [Waiting(what="workers", seconds=30.4, details="1 node")],
        "  waiting for workers, \x1b[1;36m30\x1b[0m s: \x1b[1;36m1\x1b[0m node\n",
    ),
    "what comes from elsewhere stays as it is": ([Toned("3 of :x: [b]", Tone.VERBATIM), " 4"], "3 of :x: [b] 4\n"),
    "an error's numbers stand out too": (
        [Toned("failed: 7", Tone.ERROR)],
        "\x1b[31mfailed: \x1b[0m\x1b[1;36m7\x1b[0m\n",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_how_tones_look_on_a_terminal(name: str) -> None:
    words, shown = SAID[name]
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=True, color_system="standard", width=80, soft_wrap=True, _environ={})
    ConsoleVoice(console).say(*words)
    assert printed.getvalue() == shown


def test_markup_in_words_means_nothing_and_long_lines_of_a_log_are_not_broken() -> None:
    printed = io.StringIO()
    voice_in_log(printed).say("[bold]a [/] :smile: ", Toned("[red]b", Tone.NAME), " " + "c" * 300)
    assert printed.getvalue() == f"[bold]a [/] :smile: [red]b {'c' * 300}\n"
