"""One trial without Ray: what it leaves behind, however it ends."""

import pytest

from pipelines.cli.voice import voice_in_log
from pipelines.engine.stage import Options
from pipelines.engine.voice import SILENT
from tests.support.s3_server import s3_server
from tests.support.upstream import SWEEP, finish_upstream, write_files
from tests.support.voice import Recorder
from tune.sweep import Trials, load_sweep
from tune.trial import Record, Records, TrialLog, early_percents, last_known, run_trial, value_of
from weaksam.errors import RunError
from weaksam.io.files import open_fs

ON_DETECTORS = SWEEP.replace("pseudo_f1", "ap50").replace("[label_agreement]", "[classification_map]")


def trials_of(tmp_path, text):
    trials = Trials(load_sweep(str(write_files(tmp_path, text))), str(tmp_path / "run"), "shapes:")
    finish_upstream(trials.recipe({}, 0), trials.run_uri)
    return trials


def test_a_trial_ends_with_its_figures(tmp_path):
    trials = trials_of(tmp_path, SWEEP)
    loose = run_trial(trials, {"pseudo_labels.tau_s": 0.0}, Options())
    strict = run_trial(trials, {"pseudo_labels.tau_s": 0.6}, Options())
    assert (loose.state, strict.state, strict.error) == ("finished", "finished", "")
    assert 0 < loose.select["pseudo_f1"] < strict.select["pseudo_f1"]  # the bad boxes have low scores
    assert 0 < strict.report["pseudo_f1"] <= 1
    assert 0 < strict.select["label_agreement"] <= 1
    assert strict.report["label_agreement"] is None
    assert strict.by_seed["0"]["select"] == strict.select
    assert value_of(trials.sweep, strict) == strict.select["pseudo_f1"]
    assert strict.seconds > 0
    assert strict.ended.endswith("+00:00")


def test_a_failure_is_a_record_too(tmp_path):
    trials = trials_of(tmp_path, SWEEP)
    record = run_trial(trials, {"retrain.detector": "yolo"}, Options())
    assert record.state == "failed"
    assert "retrain.detector" in record.error
    assert value_of(trials.sweep, record) == -1


@pytest.mark.slow
def test_an_objective_with_nothing_to_measure_fails(tmp_path):
    trials = trials_of(tmp_path, ON_DETECTORS.replace("also: [classification_map]", "") + "select_on: train\n")
    record = run_trial(trials, {}, Options())
    assert (record.state, record.error) == ("failed", "ap50: nothing to measure on train")


@pytest.mark.slow
def test_a_detector_is_trained_detects_and_is_measured_in_this_process(tmp_path):
    trials = trials_of(tmp_path, ON_DETECTORS + "seeds: [0, 1]\n")
    voice = Recorder()
    record = run_trial(trials, {"pseudo_labels.tau_s": 0.6}, Options(), voice)
    assert record.state == "finished", record.error
    assert voice.text.count("in this process, ") >= 2 * 2  # training and detection, of each seed
    for part in ("select", "report"):
        figures = [record.by_seed[seed][part]["ap50"] for seed in ("0", "1")]
        assert getattr(record, part)["ap50"] == pytest.approx(sum(figures) / 2)
    assert record.by_seed["0"]["select"]["classification_map"] != record.by_seed["1"]["select"]["classification_map"]


@pytest.mark.slow
def test_a_training_is_looked_at_on_its_way(tmp_path):
    text = ON_DETECTORS.replace("also: [classification_map]", "") + (
        "scheduler: {name: asha, first: 0.25, reduction: 2}\nsearch: {algorithm: random, trials: 1}\n"
    )
    trials = trials_of(tmp_path, text)
    told = []
    record = run_trial(trials, {}, Options(), SILENT, lambda percent, value: told.append((percent, value)))
    assert record.state == "finished", record.error
    assert [percent for percent, _ in told] == [25, 50]
    assert all(0 <= value <= 1 for _, value in told)
    # Looking changes nothing: another run with the same seed, not looked at, gives the same detector.
    again = Trials(trials.sweep, str(tmp_path / "again"), "shapes:")
    finish_upstream(again.recipe({}, 0), again.run_uri)
    assert run_trial(again, {}, Options()).by_seed == record.by_seed


