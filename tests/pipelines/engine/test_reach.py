"""Decisions about a cluster, with nodes and an autoscaler that are made up; ``test_elastic`` sees them on real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pipelines.engine import reach as module
from pipelines.engine.nodes import Autoscaler, Node
from pipelines.engine.reach import Reach, reach
from pipelines.recipe.config import ResourcesConfig
from tests.support.voice import Recorder
from weaksam.errors import ConfigError, RunError

HEAD = Node(node_id="head", address="10.0.0.1", cpus=0, gpus=0)
CPUS = Node(node_id="cpus", address="10.0.0.2", cpus=4, gpus=0)
GPUS = Node(node_id="gpus", address="10.0.0.3", cpus=8, gpus=2)
IDLE = Autoscaler(starting=(), failed=(), waiting=())
STARTING = Autoscaler(starting=("worker", "worker"), failed=(), waiting=("1 x {GPU: 1}",))


class Made:
    """A cluster whose nodes come one by one, a step each time somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[list[Node], Autoscaler | None]] = []
        self.asked: list[tuple[Mapping[str, float], int]] = []
        self.now = 0.0
        monkeypatch.setattr(module.cluster, "nodes", lambda: self.steps[0][0])
        monkeypatch.setattr(module.cluster, "autoscaler", lambda: self.steps[0][1])
        monkeypatch.setattr(module.ray_session, "is_own", lambda: False)
        monkeypatch.setattr(module, "asking_for", self._asking_for)
        monkeypatch.setattr(module.time, "sleep", self._sleep)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    @contextmanager
    def _asking_for(self, bundle: Mapping[str, float], times: int) -> Iterator[list[Any]]:
        self.asked.append((bundle, times))
        yield []

    def _sleep(self, _: float) -> None:
        self.now += 10
        self.steps = self.steps[1:] or self.steps


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(monkeypatch)


def test_of_nodes_those_that_carry_gpus_count(made: Made) -> None:
    made.steps = [([HEAD, CPUS, GPUS], None)]
    assert reach(ResourcesConfig(), Recorder()) == Reach(cpus=8, gpus=2, least_cpus=8, grows=True)
    assert reach(ResourcesConfig(device="cpu"), Recorder()) == Reach(cpus=12, gpus=0, least_cpus=4, grows=True)
    assert made.asked == []


def test_one_machine_gives_what_it_has(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ray_session, "is_own", lambda: True)
    alone = Node(node_id="head", address="10.0.0.1", cpus=4, gpus=0)
    made.steps = [([alone], None)]
    assert reach(ResourcesConfig(), Recorder()) == Reach(cpus=4, gpus=0, least_cpus=4)
    assert reach(ResourcesConfig(cpus=3), Recorder()).cpus == 3
    with pytest.raises(ConfigError, match=r"resources\.device: expected cpu or auto, .* got gpu"):
        reach(ResourcesConfig(device="gpu"), Recorder())


def test_a_cluster_that_never_has_a_gpu_is_no_place_for_auto(made: Made) -> None:
    made.steps = [([HEAD, CPUS], None)]
    with pytest.raises(
        ConfigError, match=r"a GPU, got one of 2 node\(s\) with 4 CPUs and no GPU; resources\.device=cpu"
    ):
        reach(ResourcesConfig(), Recorder())
    busy = replace(IDLE, starting=("cpus",), failed=("gpus: no capacity, an hour ago",))  # of others, before
    made.steps = [([HEAD, CPUS], busy)]
    with pytest.raises(ConfigError, match=r"a GPU or may start one, got"):
        reach(ResourcesConfig(), Recorder())
    assert made.asked == [({"GPU": 1}, 1)]


@pytest.mark.parametrize("starting", [STARTING, Autoscaler(starting=(), failed=("g5: no capacity",), waiting=())])
def test_a_gpu_that_may_start_is_waited_for(made: Made, starting: Autoscaler) -> None:
    voice = Recorder()
    made.steps = [([HEAD], IDLE), ([HEAD], starting), ([HEAD], starting), ([HEAD], starting), ([HEAD, GPUS], starting)]
    found = reach(ResourcesConfig(), voice)
    assert (found.gpus, found.starts_nodes) == (2, True)
    assert made.asked == [({"GPU": 1}, 1), ({"GPU": 1.0}, 1)]
    assert "waiting for room for 1 actor(s), 20 s: 1 node(s) with 0 GPUs; Ray: " + str(starting) in voice.text


def test_workers_are_waited_for_as_long_as_the_recipe_says(made: Made) -> None:
    made.steps = [([HEAD], None)]
    with pytest.raises(
        RunError, match=r"no room for 3 actor\(s\) within 60 s .*1 node\(s\) with 0 CPUs; no autoscaler"
    ):
        reach(ResourcesConfig(device="cpu", least_actors=3, wait_for_workers=60), Recorder())
    assert made.asked == [({"CPU": 1.0}, 3)]


def test_nodes_that_are_avoided_do_not_count(made: Made) -> None:
    other = replace(GPUS, node_id="others", gpus=4)
    made.steps = [([HEAD, GPUS, other], IDLE)]
    assert reach(ResourcesConfig(), Recorder(), avoided=["others"]).gpus == 2
    made.steps = [([HEAD, GPUS], IDLE), ([HEAD, GPUS, other], IDLE)]
    assert reach(ResourcesConfig(device="gpu", least_actors=3), Recorder(), avoided=["gpus"]).gpus == 4
    assert made.asked == [({"GPU": 1.0}, 3)]  # also for what is there: an autoscaler takes it away if nobody asks


def test_what_an_autoscaler_does_is_said_in_a_line() -> None:
    assert str(IDLE) == ""
    assert str(STARTING) == "starting worker; pending 1 x {GPU: 1}"
