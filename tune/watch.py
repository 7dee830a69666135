"""What Ray Tune calls when a trial ends, when its process died, and while it waits for a place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray.tune

from pipelines.engine import nodes as cluster
from pipelines.engine.reach import SAY_EVERY_S, words_of_ray
from pipelines.engine.voice import Tone, Toned, Voice, Waiting
from pipelines.store.numbers import percent
from tune.deaths import Deaths, Verdict
from tune.machines import connected_machines, told_size
from tune.spaces import told
from tune.sweep import Trials
from tune.trial import Record, Records, State, utc_now, value_of
from weaksam.errors import RunError

_MOST_DEATHS = 3  # of one trial, that count; with more, the next is its end
_EVERY_S = 1.0  # that the nodes are looked at


class Watch(ray.tune.Callback):
    """Says a line for every trial that ends, and sees to it that there is a record of it.

    A trial writes its record itself unless it was stopped or its process died. Ray Tune starts trials again whose process died;
    this says when that has been often enough.

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
        self._deaths = Deaths()
        self._node: dict[str, str] = {}  # trial -> where its process is
        self._furthest: dict[str, int] = {}  # trial -> the largest share of its training that it told of, in per cent
        self._look_at = 0.0
        self._most_s = trials.base.resources.wait_for_workers
        self._waiting_since = self._said_at = time.monotonic()  # the latter when that was said last

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray Tune pickles its set-up to restore it one day, which is never done here."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """See ``ray.tune.Callback``; of a trial that was stopped, too."""
        self._end(trial, "stopped", "")

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        """See ``ray.tune.Callback``; the first result of a process says where it is, later ones how far."""
        if "node" in result:
            self._node[trial.trial_id] = result["node"]
        share = result.get("percent", 0)
        if share > self._furthest.get(trial.trial_id, 0):
            self._furthest[trial.trial_id] = share
            self._deaths.got_further(trial.trial_id)
            trial.max_failures = -1

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """See ``ray.tune.Callback``: its process died, or could not work, and it starts again."""
        self._deaths.died(trial.trial_id, self._node.pop(trial.trial_id, ""), time.monotonic())

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """See ``ray.tune.Callback``; called some ten times a second."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _EVERY_S
        by_id = {trial.trial_id: trial for trial in trials}
        alive = {node.node_id for node in cluster.nodes()}
        for trial_id, verdict, counted in self._deaths.judge(alive, now):
            trial = by_id[trial_id]
            self._voice.say(Toned(f"  {verdict.value}, tried again: {told(trial.config['settings'])}", Tone.VERBATIM))
            if counted > _MOST_DEATHS:
                trial.max_failures = 0  # Ray Tune does not start it again
        self._say_what_is_waited_for(now, {trial.status for trial in trials})

    def _say_what_is_waited_for(self, now: float, states: set[str]) -> None:
        if ray.tune.experiment.Trial.RUNNING in states or ray.tune.experiment.Trial.PENDING not in states:
            self._waiting_since = self._said_at = now
            return
        size = told_size(self._trials.cpus, self._trials.sweep.resources.gpus)
        there = " + ".join(map(str, connected_machines())) or "nothing"
        if self._most_s and now - self._waiting_since > self._most_s:
            raise RunError(
                f"no place for a trial with {size} within {self._most_s:g} s (resources.wait_for_workers): the nodes have "
                f"{there}; {words_of_ray()}. Start workers and run the same command again"
            )
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            what, details = f"a place for a trial with {size}", f"the nodes have {there}; {words_of_ray()}"
            self._voice.say(Waiting(what=what, seconds=now - self._waiting_since, details=details))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """See ``ray.tune.Callback``; it died once too often, unless its node was lost: then the next call goes on with it."""
        node = self._node.get(trial.trial_id)
        if node is not None and not cluster.lives(node):
            settings = told(trial.config["settings"])
            self._voice.say(Toned(f"  {Verdict.LOST_NODE.value}, left to the next call: {settings}", Tone.VERBATIM))
            return
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
