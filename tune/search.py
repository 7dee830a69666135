"""The driver of a sweep: Ray Tune chooses and runs the trials that have no record yet.

    RUN/tune/NAME/trials/KEY.json    how each trial ended             RUN/tune/NAME/logs/KEY.txt   what its stages said
    RUN/tune/NAME/compared/KEY.json  the same of the best one and of the settings beside it, with more seeds

What all trials share is made first, with the whole machine; what some share is made by the first that needs it, while the
others wait for its lock. Resume is subtraction: settings with a record are not run again. Ray Tune's own state, which is
pickled, is neither kept nor read.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from pipelines import cluster
from pipelines.stage import Options
from pipelines.stages import run_instances
from tune.objectives import RANK, RANKED, mean_ranks
from tune.spaces import Settings, drawn, every_combination, short
from tune.sweep import Sweep, Trials, check_machine, check_recipes, whole_numbers
from tune.trial import Record, Records, early_percents, run_trial, value_of
from weaksam.errors import RunError
from weaksam.files import join, open_fs

BEST = "best"  # name of the best trial among those that are compared
# A trial waits for its stages, which reserve what they need; Ray wants it to reserve something itself.
_TRIAL_RESERVES = {"memory": 1e6}
_PATIENCE_S = 7 * 24 * 3600.0  # for an instance that another trial, or another sweep, is making
_DRAWS_PER_TRIAL = 100  # before a space counts as exhausted


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a sweep found."""

    sweep: Sweep
    trials: tuple[tuple[Settings, Record], ...]  # settings that cannot differ have the same record
    best: Record
    compared: Mapping[str, Record]  # BEST and the sweep's own names

    def value(self, record: Record) -> float:
        """Return the objective of a trial on the part that trials are selected on, -1 where there is none."""
        return value_of(self.sweep, record)


def run_sweep(trials: Trials, options: Options, console: Console, *, where: str, retry_failed: bool = False) -> Outcome:
    """Run all trials that have no record, then those to compare.

    Args:
        trials: of the sweep.
        options: for the stages of every trial.
        console: to show progress on.
        where: the sweep's file or name, for messages.
        retry_failed: run trials again that failed before.

    Raises:
        ConfigError: the sweep does not fit its recipe or the machine.
        RunError: no trial finished.
    """
    sweep, options = trials.sweep, replace(options, wait_s=_PATIENCE_S)
    check_recipes(trials, where)
    if not (options.address or os.environ.get("RAY_ADDRESS")):
        check_machine(sweep, cluster.usable_cpus(), where)
    whole = whole_numbers(trials)
    records = Records(join(sweep_folder(trials), "trials"))
    done = records.read()
    for key in [key for key, record in done.items() if record.state == "failed" and retry_failed]:
        records.forget(key)
        del done[key]
    base = trials.chosen({}, sweep.seeds[0])
    shared = trials.shared()
    console.print(f"[bold]{sweep.name}[/]: {sweep.description}\n  all trials share {', '.join(shared)}")
    run_instances(base, trials.run_uri, shared, options, console)
    planned = None if sweep.search.algorithm == "optuna" else _planned(trials, whole)
    done = {key: record for key, record in done.items() if trials.has(key, record.settings)}
    todo = [of_key[0] for key, of_key in planned.items() if key not in done] if planned is not None else None
    wanted = sweep.search.trials if planned is None else len(planned)
    missing = max(0, wanted - len(done)) if todo is None else len(todo)
    console.print(
        f"  {wanted} trials{_distinct(planned)}, {wanted - missing} of them done before; {sweep.resources.concurrency} at a "
        f"time; {records.folder}"
    )
    if missing:
        cluster.connect(base.resources, options.address)
        _tune(
            trials,
            records,
            todo if todo is not None else _optuna(sweep, whole, done.values()),
            missing,
            options,
            console,
        )
    found = records.read()
    if planned is None:
        rows = [(record.settings, record) for key, record in found.items() if trials.has(key, record.settings)]
    else:
        rows = [(settings, found[key]) for key, of_key in planned.items() if key in found for settings in of_key]
    finished = {record.key: record for _, record in rows if record.state == "finished"}
    if not finished:
        errors = {record.error.strip().splitlines()[-1] for _, record in rows if record.error}
        raise RunError(f"{where}: no trial finished: {'; '.join(errors) or 'the budget was too small for any'}")
    ranked = {record.key: record for record in with_ranks(sweep, list(finished.values()))}
    rows = [(settings, ranked.get(record.key, record)) for settings, record in rows]
    best = max(ranked.values(), key=lambda record: value_of(sweep, record))
    compared = _compare(trials, best.settings, options, console)
    return Outcome(sweep=sweep, trials=tuple(rows), best=best, compared=compared)


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
    wanted = sweep.search.trials
    draws: Iterable[Settings] = drawn(sweep.space, whole, sweep.search.seed)
    for settings in itertools.islice(draws, wanted * _DRAWS_PER_TRIAL):
        found.setdefault(trials.key(settings), [settings])
        if len(found) == wanted:
            break
    return found


def _distinct(planned: Mapping[str, Sequence[Settings]] | None) -> str:
    settings = sum(len(of_key) for of_key in planned.values()) if planned else 0
    return f" for {settings} settings" if planned and settings > len(planned) else ""


