"""The driver of a sweep: Ray Tune chooses and runs the trials that have no record yet.

    RUN/tune/NAME/trials/KEY.json    how each trial ended             RUN/tune/NAME/logs/KEY.txt   what its stages said
    RUN/tune/NAME/trials/begun/KEY.json                               what Optuna chose for a trial
    RUN/tune/NAME/compared/KEY.json  the same of the best one and of the settings beside it, with more seeds

What all trials share is made first, with the whole machine; what some share is made by the first that needs it, while the
others wait for its lock. Resume is subtraction: what has a record is not run again, unless it is to be: failed trials if people
ask, and stopped ones once nothing stops trials any more. Ray Tune's own state, which is pickled, is neither kept nor read, so
ASHA compares only trials that Ray Tune was given together.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipelines.cli.voice import voice_in_log
from pipelines.engine import ray_session
from pipelines.engine.stage import Options
from pipelines.engine.voice import SILENT, Tone, Toned, Voice
from pipelines.variants.objectives.agreement import RANK, RANKED
from tune.machines import Machine, connected_machines, cpus_of_each, may_grow
from tune.ranks import mean_ranks
from tune.spaces import Settings, combinations, drawn, every_combination, told
from tune.sweep import BEST, Sweep, Trials, check_recipes, whole_numbers
from tune.trial import Record, Records, TrialLog, early_percents, last_known, run_trial, value_of
from weaksam.errors import RunError
from weaksam.io.files import join

# A trial with several GPUs waits for its workers, which reserve them; Ray wants it to reserve something itself.
_NEXT_TO_NOTHING = {"memory": 1e6}
_PATIENCE_S = 7 * 24 * 3600.0  # for an instance that another trial, or another sweep, is making
_DRAWS_PER_TRIAL = 100  # before a space counts as exhausted


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a sweep found."""

    sweep: Sweep
    trials: tuple[tuple[Settings, Record], ...]  # settings that cannot differ have the same record
    planned: int  # distinct trials that the sweep is to have
    best: Record
    compared: Mapping[str, Record]  # BEST and the sweep's own names

    def value(self, record: Record) -> float:
        """Return the objective of a trial on the part that trials are selected on, -1 where there is none."""
        return value_of(self.sweep, record)


def run_sweep(
    trials: Trials, options: Options, voice: Voice = SILENT, *, where: str, retry_failed: bool = False
) -> Outcome:
    """Run all trials that have no record, then those to compare.

    Args:
        trials: of the sweep.
        options: for the stages of every trial.
        voice: for what is said meanwhile.
        where: the sweep's file or name, for messages.
        retry_failed: run trials again that failed before.

    Raises:
        ConfigError: the sweep does not fit its recipe or the machine.
        RunError: no trial finished, or no node came for one in the time that the recipe gives them.
    """
    sweep, options = trials.sweep, replace(options, wait_s=_PATIENCE_S)
    deadline = time.monotonic() + (sweep.budget.hours * 3600 or math.inf)
    check(trials, options, where)
    whole = whole_numbers(trials)
    shared = trials.shared()
    _say_heading(sweep, voice)
    voice.say(f"  all trials share {', '.join(shared)}")
    trials = _fitted(trials, options, where)
    trials.run(trials.base).bring(shared, options, voice)

    records = Records(join(sweep_folder(trials), "trials"))
    done = _of_sweep(trials, records.read())
    again = _again(sweep, done, retry_failed=retry_failed)
    planned = None if sweep.search.algorithm == "optuna" else _planned(trials, whole)
    wanted = _most(sweep) if planned is None else len(planned)
    known = len(done.keys() - again.keys() if planned is None else planned.keys() & done.keys() - again.keys())
    voice.say(
        f"  {wanted} trials{_distinct(planned)}, {known} of them done before; {sweep.resources.at_a_time}; "
        f"{records.folder}"
    )
    exhausted = False
    run = partial(_tune, trials, records, again, options=options, voice=voice, deadline=deadline)
    if planned is not None:
        run([of_key[0] for key, of_key in planned.items() if key not in done or key in again])
        done = _of_sweep(trials, records.read())
        rows = [(settings, done[key]) for key, of_key in planned.items() if key in done for settings in of_key]
    else:
        begun = {key: settings for key, settings in records.begun().items() if trials.has(key, settings)}
        run([*(record.settings for record in again.values()), *begun.values()])
        done = _of_sweep(trials, records.read())
        from tune.optuna_search import OptunaSearch

        search = OptunaSearch(trials, whole, records)
        run(search, wanted - len(done))
        exhausted = search.exhausted
        done = _of_sweep(trials, records.read())
        rows = [(record.settings, record) for record in done.values()]
    if len({record.key for _, record in rows}) < wanted:
        voice.say(
            f"  {len(done)} trials are all that Optuna finds: its other settings cannot give other figures"
            if exhausted
            else "  not all trials have ended; the same command goes on"
        )
    finished = {record.key: record for _, record in rows if record.state == "finished"}
    if not finished:
        errors = {record.error.strip().splitlines()[-1] for _, record in rows if record.error}
        raise RunError(f"{where}: no trial finished: {'; '.join(errors) or 'the budget was too small for any'}")
    ranked = {record.key: record for record in with_ranks(sweep, list(finished.values()))}
    rows = [(settings, ranked.get(record.key, record)) for settings, record in rows]
    best = max(ranked.values(), key=lambda record: value_of(sweep, record))
    if best.select[sweep.objective] is None:
        raise RunError(f"{where}: {sweep.objective}: no trial has all of {', '.join(RANKED)} on {sweep.select_on}")
    compared = _compare(trials, best.settings, options, voice, deadline, retry_failed=retry_failed)
    return Outcome(sweep=sweep, trials=tuple(rows), planned=wanted, best=best, compared=compared)


