"""What Ray Tune calls when a trial ends."""

from __future__ import annotations

from typing import Any

import ray.tune
from rich.console import Console

from pipelines.figures import percent
from tune.spaces import told
from tune.sweep import Trials
from tune.trial import Record, Records, State, utc_now, value_of


class Watch(ray.tune.Callback):
    """Prints a line for every trial that ends, and sees to it that there is a record of it.

    A trial writes its record itself unless it was stopped or its process died.

    Args:
        trials: of the sweep.
        records: of its trials.
        count: how many are to run.
        console: to print on.
    """

    def __init__(self, trials: Trials, records: Records, count: int, console: Console) -> None:
        self._trials = trials
        self._records = records
        self._count = count
        self._console = console
        self._ended = 0
        self._best = -1.0

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its set-up to restore it one day, which is never done here."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """See ``ray.tune.Callback``; of a trial that was stopped, too."""
        self._end(trial, "stopped", "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """See ``ray.tune.Callback``."""
        self._end(trial, "failed", "its process died")

    def _end(self, trial: Any, state: State, error: str) -> None:
        self._ended += 1
        sweep = self._trials.sweep
        settings = trial.config.get("settings", trial.config)
        last = trial.last_result or {}
        key = last.get("key") or self._trials.key(settings)
        record = self._records.get(key)
        if record is None:
            early = {str(last["percent"]): last["objective"]} if last.get("percent") else {}
            seconds = round(last.get("time_total_s", 0.0), 2)
            record = Record(
                key=key, settings=settings, state=state, early=early, seconds=seconds, finished=utc_now(), error=error
            )
            self._records.write(record)
        value = value_of(sweep, record)
        self._best = max(self._best, value)
        figure = percent(value) if value >= 0 else record.state
        best = percent(self._best if self._best >= 0 else None)
        self._console.print(
            f"  {self._ended}/{self._count}  {sweep.objective} {figure:>7}  best {best:>5}"
            f"  {told(settings)}  [dim]{record.seconds:.0f} s[/]",
            highlight=False,
        )
        if record.error:
            self._console.print(f"    {record.error.strip().splitlines()[-1]}", style="yellow", markup=False)
