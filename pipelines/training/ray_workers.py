"""The training loop on several processes: Ray Train supplies the group of workers and its process group.

Whoever dies, the group is started again here and continues from the newest checkpoint, with as many workers as find room then.
Ray Train's own restarts are not used: it takes the number of workers for granted, waits for them without a word, and counts the
loss of a node as a failure.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.engine import interrupts, logs, ray_session
from pipelines.engine import nodes as cluster
from pipelines.engine.notes import Kind, Notes
from pipelines.engine.voice import Words
from pipelines.store.explain import explain, last_line, storage_failure
from pipelines.store.files import open_arrow_fs
from pipelines.training.checkpoints import Checkpoints, read_scalars
from pipelines.training.room import bundle, wait_for_room
from pipelines.training.task import (
    NonFiniteLossError,
    PassTooLargeError,
    Progress,
    TrainingResources,
    TrainingTask,
    halved,
    number_of_workers,
)
from weaksam.errors import CheckpointError, ConfigError, RunError, WeaksamError
from weaksam.io.files import join

_POLL_S = 1.0
_NOT_STARTED = "the workers did not start in the room that was free for them"
_NO_RESTARTS: dict[str, Any] = {"max_failures": 0, "controller_failure_limit": 0, "max_preemption_failures": 0}


def run_on_ray(
    run_worker: Callable[..., None],
    task: TrainingTask,
    resources: TrainingResources,
    checkpoints: Checkpoints,
    *,
    storage_uri: str,
    run_name: str,
    progress: Callable[[Progress], None] | None,
    say: Callable[[Words], None],
) -> None:
    """Call ``run_worker(resources, rank=…, world=…, device=…)`` in each worker of a group, again after each death.

    Ray is connected by the caller.

    Args:
        run_worker: trains from the newest checkpoint to the end.
        task: what is trained.
        resources: ``workers`` at most; each group has as many as find room when it starts.
        checkpoints: of this training.
        storage_uri: where Ray Train may keep what it likes.
        run_name: its name there.
        progress: called for every row of the scalars.
        say: called with what people should know: deaths, and what is waited for.
    """
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError

    ray_session.let_go_of_actors()
    resources = _with_whole_shares(resources, task)
    deaths, notes = _Deaths(checkpoints, resources.max_failures), Notes()
    with _Follower(join(storage_uri, run_name), progress):
        while True:
            sized = wait_for_room(resources, task.plan.batch_size, say)
            if sized.workers < resources.workers:
                say(f"  {sized.workers} of {resources.workers} workers find room now")
            known = {node.node_id: str(node) for node in cluster.nodes()}
            trainer = _trainer(run_worker, sized, notes, storage_uri, run_name)
            try:
                with ray_session.frozen_when_interrupted():
                    result: Any = interrupts.in_a_thread(trainer.fit)  # in the main one it takes over Ctrl-C, for good
            except (TrainingFailedError, RayActorError) as failure:
                carriers = {note.node_id: known.get(note.node_id, note.node_id) for note in notes.read(Kind.AT_WORK)}
                notes.remove()
                if checkpoints.steps_done() == task.plan.steps:
                    return  # whoever died had nothing left to do, and no room is needed any more
                told = explain(failure)
                if isinstance(told, PassTooLargeError):
                    resources = replace(resources, images_per_pass=halved(told, task))
                    say(f"  {told}; all workers go on with {resources.images_per_pass}")
                else:
                    say(f"  {deaths.judged(failure, carriers)}")
                continue
            notes.remove()
            if result.return_value is not None:
                raise result.return_value
            return


def _with_whole_shares(resources: TrainingResources, task: TrainingTask) -> TrainingResources:
    """Wait for more workers where a share of fewer would have to be cut up that must not be, if so many may come at all."""
    if not (task.pass_statistics and resources.images_per_pass):
        return resources
    batch_size = task.plan.batch_size
    least = max(resources.least, math.ceil(batch_size / resources.images_per_pass))
    return (
        replace(resources, least_workers=least)
        if number_of_workers(batch_size, least, resources.workers)
        else resources
    )


def _trainer(
    run_worker: Callable[..., None], sized: TrainingResources, notes: Notes, storage_uri: str, run_name: str
) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    def work() -> WeaksamError | None:
        import ray.train
        import ray.train.torch

        notes.leave(Kind.AT_WORK)  # until it is read: a worker that others' deaths end may end before its own node does
        context = ray.train.get_context()
        place = {"rank": context.get_world_rank(), "world": context.get_world_size()}
        try:
            with logs.in_worker(notes.subject):
                run_worker(sized, **place, device=ray.train.torch.get_device())
        except (NonFiniteLossError, ConfigError, CheckpointError) as error:
            return error  # all workers stop together, and starting again would not help
        except Exception as error:
            told = storage_failure(error)
            if told is None or place["world"] > 1:
                raise  # Ray Train stops the other workers, which may wait for this one
            return told
        return None

    arrow_fs, path = open_arrow_fs(storage_uri)
    return _trainer_type()(
        work,
        scaling_config=ScalingConfig(
            num_workers=sized.workers, use_gpu=sized.use_gpu, resources_per_worker=dict(bundle(sized))
        ),
        run_config=RunConfig(
            name=run_name,
            storage_path=path,
            storage_filesystem=arrow_fs,
            failure_config=FailureConfig(**_NO_RESTARTS),
        ),
    )


def _trainer_type() -> type[Any]:
    """Return Ray Train's trainer; on this process's own Ray without what gives back the room of a controller that died.

    That asks Ray's dashboard, which is not started there: it would give nothing back, and each training would wait for its
    answer for 12 s at the end.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class TrainerWithoutDashboard(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            made = super()._create_default_callbacks()  # type: ignore[misc]  # the declared type is that of V1
            return [callback for callback in made if not isinstance(callback, PlacementGroupCleanerCallback)]

    return TrainerWithoutDashboard if ray_session.is_own() else TorchTrainer


@dataclass
class _Deaths:
    """How often the workers of a training died without getting any further in between."""

    checkpoints: Checkpoints
    allowed: int
    _counted: int = 0
    _at: int = field(init=False)

    def __post_init__(self) -> None:
        self._at = self.checkpoints.steps_done()

    def judged(self, failure: Exception, carriers: Mapping[str, str]) -> str:
        """Say how a death is taken; raise if it was one too many.

        A worker whose node was lost is nobody's fault, however often: a training on spot machines goes on as long as nodes
        come back.

        Args:
            failure: what Ray says.
            carriers: the nodes on which the workers that it is about began to train, ids -> how people know them.

        Raises:
            WeaksamError: what the first failing worker said, or the whole story when no worker can be blamed.
        """
        from ray.train.v2.api.exceptions import PreemptionError

        done = self.checkpoints.steps_done()
        advanced, self._at = done > self._at, max(done, self._at)
        if advanced:
            self._counted = 0
        goes_on = f"goes on after step {done:,}" if done else "begins again"
        lost = [node for node_id, node in sorted(carriers.items()) if not cluster.lives(node_id)]
        if lost or isinstance(failure, PreemptionError):
            still = "" if advanced else ", no checkpoint was written since the last death"
            names = f"lost {', '.join(f'node {node}' for node in lost)}" if lost else "a node is taken away"
            return f"{names}; the training {goes_on}{still}"
        self._counted += 1
        if self._counted > self.allowed:
            raise self._told(failure) from failure
        what = _NOT_STARTED if _found_no_room(failure) else f"a worker died ({_said(failure)})"
        return f"{what}; the training {goes_on}, {self._counted} of {self.allowed} times"

    def _told(self, failure: Exception) -> WeaksamError:
        where = f"{self.checkpoints.folder}: training failed {self._counted} times"
        still = f" without getting beyond step {self._at:,}" if self._at else ""
        return storage_failure(failure) or RunError(f"{where}{still}: {_said(failure)}")


def _found_no_room(failure: Exception) -> bool:
    """Whether Ray did not start the workers in time where there had been room for them a moment before."""
    from ray.train.v2._internal.exceptions import InsufficientClusterResourcesError, WorkerGroupStartupTimeoutError

    no_room = (InsufficientClusterResourcesError, WorkerGroupStartupTimeoutError)
    return isinstance(getattr(failure, "controller_failure", None), no_room)


def _said(failure: Exception) -> str:
    """Return what the first failing worker said."""
    if _found_no_room(failure):
        return f"{_NOT_STARTED}; see that no one else takes it, or allow more seconds: RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
    causes = list(getattr(failure, "worker_failures", {}).values())
    return str(explain(failure) or last_line(causes[0] if causes else failure))


class _Follower:
    """Calls ``progress`` in this process for the rows that a worker elsewhere writes; does nothing without ``progress``."""

    def __init__(self, folder: str, progress: Callable[[Progress], None] | None) -> None:
        self._folder = folder
        self._progress = progress
        self._seen = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="training-progress", daemon=True)

    def __enter__(self) -> None:
        if self._progress is not None:
            self._seen = max((row.step for row in read_scalars(self._folder)), default=0)
            self._thread.start()

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._stop.set()
            self._thread.join()

    def _follow(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(_POLL_S)
            for row in read_scalars(self._folder):
                if row.step > self._seen and self._progress is not None:
                    self._seen = row.step
                    self._progress(row)
