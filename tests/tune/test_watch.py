"""What is said and decided while trials run, with Ray Tune's trials and Ray's nodes made up."""

from types import SimpleNamespace

import pytest

from pipelines.engine import nodes as cluster
from tests.support.upstream import SWEEP, write_files
from tests.support.voice import Recorder
from tune import watch
from tune.sweep import Trials, load_sweep
from tune.trial import Records
from weaksam.errors import RunError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    return clock


@pytest.fixture
def nodes(monkeypatch):
    """CPUs of the nodes that are alive, by id."""
    cpus: dict[str, int] = {}
    monkeypatch.setattr(
        cluster, "nodes", lambda: [cluster.Node(node_id=n, address=n, cpus=c, gpus=0) for n, c in cpus.items()]
    )
    monkeypatch.setattr(cluster, "lives", lambda node_id: node_id in cpus)
    monkeypatch.setattr(
        cluster, "autoscaler", lambda: cluster.Autoscaler(starting=("spot",), failed=(), waiting=("1 x {CPU: 2}",))
    )
    return cpus


def watch_of(tmp_path, resources="{}"):
    trials = Trials(
        load_sweep(str(write_files(tmp_path, SWEEP + f"resources: {resources}\n"))), str(tmp_path), "shapes:"
    )
    voice = Recorder()
    records = Records(str(tmp_path / "trials"))
    return watch.Watch(trials.with_cpus(2), records, {}, 2, -1.0, float("inf"), voice), voice, records


def trial_of(status="RUNNING", tau_s=0.1):
    return SimpleNamespace(
        trial_id=f"trial {tau_s}",
        config={"settings": {"pseudo_labels.tau_s": tau_s, "evaluate.voc_style": "devkit"}},
        status=status,
        max_failures=-1,
        last_result={},
        get_error=lambda: "killed",
    )


def step(watching, clock, *trials, seconds=1):
    for _ in range(seconds):
        clock.now += 1
        watching.on_step_end(0, list(trials))


def die(watching, trial, node):
    watching.on_trial_result(0, [trial], trial, {"percent": 0, "node": node})
    watching.on_trial_recover(0, [trial], trial)


def test_a_trial_whose_nodes_are_lost_goes_on_for_ever_and_one_that_dies_by_itself_does_not(tmp_path, clock, nodes):
    watching, voice, _ = watch_of(tmp_path)
    preempted, dying = trial_of(), trial_of(tau_s=0.6)
    for count in range(6):
        nodes.update({f"spot {count}": 4, "stays": 4})
        die(watching, preempted, f"spot {count}")
        if count < 4:
            die(watching, dying, "stays")
        step(watching, clock, preempted, dying, seconds=15)
        del nodes[f"spot {count}"]
        step(watching, clock, preempted, dying, seconds=20)
        assert dying.max_failures == (0 if count >= 3 else -1)
    assert preempted.max_failures == -1
    assert voice.text.count("its node was lost, tried again: tau_s=0.1") == 6
    assert voice.text.count("its process died on a node that lives on, tried again: tau_s=0.6") == 4


def test_deaths_count_from_the_furthest_that_a_trial_came(tmp_path, clock, nodes):
    watching, *_ = watch_of(tmp_path)
    trial = trial_of()
    nodes["stays"] = 4

    def four_deaths():
        for _ in range(4):
            die(watching, trial, "stays")
            step(watching, clock, trial, seconds=31)

    four_deaths()
    assert trial.max_failures == 0
    watching.on_trial_result(0, [trial], trial, {"percent": 25, "objective": 0.5})
    assert trial.max_failures == -1
    four_deaths()
    assert trial.max_failures == 0
    watching.on_trial_result(0, [trial], trial, {"percent": 25, "objective": 0.5})  # of the same checkpoint
    assert trial.max_failures == 0


def test_a_trial_that_may_die_no_more_is_left_to_the_next_call_when_its_node_is_lost(tmp_path, clock, nodes):
    watching, voice, records = watch_of(tmp_path)
    trial = trial_of()
    nodes["spot"] = 4
    watching.on_trial_result(0, [trial], trial, {"percent": 0, "node": "spot"})
    del nodes["spot"]
    watching.on_trial_error(0, [trial], trial)
    assert not records.read()
    assert "its node was lost, left to the next call: tau_s=0.1" in voice.text
    nodes["spot"] = 4
    watching.on_trial_error(0, [trial], trial)
    (record,) = records.read().values()
    assert record.state == "failed"


def test_a_process_that_died_at_once_did_not_die_where_the_one_before_did(tmp_path, clock, nodes):
    watching, voice, _ = watch_of(tmp_path)
    trial = trial_of()
    nodes["b"] = 4
    die(watching, trial, "a")
    step(watching, clock, trial, seconds=60)
    assert "its node was lost" in voice.text
    watching.on_trial_recover(0, [trial], trial)  # before its first result
    step(watching, clock, trial, seconds=31)
    assert "died on a node that lives on" in voice.text


def test_what_is_waited_for_is_said_every_15_s_while_no_trial_runs(tmp_path, clock, nodes):
    watching, voice, _ = watch_of(tmp_path, "{gpus: 0.5}")
    waiting, running = trial_of("PENDING"), trial_of("RUNNING")
    step(watching, clock, waiting, running, seconds=60)
    step(watching, clock, trial_of("TERMINATED"), seconds=60)
    assert voice.text == ""
    step(watching, clock, waiting, seconds=14)
    assert voice.text == ""
    step(watching, clock, waiting, seconds=2)
    said = "waiting for a place for a trial with 2 CPU(s) and 0.5 GPU(s), 15 s: the nodes have nothing; "
    assert said + "Ray: starting spot; pending 1 x {CPU: 2}" in voice.text
    nodes.update({"head": 0, "small": 1})
    step(watching, clock, waiting, seconds=30)
    assert "30 s: the nodes have 1 CPU(s); Ray" in voice.text
    assert "45 s: the nodes have 1 CPU(s); Ray" in voice.text


def test_a_sweep_that_finds_no_place_ends_when_its_recipe_says_so(tmp_path, clock, nodes):
    watching, *_ = watch_of(tmp_path, "{}\nset: [resources.wait_for_workers=40]")
    step(watching, clock, trial_of("PENDING"), seconds=30)
    step(watching, clock, trial_of("RUNNING"))
    step(watching, clock, trial_of("PENDING"), seconds=40)
    with pytest.raises(RunError, match=r"no place for a trial with 2 CPU\(s\) within 40 s .*Start workers"):
        step(watching, clock, trial_of("PENDING"))


def test_a_trial_that_ray_tune_gave_up_has_a_record_with_the_reason(tmp_path, clock, nodes):
    watching, voice, records = watch_of(tmp_path)
    trial = trial_of()
    watching.on_trial_error(0, [trial], trial)
    (record,) = records.read().values()
    assert (record.state, record.error) == ("failed", "killed")
    assert "1/2" in voice.text
