"""Sweeps on clusters whose nodes come and go, and whose driver dies."""

import json
import re
from pathlib import Path

import pytest

from pipelines.engine.stage import Options
from pipelines.runner import Run
from tests.support.cluster import autoscaling, fixed_nodes
from tests.support.driver import Driver
from tests.support.patience import PATIENCE_S
from tests.support.upstream import SWEEP, finish_upstream, write_files
from tune.search import sweep_folder
from tune.sweep import Trials, load_sweep
from tune.trial import Records, run_trial

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.nodes]

# Six detectors that learn from the same labels.
DETECTORS = (
    SWEEP.replace("  pseudo_labels.tau_s: [0.1, 0.6]\n", "")
    .replace("evaluate.voc_style: [devkit, chainer]", "retrain.lr: [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03]")
    .replace("pseudo_f1", "classification_map")
    .replace(
        "also: [label_agreement]\n",
        "set: [retrain.steps=60, retrain.test.score_threshold=0.0]\nresources: {concurrency: 0, cpus: 1}\n",
    )
)


class OfASweep:
    """A sweep's files, and what its trials have left."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.file = write_files(folder, text)
        self.trials = Trials(load_sweep(str(self.file)), str(folder / "run"), "shapes:")
        finish_upstream(self.trials.recipe({}, 0), self.trials.run_uri)
        self.records = Path(sweep_folder(self.trials), "trials")
        self.logs = Path(sweep_folder(self.trials), "logs")

    def driver(self, log: str) -> Driver:
        return Driver(self.folder / log, "tune", str(self.file), Path(self.trials.run_uri), [])

    def ended(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.records.glob("*.json")}

    def states(self) -> list[str]:
        return [json.loads(content)["state"] for content in self.ended().values()]

    def begun(self) -> int:
        return sum(log.read_text().count("--- ") for log in self.logs.glob("*.txt"))


def test_no_trial_is_lost_or_failed_when_nodes_and_the_driver_are(tmp_path, monkeypatch):
    sweep = OfASweep(tmp_path, DETECTORS)
    trials = sweep.trials
    assert "label" in trials.shared()
    label = Run(trials.base, trials.run_uri).instance("label").key
    with fixed_nodes() as nodes:
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        with sweep.driver("first.log") as first:
            first.wait_until(lambda: "waiting for a place for a trial" in first.log.read_text())
            stays, goes = nodes.add(), nodes.add()
            first.wait_until(lambda: sweep.begun() >= 2)
            nodes.lose(goes)
            first.wait_until(lambda: "its node was lost, tried again" in first.log.read_text())
            nodes.add()
            first.wait_until(lambda: len(sweep.ended()) >= 3)
            first.kill()
        before = sweep.ended()
        assert len(before) < 6
        assert stays in nodes.nodes
        with sweep.driver("second.log") as second:
            second.wait_until(lambda: second.poll() is not None)
            assert second.wait(PATIENCE_S) == 0, second.log.read_text()

    assert {name: content for name, content in sweep.ended().items() if name in before} == before
    assert sweep.states() == ["finished"] * 6
    said = [file.read_text() for file in (first.log, second.log, *sweep.logs.glob("*.txt"))]
    assert sum(len(re.findall(rf"(?m)^\S+ {label} in ", text)) for text in said) == 1
    undisturbed = Trials(trials.sweep, str(tmp_path / "undisturbed"), "shapes:").with_cpus(1)
    finish_upstream(undisturbed.recipe({}, 0), undisturbed.run_uri)
    for record in Records(str(sweep.records)).read().values():
        alone = run_trial(undisturbed, record.settings, Options())
        assert (record.key, record.select, record.report) == (alone.key, alone.select, alone.report)


def test_shares_of_a_gpu_are_waited_for_until_a_node_comes(tmp_path, monkeypatch):
    text = SWEEP.replace("[devkit, chainer]", "[devkit]") + "resources: {concurrency: 0, gpus: 0.5}\n"
    sweep = OfASweep(tmp_path, text)
    gates = tmp_path / "gates"
    gates.mkdir()
    with autoscaling({"CPU": 2, "GPU": 1}, most=1, gates=gates) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with sweep.driver("driver.log") as driver:
            driver.wait_until(lambda: driver.log.read_text().count("waiting for a place for a trial") >= 2)
            assert sweep.begun() == 0
            (gates / "1").touch()
            driver.wait_until(lambda: driver.poll() is not None)
            assert driver.wait(PATIENCE_S) == 0, driver.log.read_text()
    said = r"a trial with 1 CPU\(s\) and 0.5 GPU\(s\), \d+ s: the nodes have nothing; Ray: .*pending .*GPU: 0.5"
    assert re.search(said, driver.log.read_text())
    assert sweep.states() == ["finished"] * 2
