"""Whole sweeps on Ray Tune: what runs once, what waits, what a kill costs."""

import json
import os
import re
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.engine.stage import Options
from pipelines.runner import Run
from pipelines.store.lock import Lock
from tests.support.driver import Driver
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.upstream import SWEEP, finish_upstream, write_files
from tests.support.voice import Recorder
from tune.report import page_of, write_report
from tune.results import how_many, text_tables, write_results
from tune.search import _work, run_sweep, sweep_folder
from tune.sweep import BEST, Trials, load_sweep
from tune.trial import Record, Records
from weaksam.errors import RunError
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.io.files import join

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray Tune's own
]


def trials_of(tmp_path, text):
    trials = Trials(load_sweep(str(write_files(tmp_path, text))), str(tmp_path / "run"), "shapes:")
    finish_upstream(trials.recipe({}, 0), trials.run_uri)
    return trials


def run(trials, **options):
    voice = Recorder()
    outcome = run_sweep(trials, Options(), voice, where="a sweep", **options)
    return outcome, voice.text


def finished_before(trials, settings) -> Record:
    """A trial that an earlier call has run, without running it."""
    figures = dict.fromkeys(trials.sweep.objectives, 0.5)
    record = Record(key=trials.key(settings), settings=settings, state="finished", select=figures, report=figures)
    Records(str(Path(sweep_folder(trials), "trials"))).write(record)
    return record


def executed(trials) -> list[str]:
    """Every instance that some trial's stages worked on, once for each time."""
    logs = Path(sweep_folder(trials), "logs").glob("*.txt")
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return [match[1] for line in lines if (match := re.fullmatch(r"\S+ ([0-9a-f]{12}) in \S+", line))]