def _say_heading(sweep: Sweep, voice: Voice) -> None:
    voice.say(Toned(sweep.name, Tone.NAME), f"{': ' if sweep.description else ''}{sweep.description}")


def check(trials: Trials, options: Options, where: str) -> None:
    """Raise ConfigError if the sweep does not fit its recipe or, where it is to run on one, this machine."""
    check_recipes(trials, where)
    if not _on_cluster(options):  # GPUs are found when Ray starts
        cpus_of_each(trials.sweep.resources, [Machine(cpus=ray_session.usable_cpus(), gpus=math.inf)], where)


def _on_cluster(options: Options) -> bool:
    return bool(options.address or os.environ.get("RAY_ADDRESS"))


def _fitted(trials: Trials, options: Options, where: str) -> Trials:
    """Return trials with their part of the machine or cluster."""
    resources, on_cluster = trials.sweep.resources, _on_cluster(options)
    if on_cluster or resources.gpus:
        ray_session.connect(trials.base.resources, options.address)
        machines = connected_machines()
    else:
        machines = [Machine(cpus=ray_session.usable_cpus())]
    grows = on_cluster and may_grow(machines)
    return trials.with_cpus(cpus_of_each(resources, machines, where, grows=grows))


def _of_sweep(trials: Trials, records: Mapping[str, Record]) -> dict[str, Record]:
    """Return the records of trials that the sweep, whose file may have changed, would run today."""
    return {key: record for key, record in records.items() if trials.has(key, record.settings)}


def _again(sweep: Sweep, done: Mapping[str, Record], *, retry_failed: bool) -> dict[str, Record]:
    """Return the records of trials that are to run once more; each stays until there is another."""
    states = {"failed"} if retry_failed else set()
    states |= set() if sweep.scheduler.name == "asha" else {"stopped"}
    return {key: record for key, record in done.items() if record.state in states}


def _most(sweep: Sweep) -> int:
    """Return how many trials Optuna is to choose: as many as the sweep says, if its space holds so many."""
    return int(min(sweep.search.trials, combinations(sweep.space)))


def sweep_folder(trials: Trials) -> str:
    """Return the sweep's own folder in the run."""
    return join(trials.run_uri, "tune", trials.sweep.name)


def with_ranks(sweep: Sweep, finished: Sequence[Record]) -> list[Record]:
    """Return finished records with their mean ranks among each other, where the sweep asks for them."""
    if RANK not in sweep.objectives:
        return list(finished)
    ranks = mean_ranks([[record.select[name] for record in finished] for name in RANKED])
    return [replace(record, select={**record.select, RANK: rank}) for record, rank in zip(finished, ranks, strict=True)]