@pytest.mark.gpu
def test_a_trial_with_a_gpu_trains_detects_and_is_looked_at_on_it(tmp_path):
    text = ON_DETECTORS.replace("also: [classification_map]", "") + (
        "scheduler: {name: asha, first: 0.25, reduction: 2}\nsearch: {algorithm: random, trials: 1}\n"
        "resources: {gpus: 1}\n"
    )
    trials = trials_of(tmp_path, text)
    told, voice = [], Recorder()
    record = run_trial(trials, {}, Options(), voice, lambda *of_one: told.append(of_one[0]))
    assert record.state == "finished", record.error
    assert told == [25, 50]
    assert "in this process, one GPU" in voice.text


@pytest.mark.slow
def test_stopping_a_training_early_ends_its_trial(tmp_path):
    text = ON_DETECTORS + "scheduler: {name: asha}\nsearch: {algorithm: random, trials: 1}\n"
    trials = trials_of(tmp_path, text)

    def stop(percent, value):
        raise SystemExit  # as Ray Tune does in a trial that it stops

    with pytest.raises(SystemExit):
        run_trial(trials, {}, Options(), SILENT, stop)
    assert run_trial(trials, {}, Options()).state == "finished"  # goes on from its checkpoint


def test_trials_are_compared_after_a_share_that_grows(tmp_path):
    def percents(first, reduction):
        text = f"{ON_DETECTORS}scheduler: {{name: asha, first: {first}, reduction: {reduction}}}\n"
        return early_percents(load_sweep(str(write_files(tmp_path, text))))

    assert percents(0.25, 2) == [25, 50]
    assert percents(0.1, 3) == [10, 30, 90]
    assert percents(0.001, 4) == [1, 4, 16, 64]
    assert percents(0.999, 2) == [99]
    assert early_percents(load_sweep(str(write_files(tmp_path, ON_DETECTORS)))) == []


def test_what_was_last_known_of_a_trial_is_told_to_the_search(tmp_path):
    sweep = load_sweep(str(write_files(tmp_path)))
    finished = Record(key="a", settings={}, state="finished", select={"pseudo_f1": 0.5}, early={"25": 0.1})
    stopped = Record(key="a", settings={}, state="stopped", early={"5": 0.3, "25": 0.2})
    assert last_known(sweep, finished) == (100, 0.5)
    assert last_known(sweep, stopped) == (25, 0.2)
    assert last_known(sweep, Record(key="a", settings={}, state="failed")) == (100, -1)


def test_records_and_logs_are_kept_in_a_bucket_too():
    with s3_server() as uri:
        records = Records(f"{uri}/run/tune/a [b] sweep/trials")
        record = Record(key="a", settings={"x.y": [1, "two", None]}, state="finished", select={"ap50": None})
        records.write(record)
        assert records.read() == {"a": record}
        log = f"{uri}/run/tune/a [b] sweep/logs/a.txt"
        TrialLog(log).flush()
        voice_in_log(TrialLog(log)).say("second attempt")
        fs, path = open_fs(log)
        first, again, said = fs.cat_file(path).decode().splitlines()
        assert first.startswith("--- ")
        assert again.startswith("--- ")
        assert said == "second attempt"


def test_records_are_read_back_in_the_order_in_which_they_ended(tmp_path):
    records = Records(str(tmp_path / "[trials]"))
    assert records.read() == {}
    assert records.get("a") is None
    first = Record(
        key="b", settings={"x.y": 1}, state="finished", select={"ap50": 0.5, "map": None}, ended="2026-01-01"
    )
    second = Record(key="a", settings={"x.y": 2}, state="stopped", early={"25": 0.1}, ended="2026-01-02")
    for record in (second, first):
        records.write(record)
    assert list(records.read().items()) == [("b", first), ("a", second)]
    assert records.get("a") == second


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b'{"key": 1}', b'{"key": "a", "settings": {}, "state": "lost"}'], ids=str
)
def test_a_damaged_record_is_named_and_its_trial_runs_again_without_it(tmp_path, content):
    records = Records(str(tmp_path))
    (tmp_path / "a.json").write_bytes(content)
    for read in (records.read, lambda: records.get("a")):
        with pytest.raises(RunError, match=r"a\.json: a damaged record of a trial \(.*\); delete it, and the sweep"):
            read()
    (tmp_path / "a.json").unlink()
    assert records.get("a") is None
