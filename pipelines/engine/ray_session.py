"""The only place that starts or joins Ray, and what must be ended with it."""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.engine import interrupts, ray_address
from pipelines.recipe.config import ResourcesConfig
from pipelines.store.explain import explain, last_line
from weaksam.errors import ConfigError, RunError, StorageError

if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

_LEAST_CPUS = 2  # logical; with one, Ray Data never starts an actor beside the tasks that read and write
_OBJECT_STORE_BYTES = 512 * 2**20  # encoded images and boxes are small; pixels never enter the store
_LEAST_TEMPORARY_BYTES = 2**20  # of Ray's logs and sockets; with less its processes end without a word
_PATIENCE_S = 5.0  # for Ray's processes to end by themselves

_started: list[str] = []  # addresses of the Rays that this process started


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
        ConfigError: an address is given, and ``resources.here``; that wants a GPU where there is none; the address is none.
        RunError: no cluster answers at the address, or Ray does not start here.
        StorageError: Ray's temporary folder cannot be written to.
    """
    if resources.here:
        if address:
            raise ConfigError(f"resources.here: expected no --address beside it, got {address}; leave one of them out")
        if resources.gpus_per_actor or resources.device == "gpu":
            import torch

            if not torch.cuda.is_available():
                told = "gpus_per_actor: expected 0" if resources.gpus_per_actor else "device: expected auto or cpu"
                got = f"{resources.gpus_per_actor:g}" if resources.gpus_per_actor else "gpu"
                raise ConfigError(f"resources.{told}, because torch finds no GPU here, got {got}")
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    address = ray_address.chosen_address(address)
    if "ray" not in sys.modules and address:  # before some seconds of importing
        ray_address.check_address(address)
    import ray

    if ray.is_initialized():
        return
    # What Ray's processes log is in its log files; on the terminal (-v) it buries our own lines.
    quiet = {"log_to_driver": logger.isEnabledFor(logging.INFO), "logging_level": logging.ERROR}
    with interrupts.kept():
        if address:
            _join(address, quiet)
        else:
            _start(max(resources.cpus or usable_cpus(), _LEAST_CPUS), quiet)
    _quieten_ray_data()
    _say_once_unheard()


@contextmanager
def left_at_the_end() -> Iterator[None]:
    """Leave the Ray that the body joined or started, and see to it that nothing lives on of what was started here."""
    before = is_connected()
    try:
        yield
    finally:
        if is_connected() and not before:
            _leave()


def is_connected() -> bool:
    """Whether this process has joined or started Ray; without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def halt_processes() -> list[psutil.Process]:
    """Halt every process that this one started, and theirs, and return them; those that were started meanwhile, too."""
    import psutil

    halted: dict[int, psutil.Process] = {}
    while new := [process for process in _descendants() if process.pid not in halted]:
        for process in new:
            halted[process.pid] = process
            with suppress(psutil.NoSuchProcess):
                process.suspend()
    return list(halted.values())


def kill_processes() -> None:
    """Kill every process that this one started, and theirs, as the last thing that this one does."""
    import psutil

    def is_raylet(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.name() == "raylet"
        return False

    _kill(sorted(halt_processes(), key=is_raylet))  # whose driver Ray ends, with an exit code of its own


def let_go_of_actors() -> None:
    """End the actors that nothing here uses any longer, so that whoever comes next gets their CPUs and GPUs.

    An actor lives as long as its handle. That of one whose process died is in the frames of Ray Data's error, which hold each
    other: nothing but a collection frees them, and none comes while this process does nothing but wait, for those very CPUs.
    """
    gc.collect()


@contextmanager
def frozen_when_interrupted() -> Iterator[None]:
    """Halt every process that this one started before an interrupt of the body goes on, also one that Ray made an error of.

    They must not write once the lock is released. They are killed at the end of this process and not here, because Ray ends
    a driver whose raylet dies; nor is Ray shut down, which may end in a segmentation fault while its threads still work.
    """
    try:
        yield
    except KeyboardInterrupt:
        halt_processes()
        raise
    except Exception as error:
        asked = interrupts.asked()
        if asked is None:
            raise
        halt_processes()
        raise asked from error


def _leave() -> None:
    import psutil
    import ray

    started = _descendants()
    try:
        ray.shutdown()
    finally:
        _, alive = psutil.wait_procs(started, timeout=_PATIENCE_S)
        _kill(alive)


def _descendants() -> list[psutil.Process]:
    import psutil

    return psutil.Process().children(recursive=True)


def _kill(processes: Sequence[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _join(address: str, quiet: Mapping[str, Any]) -> None:
    import ray

    ray_address.check_address(address)
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # of every kind, if it is the server of something else
        raise ray_address.no_cluster(address, last_line(error)) from error


def _start(cpus: int, quiet: Mapping[str, Any]) -> None:
    """Start a Ray of this process's own; never join one that somebody else started on this machine."""
    import ray

    folder = ray_address.temporary_folder().absolute() / "ray"
    _check_writable(next(place for place in (folder, *folder.parents) if place.exists()))  # Ray makes the rest
    try:
        ray.init(
            address=ray_address.LOCAL,
            num_cpus=cpus,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **quiet,
        )
        _started.append(ray.get_runtime_context().gcs_address)
    except Exception as error:  # of every kind: no room, no ports, no processes, limits
        told = explain(error)
        raise RunError(
            f"Ray did not start on this machine: {told or last_line(error)}. `weaksam doctor` may say why; small data need no "
            "Ray: --set resources.here=true"
        ) from error


def _check_writable(folder: Path) -> None:
    """Raise StorageError unless there is room for files in Ray's temporary folder."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(bytes(_LEAST_TEMPORARY_BYTES))
            file.flush()
    except OSError as error:
        raise StorageError(
            f"Ray's temporary folder {explain(error)}; RAY_TMPDIR=FOLDER names another one; small data need no Ray: "
            "--set resources.here=true"
        ) from error


def _say_once_unheard() -> None:
    """Let Ray say what it says once in a process, of the first actor that may restart and whose arguments are references.

    Ray Data passes a dataset's context and operators to its actors so, always, and keeps them for as long as the actors
    need them. The line reads like a failure and is said from C++, to the descriptor of standard error.
    """
    import ray

    class Unused:
        def __init__(self, argument: Any) -> None:
            pass

    with _filtered_stderr("max_restarts"):
        unused: Any = ray.remote(Unused).options(num_cpus=0, max_restarts=1).remote(ray.put(0))
        ray.kill(unused)


@contextmanager
def _filtered_stderr(unwanted: str) -> Iterator[None]:
    """Hold back what the body's libraries write to the descriptor of standard error; then let out all other lines."""
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        shown = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            held.seek(0)
            for line in held:
                if unwanted.encode() not in line:
                    os.write(2, line)


def is_own() -> bool:
    """Whether this process is connected to the Ray that it started, on this machine, whose size does not change."""
    import ray

    return bool(_started) and ray.get_runtime_context().gcs_address == _started[-1]


def _quieten_ray_data() -> None:
    """Show our own progress instead of Ray's, which draws one bar per operator and warns that it does not."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    of_data = logging.getLogger("ray.data")  # after the import of ray.data, which sets it too
    of_data.setLevel(logging.ERROR)
    for handler in of_data.handlers:  # errors are in Ray's log files, and are told by whoever they stop
        if type(handler).__name__ == "PlainRayHandler" and not logger.isEnabledFor(logging.INFO):
            handler.setLevel(logging.CRITICAL + 1)