def _planned(trials: Trials, whole: Mapping[str, bool]) -> dict[str, list[Settings]]:
    """Return the settings of a grid or of a random search by key: those that cannot differ are one trial."""
    sweep = trials.sweep
    found: dict[str, list[Settings]] = {}
    if sweep.search.algorithm == "grid":
        for settings in every_combination(sweep.space):
            found.setdefault(trials.key(settings), []).append(settings)
        return found
    wanted, seen = sweep.search.trials, set[str]()
    draws: Iterable[Settings] = drawn(sweep.space, whole, sweep.search.seed)
    for settings in itertools.islice(draws, wanted * _DRAWS_PER_TRIAL):
        if len(found) == wanted or len(seen) == combinations(sweep.space):
            break
        if (text := json.dumps(settings)) not in seen:
            seen.add(text)
            found.setdefault(trials.key(settings), [settings])
    return found


def _distinct(planned: Mapping[str, Sequence[Settings]] | None) -> str:
    settings = sum(len(of_key) for of_key in planned.values()) if planned else 0
    return f" for {settings} settings" if planned and settings > len(planned) else ""


def _compare(
    trials: Trials, best: Settings, options: Options, voice: Voice, deadline: float, *, retry_failed: bool
) -> dict[str, Record]:
    """Run the best settings and those to compare with all seeds that comparing asks for."""
    sweep = trials.sweep
    if not sweep.compare:
        return {}
    compared = trials.with_seeds(sweep.compare_seeds or sweep.seeds)
    wanted = {BEST: best, **sweep.compare}
    keys = {name: compared.key(settings) for name, settings in wanted.items()}
    records = Records(join(sweep_folder(trials), "compared"))
    done = records.read()
    again = _again(sweep, {key: done[key] for key in keys.values() if key in done}, retry_failed=retry_failed)
    todo = {keys[name]: settings for name, settings in wanted.items() if keys[name] not in done.keys() - again.keys()}
    if todo:
        seeds = ", ".join(map(str, compared.sweep.seeds))
        voice.say(f"  beside the best: {', '.join(sweep.compare)}; with seed {seeds}")
        settings = list(todo.values())
        _tune(compared, records, again, settings, options=options, voice=voice, deadline=deadline, stops=False)
    found = records.read()
    if missing := [name for name, key in keys.items() if key not in found]:
        voice.say(f"  no time was left to compare: {', '.join(missing)}; the same command goes on")
    return {name: found[key] for name, key in keys.items() if key in found}


def _tune(
    trials: Trials,
    records: Records,
    again: Mapping[str, Record],
    search: Any,
    count: int = 0,
    *,
    options: Options,
    voice: Voice,
    deadline: float,
    stops: bool = True,
) -> None:
    """Let Ray Tune run trials: those of a list of settings, or ``count`` that a search algorithm proposes.

    Those whose record is one of ``again`` run once more, and their records are replaced.
    """
    listed = isinstance(search, list)
    count = len(search) if listed else count
    seconds = deadline - time.monotonic()
    if count <= 0 or seconds <= 0:
        return
    sweep, base = trials.sweep, trials.base
    ray_session.connect(base.resources, options.address)
    import ray.tune
    from ray.tune.schedulers import ASHAScheduler

    from tune.watch import Watch

    # An interrupt ends a sweep as it ends every other verb; nothing is logged or printed but records and our own lines.
    os.environ.update(
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        RAY_AIR_NEW_OUTPUT="0",
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    )
    asha = stops and sweep.scheduler.name == "asha"
    scheduler = None
    if asha:
        scheduler = ASHAScheduler(
            time_attr="percent",
            max_t=100,
            grace_period=early_percents(sweep)[0],
            reduction_factor=sweep.scheduler.reduction,
        )
    work = ray.tune.with_parameters(
        _work,
        trials=trials,
        folder=records.folder,
        again=dict(again),
        options=replace(options, address=""),  # a trial's process is on the cluster already
        early=asha,
        working_folder=os.getcwd(),
    )
    gpus = sweep.resources.gpus
    best = max((value_of(sweep, record) for record in _of_sweep(trials, records.read()).values()), default=-1.0)
    with tempfile.TemporaryDirectory(prefix="weaksam-tune-") as state, ray_session.frozen_when_interrupted():
        ray.tune.Tuner(
            ray.tune.with_resources(work, _NEXT_TO_NOTHING if gpus > 1 else {"cpu": trials.cpus, "gpu": gpus}),
            param_space={"settings": ray.tune.grid_search(search)} if listed else {},
            tune_config=ray.tune.TuneConfig(
                metric="objective",
                mode="max",
                search_alg=None if listed else search,
                scheduler=scheduler,
                num_samples=1 if listed else count,
                max_concurrent_trials=sweep.resources.concurrency or None,
                time_budget_s=None if math.isinf(seconds) else seconds,
                # A process of its own gives back all memory, and Ray Tune fails a trial that it wants to run in a process that
                # was kept on a node which is lost.
                reuse_actors=False,
            ),
            run_config=ray.tune.RunConfig(
                name="trials",
                storage_path=state,
                verbose=0,
                failure_config=ray.tune.FailureConfig(max_failures=-1),  # ``Watch`` says when to give up
                callbacks=[Watch(trials, records, again, count, best, deadline, voice)],
            ),
        ).fit()


