"""What a person hears of the work, and what is kept for one who does not listen."""

from __future__ import annotations

import logging

import pytest

from pipelines.engine.voice import SILENT, Kind, Step, TextTable, Tone, Toned, Waiting, plain
from tests.support.voice import Recorder


def test_words_without_their_tones_are_text() -> None:
    assert plain([Toned("propose", Tone.NAME), " is [done]"]) == "propose is [done]"
    assert plain([]) == ""


def test_whoever_gives_no_voice_hears_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    table = TextTable("title")
    table.add_columns(Kind.NAME, "source")
    table.add_row("grid")
    with SILENT.sign_of_life("at work"), SILENT.rows("propose", 2, lambda: 1), SILENT.steps("train-mil") as show:
        SILENT.say(Toned("propose", Tone.NAME), " is finished")
        SILENT.table(table)
        show(Step(done=1, planned=2, loss=0.5, images_per_s=1.0, left_s=1.0))
        SILENT.say(Waiting(what="workers", seconds=15.0, details="1 node"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("tone", Tone)
def test_warnings_and_errors_that_nobody_hears_are_logged(tone: Tone, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        SILENT.say("  ", Toned("half of it is dropped", tone), ": look at it")
    lost = tone in (Tone.WARNING, Tone.ERROR)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * lost
    assert caplog.messages == ["half of it is dropped: look at it"] * lost


def test_a_cell_is_a_string_or_words_in_tones() -> None:
    table = TextTable()
    table.add_columns(Kind.NAME, "a", "b", "c")
    table.add_row("plain", Toned("good", Tone.GOOD), ("a note, ", Toned("its place", Tone.QUIET)))
    assert [plain(cell) for cell in table.rows[0]] == ["plain", "good", "a note, its place"]
    voice = Recorder()
    voice.table(table)
    assert voice.lines[-1] == "plain  good  a note, its place"
