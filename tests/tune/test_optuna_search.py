"""What Optuna is told of earlier trials, and what it is not asked twice."""

import optuna
from ray.tune.search import Searcher

from tests.support.upstream import SWEEP, write_files
from tune.optuna_search import OptunaSearch
from tune.sweep import Trials, load_sweep, whole_numbers
from tune.trial import Record, Records

STYLE = "evaluate.voc_style"


def search_of(tmp_path, ended):
    """Return a search over three values of τ_s, and what the sampler sees when it is asked first."""
    text = SWEEP.replace("[0.1, 0.6]", "[0.1, 0.3, 0.6]").replace("[devkit, chainer]", "[devkit]")
    trials = Trials(
        load_sweep(str(write_files(tmp_path, text + "search: {algorithm: optuna, trials: 3}\n"))), str(tmp_path), ""
    )
    records = Records(str(tmp_path / "trials"))
    for tau_s, fields in ended.items():
        settings = {"pseudo_labels.tau_s": tau_s, STYLE: "devkit"}
        records.write(Record(key=trials.key(settings), settings=settings, **fields))
    return OptunaSearch(trials, whole_numbers(trials), records)


def test_values_of_ended_trials_are_told_and_a_failed_one_has_none(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(optuna.study.Study, "add_trial", lambda _study, trial: told.append(trial.value))
    search_of(
        tmp_path,
        {
            0.1: {"state": "finished", "select": {"pseudo_f1": 0.5}, "early": {"25": 0.9}},
            0.3: {"state": "stopped", "early": {"25": 0.1, "50": 0.2}},
            0.6: {"state": "failed", "early": {"25": 0.8}, "error": "a reason"},
        },
    )
    assert sorted(told) == [0.2, 0.5]  # records that ended at one time have no order


def test_each_setting_is_proposed_once_and_then_nothing(tmp_path):
    search = search_of(tmp_path, {0.3: {"state": "failed", "error": "a reason"}})
    first, second = search.suggest("a"), search.suggest("b")
    assert {first["settings"]["pseudo_labels.tau_s"], second["settings"]["pseudo_labels.tau_s"]} == {0.1, 0.6}
    assert not search.exhausted
    assert search.suggest("c") == Searcher.FINISHED
    assert search.exhausted
    search.on_trial_complete("a", {"objective": 0.5})
    search.on_trial_complete("b", {"objective": 0.0, "failed": True})
    search.on_trial_complete("b", {"objective": 0.0, "failed": True})  # Ray Tune may say it twice
    assert search.suggest("d") == Searcher.FINISHED


def test_what_is_proposed_is_noted_until_it_has_a_record(tmp_path):
    search = search_of(tmp_path, {0.3: {"state": "failed", "error": "a reason"}})
    proposed = [search.suggest(trial)["settings"] for trial in "ab"]
    records = Records(str(tmp_path / "trials"))
    begun = records.begun()
    assert sorted(begun.values(), key=str) == sorted(proposed, key=str)
    (first, settings), (second, _) = begun.items()
    records.write(Record(key=first, settings=settings, state="finished"))
    assert list(records.begun()) == [second]
    (tmp_path / "trials" / "begun" / f"{second}.json").write_text("torn")
    assert records.begun() == {}
    assert len(records.read()) == 2