def test_a_grid_runs_every_distinct_setting_once_and_shares_what_lies_upstream(tmp_path, ray_cluster, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whose file the recipe names: Ray Tune moves trials elsewhere
    (tmp_path / "stem.safetensors").write_bytes(BUILTIN_WEIGHTS["stem"].path.read_bytes())
    text = SWEEP.replace("[0.1, 0.6]", "[0.1, 0.3, 0.6]") + (
        "resources: {concurrency: 2}\nset: [clues.source.init=stem.safetensors]\n"
    )
    trials = trials_of(tmp_path, text)
    outcome, out = run(trials)
    assert "3 trials for 6 settings, 0 of them done before; 2 at a time" in out
    assert outcome.planned == 3
    assert [settings["pseudo_labels.tau_s"] for settings, _ in outcome.trials] == [0.1, 0.1, 0.3, 0.3, 0.6, 0.6]
    assert len({record.key for _, record in outcome.trials}) == 3
    assert all(record.state == "finished" for _, record in outcome.trials)
    assert (
        outcome.best.settings["pseudo_labels.tau_s"]
        == max(outcome.trials, key=lambda trial: trial[1].select["pseudo_f1"])[0]["pseudo_labels.tau_s"]
    )
    done = executed(trials)
    assert sorted(done) == sorted(set(done))  # label and its agreement, three times each, none of them twice
    assert len(done) == 6
    assert len(list(Path(trials.run_uri, "detect.mil").glob("*/_sets/*.manifest.json"))) == 1

    # The same command again does nothing but show it.
    records = {path: path.stat().st_mtime_ns for path in Path(sweep_folder(trials), "trials").glob("*.json")}
    again, out = run(trials)
    assert "3 of them done before" in out
    assert again.trials == outcome.trials
    assert {path: path.stat().st_mtime_ns for path in records} == records

    table_uri, chosen = write_results(outcome, trials)
    table = pq.read_table(table_uri)
    assert table.num_rows == 6
    assert table["pseudo_labels.tau_s"].to_pylist() == [0.1, 0.1, 0.3, 0.3, 0.6, 0.6]
    assert table["select.pseudo_f1"].to_pylist() == [record.select["pseudo_f1"] for _, record in outcome.trials]
    best = outcome.best.settings["pseudo_labels.tau_s"]
    assert f"tau_s: {best}" in Path(chosen).read_text()
    assert "here: false" in Path(chosen).read_text()
    assert Path(write_report(outcome, trials)).read_text().startswith("<!doctype html>")
    assert page_of(outcome).count('class="heat') == 3 * 6  # F1 of both halves and the agreement, over 3 x 2 settings
    assert len(text_tables(outcome)) == 2


def test_a_budget_that_is_used_up_leaves_trials_to_the_next_call(tmp_path, ray_cluster):
    text = SWEEP.replace("[0.1, 0.6]", "[0.1]") + "compare: {paper: {pseudo_labels.tau_s: 0.3}}\n"
    trials = trials_of(tmp_path, text + "budget: {hours: 0.000001}\n")
    with pytest.raises(RunError, match="no trial finished: the budget was too small for any"):
        run(trials)
    assert not Path(sweep_folder(trials), "trials").exists()
    more = Trials(load_sweep(str(write_files(tmp_path, text))), trials.run_uri, trials.data_uri)
    outcome, out = run(more)
    assert "1 trials for 2 settings, 0 of them done before" in out
    assert set(outcome.compared) == {BEST, "paper"}


def test_trials_that_need_the_same_instance_wait_for_it(tmp_path, ray_cluster):
    text = SWEEP.replace("evaluate.voc_style: [devkit, chainer]", "retrain.lr: [0.0001, 0.001]")
    text = text.replace("pseudo_f1", "classification_map").replace(
        "also: [label_agreement]", "resources: {concurrency: 2}"
    )
    trials = trials_of(tmp_path, text)
    for lr in (0.0001, 0.001):
        finished_before(trials, {"pseudo_labels.tau_s": 0.6, "retrain.lr": lr})
    # Both trials of τ_s = .1 need these pseudo labels, which somebody else is making right now.
    label = Run(trials.recipe({"pseudo_labels.tau_s": 0.1}, 0), trials.run_uri).instance("label")
    logs = Path(sweep_folder(trials), "logs")
    found = []
    sweep = threading.Thread(target=lambda: found.append(run(trials)))
    with Lock(label.folder, "a test"):
        sweep.start()
        wait_until(lambda: len(list(logs.glob("*.txt"))) >= 2)
        time.sleep(1)  # in which they would begin if they did not wait
        assert label.manifest() is None
        assert sweep.is_alive()
    sweep.join(timeout=PATIENCE_S)
    ((outcome, _),) = found
    assert [record.state for _, record in outcome.trials] == ["finished"] * 4
    done = executed(trials)
    assert done.count(label.key) == 1
    assert sorted(done) == sorted(set(done))


def test_a_failed_trial_is_kept_shown_and_run_again_only_if_asked(tmp_path, ray_cluster):
    # A file lies where the labels of the trial that is left would.
    trials = trials_of(tmp_path, SWEEP.replace("[devkit, chainer]", "[devkit]"))
    good = finished_before(trials, {"pseudo_labels.tau_s": 0.6, "evaluate.voc_style": "devkit"})
    in_the_way = Path(trials.run_uri, "label")
    in_the_way.write_text("")
    first, out = run(trials)
    (_, failed), (_, other) = first.trials
    assert other == good
    assert failed.state == "failed"
    assert failed.error
    assert failed.error.strip().splitlines()[-1] in out
    again, out = run(trials)
    assert "2 of them done before" in out
    assert again.trials == first.trials
    in_the_way.unlink()
    last, out = run(trials, retry_failed=True)
    assert "1 of them done before" in out
    assert [(record.key, record.state) for _, record in last.trials] == [
        (failed.key, "finished"), (good.key, "finished"),
    ]  # fmt: skip
    log = Path(sweep_folder(trials), "logs", f"{failed.key}.txt").read_text()
    assert log.count("\n--- ") == 1  # what the first attempt said is still there


def test_a_failed_trial_stays_until_another_attempt_has_ended(tmp_path, ray_cluster):
    # No time is left for the second attempt.
    text = SWEEP.replace("[0.1, 0.6]", "[0.1]").replace("[devkit, chainer]", "[devkit]")
    trials = trials_of(tmp_path, text)
    settings = {"pseudo_labels.tau_s": 0.1, "evaluate.voc_style": "devkit"}
    records = Records(str(Path(sweep_folder(trials), "trials")))
    failed = Record(key=trials.key(settings), settings=settings, state="failed", error="a reason")
    records.write(failed)
    late = Trials(
        load_sweep(str(write_files(tmp_path, text + "budget: {hours: 0.000001}\n"))), trials.run_uri, "shapes:"
    )
    with pytest.raises(RunError, match="no trial finished: a reason"):
        run(late, retry_failed=True)
    assert records.read() == {failed.key: failed}


@pytest.mark.long
def test_a_hopeless_training_is_stopped_and_stays_so_until_nothing_stops_trainings(tmp_path, ray_cluster):
    # A detector that finds nothing larger than a few pixels is worse than one that has hardly learnt.
    text = SWEEP.replace("pseudo_labels.tau_s: [0.1, 0.6]", "retrain.detector.anchor_sides: [[12, 24, 48], [2, 3, 4]]")
    text = text.replace("  evaluate.voc_style: [devkit, chainer]\n", "").replace("also: [label_agreement]\n", "")
    text = (
        text.replace("pseudo_f1", "ap50")
        + "seeds: [1]\nset: [pseudo_labels.tau_s=0.6, retrain.test.score_threshold=0.0]\n"
    )
    asha = text + "scheduler: {name: asha, first: 0.25, reduction: 2}\n"
    trials = trials_of(tmp_path, asha)
    first, out = run(trials)
    (_, good), (_, bad) = first.trials
    assert (good.state, bad.state) == ("finished", "stopped")
    assert set(good.early) == {"25", "50"}
    assert good.early["25"] > 0
    assert bad.early == {"25": 0.0}
    assert "2 trials: 1 finished, 1 stopped" in how_many(first)
    again, out = run(trials)
    assert "2 of them done before" in out
    assert again.trials == first.trials
    # Its training can go on, so nobody holds its lock.
    on = Trials(load_sweep(str(write_files(tmp_path, text))), trials.run_uri, trials.data_uri)
    last, out = run(on)
    assert "2 trials, 1 of them done before" in out
    assert [record.state for _, record in last.trials] == ["finished", "finished"]
    assert last.trials[0][1] == good
    assert last.trials[1][1].select == {"ap50": 0.0}


def test_optuna_chooses_each_setting_once_and_ends_when_there_are_no_more(tmp_path, ray_cluster):
    trials = trials_of(tmp_path, SWEEP + "search: {algorithm: optuna, trials: 9}\nresources: {concurrency: 0}\n")
    outcome, out = run(trials)
    # Four settings, and two styles of an evaluation that is no part of what is measured.
    assert "4 trials, 0 of them done before; as many at a time as fit" in out
    assert "2 trials are all that Optuna finds" in out
    assert sorted(settings["pseudo_labels.tau_s"] for settings, _ in outcome.trials) == [0.1, 0.6]
    assert len(executed(trials)) == 4


def test_what_optuna_chose_for_a_call_that_was_cut_is_run_first(tmp_path, ray_cluster):
    text = SWEEP.replace("[devkit, chainer]", "[devkit]") + "search: {algorithm: optuna, trials: 1}\n"
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    outcome, _ = run(trials_of(tmp_path / "whole", text))
    ((settings, _),) = outcome.trials
    (other,) = {0.1, 0.6} - {settings["pseudo_labels.tau_s"]}
    cut, settings = trials_of(tmp_path / "cut", text), {**settings, "pseudo_labels.tau_s": other}
    Records(join(sweep_folder(cut), "trials")).begin(cut.key(settings), settings)
    outcome, out = run(cut)
    assert [of_trial for of_trial, _ in outcome.trials] == [settings]
    assert "1 trials, 0 of them done before" in out


@pytest.mark.long
def test_optuna_and_asha_train_compare_and_go_on(tmp_path, ray_cluster):
    text = SWEEP.replace("[0.1, 0.6]", "{uniform: [0.0, 0.7]}")
    text = text.replace("evaluate.voc_style: [devkit, chainer]", "retrain.lr: {log_uniform: [0.0001, 0.01]}")
    text = text.replace("pseudo_f1", "classification_map").replace("label_agreement", "ap50") + (
        "search: {algorithm: optuna, trials: TRIALS, seed: 3}\n"
        "scheduler: {name: asha, first: 0.25, reduction: 2}\n"
        "resources: {concurrency: 2}\n"
        "compare: {paper: {pseudo_labels.tau_s: 0.3}}\n"
        "compare_seeds: [0, 1]\n"
    )
    first, _ = run(trials_of(tmp_path, text.replace("TRIALS", "2")))
    assert len(first.trials) == 2
    more = Trials(load_sweep(str(write_files(tmp_path, text.replace("TRIALS", "4")))), str(tmp_path / "run"), "shapes:")
    outcome, out = run(more)
    assert "2 of them done before" in out
    assert [record for _, record in outcome.trials[:2]] == [record for _, record in first.trials]
    assert len(outcome.trials) == 4
    for settings, record in outcome.trials:
        assert 0 <= settings["pseudo_labels.tau_s"] <= 0.7
        assert 0.0001 <= settings["retrain.lr"] <= 0.01
        assert record.state in ("finished", "stopped")
        assert tuple(record.early) in (("25",), ("25", "50"))
    assert set(outcome.compared) == {BEST, "paper"}
    assert outcome.compared[BEST].settings == outcome.best.settings
    assert [record.error for record in outcome.compared.values()] == ["", ""]
    assert {tuple(record.by_seed) for record in outcome.compared.values()} == {("0", "1")}
    assert "paper" in page_of(outcome)


def _die_at_the_second(config, *, trials, **options):
    if config["settings"]["pseudo_labels.tau_s"] == 0.6:
        with Path(trials.run_uri, "..", "attempts").open("a") as file:
            file.write(".")
        os._exit(1)
    _work(config, trials=trials, **options)


@pytest.mark.long
def test_a_trial_whose_process_dies_again_and_again_fails_with_the_reason(tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setattr("tune.search._work", _die_at_the_second)
    monkeypatch.setattr("tune.deaths.PATIENCE_S", 2.0)
    trials = trials_of(tmp_path, SWEEP.replace("[devkit, chainer]", "[devkit]") + "resources: {concurrency: 2}\n")
    outcome, out = run(trials)
    (_, good), (_, bad) = outcome.trials
    assert (good.state, bad.state) == ("finished", "failed")
    assert "died" in bad.error
    assert out.count("its process died on a node that lives on, tried again: tau_s=0.6") >= 4
    assert (tmp_path / "attempts").stat().st_size < 20


@pytest.mark.long
def test_a_killed_sweep_loses_no_trial_and_repeats_none(tmp_path):
    sweep = write_files(tmp_path, SWEEP.replace("[0.1, 0.6]", "[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]"))
    trials = Trials(load_sweep(str(sweep)), str(tmp_path / "run"), "shapes:")
    finish_upstream(trials.recipe({}, 0), trials.run_uri)
    folder = Path(sweep_folder(trials), "trials")
    with Driver(tmp_path / "first.log", "tune", str(sweep), Path(trials.run_uri), []) as first:
        first.wait_until(lambda: len(list(folder.glob("*.json"))) >= 2)
        first.kill()
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    assert 2 <= len(before) < 6
    with Driver(tmp_path / "second.log", "tune", str(sweep), Path(trials.run_uri), []) as second:
        second.wait_until(lambda: second.poll() is not None or Path(sweep_folder(trials), "best.yaml").exists())
        assert second.wait(PATIENCE_S) == 0, second.log.read_text()
    after = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    assert {json.loads(content)["state"] for content in after.values()} == {"finished"}
    done = executed(trials)
    assert len(set(done)) == 12
    # What was under way when the driver died is all that may have begun twice.
    assert len(done) <= 12 + 1