def _compare(trials: Trials, best: Settings, options: Options, console: Console) -> dict[str, Record]:
    """Run the best settings and those to compare with all seeds that comparing asks for."""
    sweep = trials.sweep
    if not sweep.compare:
        return {}
    again = Trials(
        sweep.model_copy(update={"seeds": sweep.compare_seeds or sweep.seeds}), trials.run_uri, trials.data_uri
    )
    wanted = {BEST: best, **sweep.compare}
    keys = {name: again.key(settings) for name, settings in wanted.items()}
    records = Records(join(sweep_folder(trials), "compared"))
    done = records.read()
    todo = {keys[name]: settings for name, settings in wanted.items() if keys[name] not in done}
    if todo:
        seeds = len(again.sweep.seeds)
        console.print(f"  beside the best: {', '.join(sweep.compare)}; {seeds} seed(s) each")
        cluster.connect(trials.chosen({}, sweep.seeds[0]).resources, options.address)
        _tune(again, records, list(todo.values()), len(todo), options, console, stops=False)
    found = records.read()
    return {name: found[key] for name, key in keys.items() if key in found}


def _tune(
    trials: Trials,
    records: Records,
    search: Any,
    count: int,
    options: Options,
    console: Console,
    *,
    stops: bool = True,
) -> None:
    """Let Ray Tune run ``count`` trials: those of a list of settings, or what a search algorithm proposes."""
    import ray.tune
    from ray.tune.schedulers import ASHAScheduler

    from tune.watch import Watch

    # An interrupt ends a sweep as it ends every other verb; nothing is logged or printed but records and our own lines.
    os.environ.update(TUNE_DISABLE_SIGINT_HANDLER="1", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", RAY_AIR_NEW_OUTPUT="0")
    sweep = trials.sweep
    listed = isinstance(search, list)
    asha = stops and sweep.scheduler.name == "asha"
    scheduler = None
    if asha:
        scheduler = ASHAScheduler(
            time_attr="percent",
            max_t=100,
            grace_period=early_percents(sweep)[0],
            reduction_factor=sweep.scheduler.reduction,
        )
    there = replace(options, address="")  # a trial's process is on the cluster already
    work = ray.tune.with_parameters(_work, trials=trials, folder=records.folder, options=there, early=asha)
    with tempfile.TemporaryDirectory(prefix="weaksam-tune-") as state:
        ray.tune.Tuner(
            ray.tune.with_resources(work, _TRIAL_RESERVES),
            param_space={"settings": ray.tune.grid_search(search)} if listed else {},
            tune_config=ray.tune.TuneConfig(
                metric="objective",
                mode="max",
                search_alg=None if listed else search,
                scheduler=scheduler,
                num_samples=1 if listed else count,
                max_concurrent_trials=sweep.resources.concurrency,
                time_budget_s=sweep.budget.hours * 3600 or None,
                reuse_actors=True,  # the next trial of a process need not import everything again
            ),
            run_config=ray.tune.RunConfig(
                name="trials", storage_path=state, verbose=0, callbacks=[Watch(trials, records, count, console)]
            ),
        ).fit()


def _work(config: dict[str, Any], *, trials: Trials, folder: str, options: Options, early: bool) -> None:
    """Run one trial in a process of Ray Tune's."""
    import ray.tune

    settings = config.get("settings", config)
    key, records = trials.key(settings), Records(folder)
    ray.tune.report({"percent": 0, "objective": 0.0, "key": key})  # the driver learns who this is
    record = records.get(key)
    if record is None:
        fs, log = open_fs(join(folder, "..", "logs", f"{key}.txt"))
        fs.makedirs(fs._parent(log), exist_ok=True)
        seen: dict[str, float] = {}

        def tell(share: int, value: float) -> None:
            seen[str(share)] = value
            ray.tune.report({"percent": share, "objective": value, "key": key})

        with fs.open(log, "w") as file:
            console = Console(file=file, width=120, soft_wrap=True)
            record = replace(run_trial(trials, settings, options, console, tell if early else None), early=dict(seen))
        records.write(record)
    if record.state == "failed":
        raise RunError(record.error)
    ray.tune.report({"percent": 100, "objective": value_of(trials.sweep, record), "key": key})


def _optuna(sweep: Sweep, whole: Mapping[str, bool], before: Iterable[Record]) -> Any:
    """Return Optuna's search, which is told of all trials so far."""
    from ray.tune.search.optuna import OptunaSearch

    before = list(before)
    told = [record for record in before if record.state == "finished"]
    return OptunaSearch(
        space={name: knob.domain(whole=whole[name]) for name, knob in sweep.space.items()},
        metric="objective",
        mode="max",
        seed=sweep.search.seed + len(before),  # a sweep that goes on draws others than those it began with
        points_to_evaluate=[record.settings for record in told] or None,
        evaluated_rewards=[value_of(sweep, record) for record in told] or None,
    )


def describe(trials: Trials, console: Console, *, where: str) -> None:
    """Check a sweep and print what it would do."""
    sweep = trials.sweep
    check_recipes(trials, where)
    check_machine(sweep, cluster.usable_cpus(), where)
    whole = whole_numbers(trials)
    done = Records(join(sweep_folder(trials), "trials")).read()
    console.print(f"[bold]{sweep.name}[/]: {sweep.description}")
    run_instances(trials.chosen({}, sweep.seeds[0]), trials.run_uri, trials.shared(), Options(dry_run=True), console)
    if sweep.search.algorithm == "optuna":
        known = sum(trials.has(key, record.settings) for key, record in done.items())
        console.print(f"then {sweep.search.trials} trials that Optuna chooses, {known} of them done")
        return
    planned = _planned(trials, whole)
    console.print(f"then {len(planned)} trials{_distinct(planned)}:")
    for key, (settings, *_) in planned.items():
        of_settings = " ".join(f"{name}={short(value)}" for name, value in settings.items())
        console.print(f"  {key} {done[key].state if key in done else 'would run':9} {of_settings}", highlight=False)
