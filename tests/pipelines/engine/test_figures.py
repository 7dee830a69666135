"""The figures that programs read are those that people are told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from pipelines.engine import figures as module
from pipelines.engine.figures import Figures, Measured, Unit
from pipelines.engine.voice import Step, TextTable, Tone, Toned, Waiting
from tests.support.voice import Recorder

ROOM = Waiting(what="room", seconds=15.0, details="0 nodes")


class Told:
    """A measured voice, what it told, and a clock that does not run by itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.figures: list[Figures] = []
        self.heard = Recorder()
        self.voice = Measured(self.heard, self.figures.append)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    @property
    def last(self) -> Figures:
        return self.figures[-1]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Rows are looked at when this is called, and returns once they were."""
    asked, done = threading.Semaphore(0), threading.Semaphore(0)

    class Stop:
        stopped = False

        def set(self) -> None:
            self.stopped = True
            asked.release()

        def wait(self, _seconds: float) -> bool:
            done.release()
            asked.acquire()
            return self.stopped

    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=Stop, Thread=threading.Thread, Lock=threading.Lock))

    def look() -> None:
        done.acquire()
        asked.release()
        done.acquire()
        done.release()

    return look


def test_people_hear_what_they_would_have_heard(told: Told) -> None:
    table, step = TextTable("title"), Step(done=1, planned=2, loss=0.5, images_per_s=3.0, left_s=4.0)
    told.voice.say(Toned("propose", Tone.NAME), " goes on")
    told.voice.table(table)
    told.voice.say(ROOM)
    with told.voice.sign_of_life("at work"), told.voice.rows("propose", 2, lambda: 1):
        pass
    with told.voice.steps("train-mil") as show:
        show(step)
    assert told.heard.lines == ["propose goes on", "title", "", "  waiting for room, 15 s: 0 nodes"]
    assert told.heard.counted == [("propose", 2, 1, 1)]
    assert told.heard.steps_shown == [("train-mil", step)]


def test_rows_are_counted_from_the_first_moment_to_the_last(told: Told, looks: Callable[[], None]) -> None:
    done = 4
    with told.voice.rows("propose", 100, lambda: done):
        assert (told.last.unit, told.last.done, told.last.planned) == (Unit.IMAGES, 4, 100)
        assert told.last.images_per_s is None  # nobody knows yet
        told.now, done = 110.0, 24
        looks()
        assert (told.last.done, told.last.images_per_s) == (24, 2.0)  # 20 in 10 s
        told.now, done = 120.0, 24
        looks()
        assert (told.last.done, told.last.images_per_s) == (24, 1.0)  # 20 in 20 s
        told.now, done = 130.0, 30
    assert (told.last.done, told.last.images_per_s) == (30, 0.867)  # 26 in 30 s
    assert told.last.updated is not None
    assert told.last.updated.endswith("+00:00")


def test_how_fast_it_is_is_a_matter_of_the_last_minute(told: Told, looks: Callable[[], None]) -> None:
    done = 0
    with told.voice.rows("propose", 1000, lambda: done):
        for _ in range(10):
            told.now, done = told.now + 10, done + 50
            looks()
        assert told.last.images_per_s == 5.0
        for _ in range(6):
            told.now += 10
            looks()
        assert told.last.images_per_s == 0.0


def test_rows_that_cannot_be_counted_for_a_moment_stop_nothing(
    told: Told, looks: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    answers = [1, OSError("no answer"), 3, 3]

    def count() -> int:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    told.heard.rows = quiet  # type: ignore[method-assign]
    with told.voice.rows("propose", 3, count):
        looks()
        assert told.last.done == 1
        looks()
        assert told.last.done == 3
    assert caplog.messages == ["propose: rows could not be counted: no answer"]


@contextmanager
def quiet(label: str, total: int, count: Callable[[], int]) -> Iterator[None]:
    yield


def test_work_that_fails_leaves_no_thread(told: Told) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), told.voice.rows("propose", 1, lambda: 0):
        raise ZeroDivisionError
    assert set(threading.enumerate()) <= before


def test_a_training_tells_its_steps(told: Told) -> None:
    with told.voice.steps("train-mil") as show:
        assert (told.last.unit, told.last.done, told.last.planned) == (
            Unit.STEPS,
            None,
            None,
        )  # what is loaded, it says
        show(Step(done=7, planned=9, loss=0.25, images_per_s=3.5, left_s=4.0))
    assert told.last.updated is not None
    seen = Figures(unit=Unit.STEPS, done=7, planned=9, images_per_s=3.5, loss=0.25, updated=told.last.updated)
    assert told.last == seen


def test_what_is_waited_for_is_told_until_something_comes_of_it(told: Told, looks: Callable[[], None]) -> None:
    done = 4
    with told.voice.rows("propose", 9, lambda: done):
        assert told.last.waiting_for is None
        told.voice.say("  ", ROOM)
        assert told.last.waiting_for == ROOM
        told.now += 4.5
        looks()
        assert told.last.waiting_for == Waiting(what="room", seconds=19.5, details="0 nodes")
        assert told.last.done == 4
        done = 5
        looks()
        assert told.last.waiting_for is None


def test_what_is_not_said_again_is_not_waited_for_any_more(told: Told, looks: Callable[[], None]) -> None:
    with told.voice.rows("propose", 9, lambda: 4):
        told.voice.say(ROOM)
        for _ in range(4):
            told.now += 15
            told.voice.say(ROOM)
        told.now += 19
        looks()
        assert told.last.waiting_for is not None
        told.now += 2
        looks()
        assert told.last.waiting_for is None


def test_figures_are_plain_json_and_back() -> None:
    figures = Figures(unit=Unit.STEPS, done=7, planned=9, waiting_for=ROOM, updated="2026-11-28T02:10:00+00:00")
    plain = figures.to_plain()
    assert plain == {
        "unit": "steps", "done": 7, "planned": 9, "images_per_s": None, "loss": None,
        "waiting_for": {"what": "room", "seconds": 15.0, "details": "0 nodes"}, "updated": "2026-11-28T02:10:00+00:00",
    }  # fmt: skip
    assert Figures.from_plain(plain) == figures


@pytest.mark.parametrize("other", [None, "text", {"unit": "furlongs"}, {"done": "many"}, [1]])
def test_what_another_version_wrote_is_not_known(other: object) -> None:
    assert Figures.from_plain(other) is None
