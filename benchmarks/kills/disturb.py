"""A command on a cluster of two logical nodes, and what is taken away from it while it is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from benchmarks.kills.scenes import ACTOR, WORKER, Kind, Scene, any_progress
from tests.support.cluster import FixedNodes, fixed_nodes

WEAKSAM = (sys.executable, "-c", "from pipelines.cli.app import main; main()")
NODES = 2
CPUS = 1  # logical, of each node; the head has none
_BACK_S = (1.0, 5.0)  # until a node joins in the place of one that was lost
_LOOK_S = 0.05
_STANDSTILL_S = 240.0  # without progress: it hangs
_MOST_FAILURES = 5  # drivers that end by themselves, unfinished
# Nodes are missed after some 3 s instead of some 15, so that there is time for many to be lost.
_SOON = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


@dataclass(kw_only=True)
class Told:
    """How a run went."""

    seconds: float = 0.0
    kills: Counter[Kind] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)  # last lines of drivers that gave up, and of one that hung

    def __add__(self, other: Told) -> Told:
        return Told(
            seconds=self.seconds + other.seconds,
            kills=self.kills + other.kills,
            failures=[*self.failures, *other.failures],
        )


def work(scene: Scene, arguments: Sequence[str], run: Path, log: Path, kills: Sequence[Kind], random: Random) -> Told:
    """Run a scene's command until it is finished, and kill what ``kills`` says in its course."""
    told, started = Told(), time.monotonic()
    with fixed_nodes(environment={**_SOON, **QUIET}) as nodes:
        for _ in range(NODES):
            nodes.add(cpus=CPUS)
        with _Run(
            scene, [*arguments, "--out", str(run), "--address", nodes.address], run, log, nodes, random
        ) as at_work:
            at_work.until_finished(kills, told)
    told.seconds = time.monotonic() - started
    return told


class _Run:
    """Drivers, one after another, and the cluster that they work on."""

    def __init__(
        self, scene: Scene, command: Sequence[str], run: Path, log: Path, nodes: FixedNodes, random: Random
    ) -> None:
        self._scene = scene
        self._command = [*WEAKSAM, *command]
        self._run = run
        self._log = log
        self._nodes = nodes
        self._random = random
        self._driver: subprocess.Popen[bytes] | None = None
        self._back: list[float] = []  # when nodes join again
        self._known: set[int] = set()  # processes that were there at the last kill

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._driver is not None:
            self._kill_driver()

    def until_finished(self, kills: Sequence[Kind], told: Told) -> None:
        """Drive; kill the next when the run has got on since the last."""
        pending = list(kills)
        killed_at = self._scene.progress(self._run)
        reached, moved = any_progress(self._run), time.monotonic()
        while True:
            if self._driver is None:
                self._start()
            self._let_nodes_join()
            code = self._driver.poll() if self._driver else None
            if code == 0:
                return
            if code is not None:
                self._driver = None
                told.failures.append(self._last_words())
                if len(told.failures) == _MOST_FAILURES:
                    return
            now, progress, anything = time.monotonic(), self._scene.progress(self._run), any_progress(self._run)
            if anything > reached:
                reached, moved = anything, now
            if now - moved > _STANDSTILL_S:
                told.failures.append(f"no progress for {_STANDSTILL_S:.0f} s: {self._last_words()}")
                return
            if pending and progress >= killed_at + self._scene.steps and self._kill(pending[0]):
                told.kills[pending.pop(0)] += 1
                killed_at, moved = progress, now
            time.sleep(_LOOK_S)

    def _start(self) -> None:
        with self._log.open("ab") as file:
            self._driver = subprocess.Popen(self._command, stdout=file, stderr=subprocess.STDOUT)

    def _kill(self, kind: Kind) -> bool:
        """Kill one of a kind; return whether there was one."""
        if kind == "driver":
            if self._driver is None:
                return False
            self._kill_driver()
        elif kind == "node":
            nodes = sorted(self._nodes.nodes, key=lambda node: str(node.node_id))
            if not nodes:
                return False
            self._nodes.lose(self._random.choice(nodes))
            self._back.append(time.monotonic() + self._random.uniform(*_BACK_S))
        else:
            there = self._processes(kind)
            # One that has only just come in the place of the last has done nothing yet.
            settled = [process for process in there if process.pid in self._known]
            if not settled:
                self._known |= {process.pid for process in there}
                return False
            with suppress(psutil.NoSuchProcess):
                self._random.choice(settled).kill()
        self._known = {process.pid for process in (*self._processes("actor"), *self._processes("worker"))}
        return True

    def _processes(self, kind: Kind) -> list[psutil.Process]:
        title = WORKER if kind == "worker" else ACTOR
        found = []
        for node in self._nodes.nodes:
            with suppress(psutil.Error):
                found += [child for child in _children(node) if title.match(_title(child))]
        return sorted(found, key=lambda process: process.pid)

    def _let_nodes_join(self) -> None:
        now = time.monotonic()
        for due in [due for due in self._back if due <= now]:
            self._back.remove(due)
            self._nodes.add(cpus=CPUS)

    def _kill_driver(self) -> None:
        assert self._driver is not None
        with suppress(ProcessLookupError):
            os.kill(self._driver.pid, signal.SIGKILL)
        self._driver.wait()
        self._driver = None

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").strip().splitlines()[-8:])


def _children(node: Any) -> list[psutil.Process]:
    return psutil.Process(node.all_processes["raylet"][0].process.pid).children()


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error, IndexError):
        return process.cmdline()[0]
    return ""
