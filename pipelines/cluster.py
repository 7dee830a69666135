"""The only place that starts or joins Ray, and the sizes that are chosen for a machine when a recipe leaves them open."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace

from pipelines.config import ResourcesConfig
from weaksam.errors import ConfigError, RunError

logger = logging.getLogger(__name__)

_LEAST_CPUS = 2  # logical; with one, Ray Data never starts an actor beside the tasks that read and write
_OBJECT_STORE_BYTES = 512 * 2**20  # encoded images and boxes are small; pixels never enter the store


@dataclass(frozen=True, kw_only=True)
class PoolSizes:
    """How the actors of ``propose`` share a machine or cluster."""

    prompt_actors: int
    segment_actors: int
    threads: int  # torch threads of each actor, on CPU
    gpu_share: float  # of a GPU, reserved by each actor; 0 on CPU
    cpu_share: float  # logical CPUs reserved by each actor
    rows_per_task: int
    here: bool = False  # in this process, without Ray

    def describe(self) -> str:
        """Return one line for people."""
        if self.here:
            return f"in this process, {self.threads} thread(s), {self.rows_per_task} images at a time"
        where = f"{self.gpu_share:g} GPU each" if self.gpu_share else f"{self.threads} thread(s) each"
        return (
            f"{self.prompt_actors} prompt + {self.segment_actors} segment actor(s), {where}, "
            f"{self.rows_per_task} images per task"
        )


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity mask and its cgroup's quota, not what the board has."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return count


def connect(resources: ResourcesConfig, address: str = "") -> None:
    """Join the cluster at ``address`` or RAY_ADDRESS, else start Ray on this machine with its CPUs named; idempotent.

    With ``resources.here`` nothing is joined or started.

    Raises:
        ConfigError: an address is given, and ``resources.here``; that wants a GPU where there is none.
        RunError: no cluster answers at the address.
    """
    if resources.here:
        if address:
            raise ConfigError(f"resources.here: expected no --address beside it, got {address}; leave one of them out")
        if resources.gpus_per_actor:
            import torch

            if not torch.cuda.is_available():
                raise ConfigError("resources.gpus_per_actor: expected 0, because torch finds no GPU here, got 1")
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS", "")
    # What Ray's processes log is in its log files; on the terminal (-v) it buries our own lines.
    to_terminal = logger.isEnabledFor(logging.INFO)
    if address:
        try:
            ray.init(address=address, log_to_driver=to_terminal, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise RunError(
                f"no Ray cluster answers at {address!r} ({error}); check --address or unset RAY_ADDRESS; if `ray start` said "
                "that token authentication is on, set RAY_AUTH_MODE=token"
            ) from error
    else:
        ray.init(
            address="local",  # never a cluster that somebody else started on this machine
            num_cpus=max(resources.cpus or usable_cpus(), _LEAST_CPUS),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=to_terminal,
            logging_level=logging.ERROR,
        )
    _quieten_ray_data()


def pool_sizes(resources: ResourcesConfig, images: int, with_clues: bool, cpus: int, gpus: float) -> PoolSizes:
    """Choose the sizes that the recipe leaves open (0) for a cluster of ``cpus`` and ``gpus``.

    On GPUs each carries one actor of each kind, half a GPU each. On CPU there is one single-threaded SAM actor per CPU and
    half as many clue actors: SAM is the slower half, and the operating system shares the cores between them. Actors then
    reserve fractions of a logical CPU, so that reading and writing tasks always find room. With ``here`` there is one of
    each, in the driver.
    """
    if resources.here:
        resources = replace(resources, segment_actors=1, prompt_actors=1)
    if gpus >= 1:
        share = resources.gpus_per_actor or (0.5 if with_clues else 1.0)
        segment = resources.segment_actors or int(gpus)
        prompt = resources.prompt_actors or int(gpus)
        threads = resources.threads_per_actor or 1
        cpu_share = 0.0
    else:
        share = 0.0
        segment = resources.segment_actors or max(1, cpus)
        prompt = resources.prompt_actors or max(1, cpus // 2)
        threads = resources.threads_per_actor or max(1, cpus // segment)
        actors = segment + (prompt if with_clues else 0)
        cpu_share = round(min(1.0, 0.5 * cpus / actors), 2)
    prompt = prompt if with_clues else 0
    rows = resources.rows_per_task or max(1, min(64, -(-images // (4 * segment))))
    return PoolSizes(
        prompt_actors=prompt,
        segment_actors=segment,
        threads=threads,
        gpu_share=share,
        cpu_share=cpu_share,
        rows_per_task=rows,
        here=resources.here,
    )


def connected_pool_sizes(resources: ResourcesConfig, images: int, *, with_clues: bool) -> PoolSizes:
    """Choose the sizes for the cluster that this process is connected to."""
    return pool_sizes(resources, images, with_clues, *connected_size(resources))


def connected_size(resources: ResourcesConfig) -> tuple[int, int]:
    """Return how many logical CPUs and GPUs of the cluster that this process is connected to a run may take."""
    if resources.here:
        return resources.cpus or usable_cpus(), int(resources.gpus_per_actor)
    import ray

    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(total.get("CPU", 1)), int(total.get("GPU", 0))
    return min(cpus, resources.cpus or cpus), gpus


def machine_cpus() -> list[int]:
    """Return how many logical CPUs each machine has of the cluster that this process is connected to."""
    import ray

    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _quieten_ray_data() -> None:
    """Show our own progress instead of Ray's, which draws one bar per operator and warns that it does not."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # after the import of ray.data, which sets it too
