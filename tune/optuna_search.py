"""Optuna's choice of settings, as Ray Tune asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from ray.tune.search import Searcher

from tune.spaces import Settings
from tune.sweep import Trials
from tune.trial import Records, last_known

_DRAWS = 100  # for one trial; if none of them is new, there is nothing new to be found


class OptunaSearch(Searcher):
    """Proposes settings that cannot give the same figures as any before, until Optuna finds none.

    Ray Tune's own class has no say in what is proposed: half of a small space would be proposed again and again.

    Args:
        trials: of the sweep.
        whole: for every knob whether its field holds whole numbers.
        records: of its trials that have ended, in this call or earlier ones. A stopped one counts with its last value, as Ray
            Tune tells it of trials that it stops; a failed one is not proposed again. What is proposed is noted there: the
            next call could not think of it again.

    Attributes:
        exhausted: whether it found nothing more to propose.
    """

    def __init__(self, trials: Trials, whole: Mapping[str, bool], records: Records) -> None:
        super().__init__(metric="objective", mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study
        sweep = trials.sweep
        before = [record for record in records.read().values() if trials.has(record.key, record.settings)]
        self.exhausted = False
        self._trials = trials
        self._records = records
        self._distributions = {name: knob.distribution(whole=whole[name]) for name, knob in sweep.space.items()}
        # A sweep that goes on draws others than those it began with.
        sampler = optuna.samplers.TPESampler(seed=sweep.search.seed + len(before))
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for record in before:
            if record.state == "finished" or (record.state == "stopped" and record.early):
                value = last_known(sweep, record)[1]
                trial = optuna.trial.create_trial(
                    params=record.settings, distributions=self._distributions, value=value
                )
                self._study.add_trial(trial)
        self._proposed = {record.key for record in before}
        self._asked: dict[str, optuna.trial.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return ``{"settings": …}`` for a trial, or FINISHED."""
        for _ in range(_DRAWS):
            asked = self._study.ask(self._distributions)
            settings: Settings = dict(asked.params)
            key = self._trials.key(settings)
            if key not in self._proposed:
                self._proposed.add(key)
                self._asked[trial_id] = asked
                self._records.begin(key, settings)
                return {"settings": settings}
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)  # nothing to learn from
        self.exhausted = True
        return Searcher.FINISHED  # type: ignore[return-value]  # the declared type forgets it

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the last value of a trial that ended, or that it failed."""
        asked = self._asked.pop(trial_id, None)
        if asked is None:
            return
        if error or not result or result.get("failed"):
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(asked, result["objective"])

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a sweep's past is in its records."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see ``save``."""
