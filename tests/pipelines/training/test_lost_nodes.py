"""Trainings on nodes that are taken away, each in a process of its own that has a cluster of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.training.checkpoints import Checkpoints
from tests.support import training_on_nodes
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.training_on_nodes import TASK
from tests.support.two_workers import train_two

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.nodes]


def started(folder, scenario):
    folder.mkdir(exist_ok=True)
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", training_on_nodes.__name__, str(folder), scenario],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            stdout=file,
            stderr=subprocess.STDOUT,
            # Who runs tests in the background of a shell ignores it, and so would the process.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return process, log


def finished(folder, scenario):
    process, log = started(folder, scenario)
    assert process.wait(PATIENCE_S) == 0, log.read_text()
    return log.read_text()


def weights(folder):
    state = Checkpoints(str(folder), TASK.plan).newest()
    assert state is not None
    return state["model"]


def test_a_training_goes_on_with_fewer_workers_when_a_node_is_lost(tmp_path):
    printed = finished(tmp_path, "fewer")
    assert "lost node " in printed
    assert "1 of 2 workers find room now" in printed
    assert "steps planned 20 = done 20" in printed


def test_a_training_waits_aloud_for_its_workers_and_learns_the_same_bits(tmp_path):
    printed = finished(tmp_path, "back")
    assert "lost node " in printed
    assert "2 training worker(s) need room for 1 CPU(s) each; " in printed
    assert "steps planned 20 = done 20" in printed
    train_two({"straight": TASK}, str(tmp_path / "pair"), checkpoint_every=1)
    straight, disturbed = weights(tmp_path / "pair" / "straight"), weights(tmp_path / "run")
    assert all(torch.equal(straight[name], value) for name, value in disturbed.items())


def test_an_interrupt_ends_the_wait_for_workers(tmp_path):
    process, log = started(tmp_path, "none")
    wait_until(lambda: "waiting for room, " in log.read_text() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0, log.read_text()
    printed = log.read_text()
    assert "interrupted" in printed
    seconds = [int(line.partition(" s: ")[0]) for line in printed.splitlines() if " s: " in line]
    assert seconds[-1] - seconds[-2] < 10
