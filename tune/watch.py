"""What Ray Tune calls when a trial ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray.tune

from pipelines.engine.voice import Tone, Toned, Voice
from pipelines.store.numbers import percent
from tune.spaces import told
from tune.sweep import Trials
from tune.trial import Record, Records, State, utc_now, value_of


class Watch(ray.tune.Callback):
    """Says a line for every trial that ends, and sees to it that there is a record of it.

    A trial writes its record itself unless it was stopped or its process died.

    Args:
        trials: of the sweep.
        records: of its trials.
        again: records that this call is to replace.
        count: how many are to run.
        best: objective of the best trial so far, -1 if there is none.
        deadline: in ``time.monotonic()``'s seconds; trials that are stopped later were given up, and run in the next call.
        voice: for what is said.
    """

    def __init__(
        self,
        trials: Trials,
        records: Records,
        again: Mapping[str, Record],
        count: int,
        best: float,
        deadline: float,
        voice: Voice,
    ) -> None:
        self._trials = trials
        self._records = records
        self._again = again
        self._count = count
        self._voice = voice
        self._ended = 0
        self._best = best
        self._deadline = deadline

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its set-up to restore it one day, which is never done here."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """See ``ray.tune.Callback``; of a trial that was stopped, too."""
        self._end(trial, "stopped", "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """See ``ray.tune.Callback``."""
        self._end(trial, "failed", str(trial.get_error() or "its process died"))

    def _end(self, trial: Any, state: State, error: str) -> None:
        sweep = self._trials.sweep
        settings = trial.config["settings"]
        last = trial.last_result or {}
        key = last.get("key") or self._trials.key(settings)
        record = self._records.get(key)
        new = record is not None and record != self._again.get(key)
        if not new and state == "stopped" and time.monotonic() >= self._deadline:
            self._voice.say(Toned(f"  given up, the time is up: {told(settings)}", Tone.VERBATIM))
            return
        if record is None or not new:
            record = Record(
                key=key,
                settings=settings,
                state=state,
                early=last.get("early", {}),
                seconds=round(last.get("time_total_s", 0.0), 2),
                ended=utc_now(),
                error=error,
            )
            self._records.write(record)
        self._ended += 1
        value = value_of(sweep, record)
        self._best = max(self._best, value)
        figure = percent(value) if value >= 0 else record.state
        best = percent(self._best if self._best >= 0 else None)
        line = f"  {self._ended}/{self._count}  {sweep.objective} {figure:>7}  best {best:>5}  {told(settings)}  "
        self._voice.say(Toned(line, Tone.VERBATIM), Toned(f"{record.seconds:.0f} s", Tone.QUIET))
        if record.error:
            self._voice.say(Toned(f"    {record.error.strip().splitlines()[-1]}", Tone.WARNING))
