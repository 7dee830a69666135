"""What a pass's watch asks for and says, on a cluster that is made up; ``test_elastic`` sees it on a real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import ray.util

from pipelines.dataflow import watch as module
from pipelines.dataflow.watch import Watch
from pipelines.engine.nodes import Node
from pipelines.engine.notes import Kind, Note
from tests.support.patience import wait_until
from tests.support.voice import Recorder

NODE = Node(node_id="n", address="10.0.0.2", cpus=4, gpus=0)


class MadeNotes:
    """Notes that a test writes."""

    def __init__(self, *found: Note) -> None:
        self.found = list(found)
        self.looks = 0

    def read(self, kind: Kind) -> list[Note]:
        self.looks += 1
        return [note for note in self.found if note.kind is kind]


class Group:
    """A placement group for which there is no room."""

    def wait(self, _seconds: float) -> bool:
        return False


def built(number: int) -> list[Note]:
    return [Note(kind=Kind.BUILT, node_id="n", actor_id=f"a{n}", actor="SegmentActor") for n in range(number)]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Make the cluster up; give the groups that are asked for now."""
    groups: list[Group] = []

    def ask(_bundles: Any) -> Group:
        groups.append(Group())
        return groups[-1]

    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(module.cluster, "nodes", lambda: [NODE])
    monkeypatch.setattr(module, "words_of_ray", lambda: "Ray: nothing pending")
    monkeypatch.setattr(module, "stop_asking", groups.remove)
    monkeypatch.setattr(ray.util, "placement_group", ask)
    return groups


def watching(
    notes: MadeNotes, *, most: int, tasks_left: int, wait_s: float = 0.0, said: list[str] | None = None
) -> Watch:
    given_up = [] if said is None else said
    watched: Any = notes
    return Watch(
        watched, Recorder(), {"CPU": 0.9}, most=most, tasks_left=tasks_left, wait_s=wait_s, give_up=given_up.append
    )


def test_nodes_are_asked_for_while_there_are_more_tasks_than_actors(asked: list[Group]) -> None:
    notes = MadeNotes(*built(2))
    watch = watching(notes, most=6, tasks_left=5)
    with watch.on():
        wait_until(lambda: len(asked) == 3)
        for _ in range(2):
            watch.task_ended()
        wait_until(lambda: len(asked) == 1)
        watch.task_ended()
        wait_until(lambda: not asked)
    assert not asked


def test_no_more_nodes_are_asked_for_than_actors_may_be(asked: list[Group]) -> None:
    with watching(MadeNotes(*built(2)), most=3, tasks_left=50).on():
        wait_until(lambda: len(asked) == 1)
    assert not asked


@pytest.mark.parametrize("room", [True, False])
def test_a_pass_that_no_actor_comes_to_is_given_up_once(monkeypatch: pytest.MonkeyPatch, room: bool) -> None:
    if room:  # somebody else's actors have it
        monkeypatch.setattr(module, "_STARTS_S", 0.05)
    else:
        monkeypatch.setattr(module.cluster, "nodes", lambda: [replace(NODE, cpus=0)])
    said: list[str] = []
    with watching(MadeNotes(), most=0, tasks_left=1, wait_s=0.05, said=said).on():
        wait_until(lambda: bool(said))
    assert said == [
        "no room for an actor within 0.05 s (resources.wait_for_workers): 1 node(s); Ray: nothing pending. "
        "Start workers and run the same command again"
    ]


@pytest.mark.parametrize("notes", [built(1), [Note(kind=Kind.BUILDING, node_id="n", actor_id="a")]])
def test_a_pass_goes_on_while_an_actor_is_there_or_being_built(notes: list[Note]) -> None:
    said: list[str] = []
    made = MadeNotes(*notes)
    with watching(made, most=0, tasks_left=1, wait_s=1e-9, said=said).on():
        wait_until(lambda: made.looks > 20)
    assert said == []


def test_an_actor_that_there_is_room_for_has_time_to_start() -> None:
    said: list[str] = []
    made = MadeNotes()
    with watching(made, most=0, tasks_left=1, wait_s=1e-9, said=said).on():
        wait_until(lambda: made.looks > 20)
    assert said == []


@pytest.mark.parametrize(
    ("cpus", "nodes"), [(4, "1 node(s), on which processes may still be starting"), (0, "1 node(s)")]
)
def test_what_is_waited_for_is_said(monkeypatch: pytest.MonkeyPatch, cpus: int, nodes: str) -> None:
    monkeypatch.setattr(module, "SAY_EVERY_S", 0.0)
    monkeypatch.setattr(module.cluster, "nodes", lambda: [replace(NODE, cpus=cpus)])
    watch = watching(MadeNotes(), most=0, tasks_left=1)
    assert isinstance(watch.voice, Recorder)
    with watch.on():
        wait_until(lambda: f"{nodes}; Ray: nothing pending" in watch.voice.text)


def test_actors_on_a_node_that_is_gone_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.cluster, "nodes", list)
    said: list[str] = []
    with watching(MadeNotes(*built(1)), most=0, tasks_left=1, wait_s=0.05, said=said).on():
        wait_until(lambda: bool(said))
