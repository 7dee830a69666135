"""The training loop on several processes: Ray Train supplies the group of workers, its process group and its restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pipelines.engine import interrupts, ray_session
from pipelines.store.explain import explain, storage_failure
from pipelines.store.files import open_arrow_fs
from pipelines.training.checkpoints import read_scalars
from pipelines.training.task import NonFiniteLossError, Progress, TrainingResources
from weaksam.errors import CheckpointError, ConfigError, RunError, WeaksamError
from weaksam.io.files import join

_POLL_S = 1.0


def run_on_ray(
    run_worker: Callable[..., None],
    resources: TrainingResources,
    storage_uri: str,
    run_name: str,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Call ``run_worker(rank=…, world=…, device=…)`` in each worker of a group of Ray Train, which restarts it after a death.

    Ray is connected by the caller.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    folder = join(storage_uri, run_name)
    ray_session.let_go_of_actors()

    def work() -> WeaksamError | None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        place = {"rank": context.get_world_rank(), "world": context.get_world_size()}
        try:
            run_worker(**place, device=ray.train.torch.get_device())
        except (NonFiniteLossError, ConfigError, CheckpointError) as error:
            return error  # all workers stop together, and starting again would not help
        except Exception as error:
            told = storage_failure(error)
            if told is None or place["world"] > 1:
                raise  # Ray Train stops the other workers, which may wait for this one
            return told
        return None

    arrow_fs, path = open_arrow_fs(storage_uri)
    trainer = TorchTrainer(
        work,  # type: ignore[arg-type]  # the declared type knows no return value
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.use_gpu,
            resources_per_worker={"CPU": resources.threads, "GPU": int(resources.use_gpu)},
        ),
        run_config=RunConfig(
            name=run_name,
            storage_path=path,
            storage_filesystem=arrow_fs,
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )
    with _Follower(folder, progress):
        try:
            with ray_session.frozen_when_interrupted():
                result: Any = interrupts.in_a_thread(trainer.fit)  # in the main one it takes over Ctrl-C, for good
        except TrainingFailedError as failure:
            raise _told(failure, folder, resources.max_failures + 1) from failure
    if result.return_value is not None:
        raise result.return_value


def _told(failure: Exception, folder: str, times: int) -> WeaksamError:
    """Return what the first failing worker said, or the whole story when no worker can be blamed."""
    causes = list(getattr(failure, "worker_failures", {}).values())
    said = explain(failure) or (causes[0] if causes else failure)
    return storage_failure(failure) or RunError(f"{folder}: training failed {times} times: {said}")


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
