"""The one training loop: steps over 1..N workers, checkpoints, restart, resume, proof. A stage adds network, loss and loader.

The global batch of a step is a window of one endless stream of seeded permutations, a sample is seeded by (seed, epoch, image
id), the learning rates are functions of the position, and dropout is re-seeded at every step. A training that was killed
therefore continues with the samples that it would have seen, also with another number of workers; with the same number of
workers and threads on CPU its weights are the same to the last bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from pipelines.engine.voice import Words
from pipelines.training.checkpoints import Checkpoints, read_scalars, write_events
from pipelines.training.task import (
    Progress,
    Skipped,
    TrainingPlan,
    TrainingResources,
    TrainingResult,
    TrainingTask,
)
from pipelines.training.worker import Worker
from weaksam.errors import ConfigError, RunError
from weaksam.io.files import join

logger = logging.getLogger(__name__)


def run_training(
    task: TrainingTask,
    *,
    storage_uri: str,
    run_name: str,
    resources: Callable[[], TrainingResources],
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[Words], None] = logger.warning,
) -> TrainingResult:
    """Train until every planned step is done, continuing from the newest checkpoint under ``storage_uri/run_name``.

    Args:
        task: what to train.
        storage_uri: absolute folder or ``s3://…`` that every worker can reach.
        run_name: the resume key; another name starts afresh.
        resources: says where to run, once there is room, with numbers of workers that ``fit.choose_resources`` allows; not
            asked if no step is left. It may differ from where the run that is continued ran.
        progress: called in this process for every row of the scalars.
        say: called in this process with what people should know, such as deaths of workers and what is waited for.

    Raises:
        ConfigError: if the folder is relative.
        NonFiniteLossError: naming the images of the pass.
        RunError: if the workers failed more often than allowed or the proof does not hold.
    """
    plan, folder = task.plan, join(storage_uri, run_name)
    if "://" not in folder and not folder.startswith("/"):
        raise ConfigError(f"expected an absolute storage folder (workers run in other directories), got {folder!r}")
    started = time.monotonic()
    checkpoints = Checkpoints(folder, plan)
    resumed_at = checkpoints.recover()
    if resumed_at < plan.steps:
        found = resources()
        if found.workers == 0:
            with torch.random.fork_rng():
                device = torch.device("cuda" if found.use_gpu else "cpu")
                Worker(task, found, folder, progress=progress, say=say, device=device).run()
        else:
            from pipelines.training.ray_workers import run_on_ray

            def run_worker(sized: TrainingResources, **place: Any) -> None:
                Worker(task, sized, folder, **place).run()

            run_on_ray(
                run_worker,
                task,
                found,
                checkpoints,
                storage_uri=storage_uri,
                run_name=run_name,
                progress=progress,
                say=say,
            )

    state = _proved(checkpoints, plan, folder)
    scalars = read_scalars(folder)
    write_events(folder, scalars)
    return TrainingResult(
        steps_planned=plan.steps,
        steps_done=state["step"],
        resumed_at=resumed_at,
        seconds=time.monotonic() - started,
        model=state["model"],
        best=state["best"],
        skipped=[Skipped(*row) for row in state["skipped"]],
        scalars=scalars,
        images_per_pass=state.get("images_per_pass", 0),
        gpu_memory_mib=state.get("gpu_memory_mib"),
    )


def _proved(checkpoints: Checkpoints, plan: TrainingPlan, folder: str) -> dict[str, Any]:
    """Return the last checkpoint, read back; raise RunError unless it has done all planned steps."""
    state = checkpoints.newest()
    if state is None or state["step"] != plan.steps:
        done = 0 if state is None else state["step"]
        raise RunError(f"{folder}: the proof does not hold: steps planned {plan.steps:,}, done {done:,}. Run it again.")
    return state