def _work(
    config: dict[str, Any],
    *,
    trials: Trials,
    folder: str,
    again: Mapping[str, Record],
    options: Options,
    early: bool,
    working_folder: str,
) -> None:
    """Run one trial in a process of Ray Tune's, which starts it afresh where a process was lost.

    How it ends is in its record, not in whether this returns.
    """
    import ray.tune

    # Ray Tune went to a folder of its own; the recipe may name files by where the command was given.
    with contextlib.suppress(OSError):
        os.chdir(working_folder)
    _keep_to_share_of_gpu(trials.sweep.resources.gpus)
    settings = config["settings"]
    key, records = trials.key(settings), Records(folder)
    # The driver learns who this is, and where.
    ray.tune.report({"percent": 0, "objective": 0.0, "key": key, "node": ray.get_runtime_context().get_node_id()})
    record = records.get(key)
    if record is None or record == again.get(key):
        seen: dict[str, float] = {}

        def tell(share: int, value: float) -> None:
            seen[str(share)] = value
            ray.tune.report({"percent": share, "objective": value, "key": key, "early": dict(seen)})

        voice = voice_in_log(TrialLog(join(sweep_folder(trials), "logs", f"{key}.txt")))
        record = replace(run_trial(trials, settings, options, voice, tell if early else None), early=seen)
        records.write(record)
    share, value = (0, 0.0) if record.state == "failed" else last_known(trials.sweep, record)
    ray.tune.report({"percent": share, "objective": value, "key": key, "failed": record.state == "failed"})


def _keep_to_share_of_gpu(share: float) -> None:
    """Let this process have no more of its GPU's memory than its share: other trials have theirs."""
    if 0 < share < 1:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(share)


def describe(trials: Trials, options: Options, voice: Voice, *, where: str) -> None:
    """Check a sweep and say what it would do."""
    sweep = trials.sweep
    check(trials, options, where)
    whole = whole_numbers(trials)
    done = _of_sweep(trials, Records(join(sweep_folder(trials), "trials")).read())
    _say_heading(sweep, voice)
    trials.run(trials.base).bring(trials.shared(), replace(options, dry_run=True), voice)
    if sweep.search.algorithm == "optuna":
        voice.say(f"then {_most(sweep)} trials that Optuna chooses, {len(done)} of them done")
    else:
        planned = _planned(trials, whole)
        voice.say(f"then {len(planned)} trials{_distinct(planned)}:")
        for key, (settings, *_) in planned.items():
            state = done[key].state if key in done else "would run"
            voice.say(Toned(f"  {key} {state:9} {told(settings)}", Tone.VERBATIM))
    if sweep.compare:
        seeds = ", ".join(map(str, sweep.compare_seeds or sweep.seeds))
        voice.say(f"then, with seed {seeds}, beside the best:")
        for name, settings in sweep.compare.items():
            voice.say(Toned(f"  {name}: {told(settings)}", Tone.VERBATIM))
