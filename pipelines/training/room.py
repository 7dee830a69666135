"""How many workers a training has room for on the nodes that a cluster has now, and the wait until there are enough.

A worker is asked for with no more CPUs than the nodes have that are to carry it, so that whatever is asked for fits some node.
The number of workers divides the batch, which stays what it is: with fewer of them each has a larger share of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.engine import nodes as cluster
from pipelines.engine import ray_session
from pipelines.engine.nodes import Node
from pipelines.engine.reach import SAY_EVERY_S, stop_asking, words_of_ray
from pipelines.engine.voice import Waiting, Words
from pipelines.training.task import TrainingResources, number_of_workers
from weaksam.errors import ConfigError, RunError

_LOOK_EVERY_S = 0.5
# What is free is known a moment after it became so: before less is taken than the nodes have in all, and before Ray is asked.
_SETTLE_S = 10.0


def cpus_each(found: Sequence[Node], workers: int, most: int, *, use_gpu: bool) -> int:
    """Return how many CPUs a worker may ask for, at most ``most``.

    On GPUs as many as every node that has some has for each of them: 0 where one has fewer CPUs than GPUs. On CPUs as many as
    ``workers`` of them find room with; 0 where they never do.
    """
    if use_gpu:
        return min([most, *(node.cpus // node.gpus for node in found if node.gpus)])
    return next((n for n in range(most, 0, -1) if _room(found, n, use_gpu=False) >= workers), 0)


def wait_for_room(wanted: TrainingResources, batch_size: int, say: Callable[[Words], None]) -> TrainingResources:
    """Return ``wanted`` with as many workers as find room now, of a size that fits; wait until the fewest do.

    An interrupt ends the wait at once.

    Args:
        wanted: ``workers`` are the most, ``least`` the fewest, ``threads`` and ``cpus`` the most of each.
        batch_size: images per step of all workers.
        say: called every 15 s with what is waited for.

    Raises:
        ConfigError: the Ray that this process started, which does not grow, has no room for the fewest.
        RunError: they found no room within ``wanted.wait_s``.
    """
    started = said = time.monotonic()
    asking: list[Any] = []
    try:
        while True:
            found = cluster.nodes()
            cpus = cpus_each(found, wanted.least, wanted.cpus, use_gpu=wanted.use_gpu) or int(not wanted.use_gpu)
            in_all = _room(found, cpus, use_gpu=wanted.use_gpu)
            held = sum(bool(group.wait(0)) for group in asking)
            now_free = min(_room(_free(found), cpus, use_gpu=wanted.use_gpu) + held, in_all)
            possible, fitting = (
                number_of_workers(batch_size, wanted.least, min(room, wanted.workers)) for room in (in_all, now_free)
            )
            waited = time.monotonic() - started
            if fitting and (fitting == possible or waited > _SETTLE_S):
                return replace(wanted, workers=fitting, cpus=cpus, threads=max(1, min(wanted.threads, cpus)))
            if not possible and ray_session.is_own():
                raise ConfigError(_too_many(wanted, found, batch_size))
            if wanted.wait_s and waited > wanted.wait_s:
                raise RunError(
                    f"{_missing(wanted, cpus, found, now_free)}, for {waited:.0f} s (resources.wait_for_workers). Start "
                    "nodes and run the same command again"
                )
            if time.monotonic() - said >= SAY_EVERY_S:
                details = f"{_missing(wanted, cpus, found, now_free)}; {words_of_ray()}"
                say(Waiting(what="room", seconds=waited, details=details))
                said = time.monotonic()
            if not asking and (not possible or waited > _SETTLE_S):
                asking = _ask(wanted, cpus, now_free)
            time.sleep(_LOOK_EVERY_S)
    finally:
        for group in asking:
            stop_asking(group)


def bundle(resources: TrainingResources) -> Mapping[str, float]:
    """Return what Ray reserves for one worker."""
    return {"CPU": resources.cpus, "GPU": int(resources.use_gpu)}


def _room(found: Sequence[Node], cpus: int, *, use_gpu: bool) -> int:
    """Return how many workers of ``cpus`` each find room on nodes."""
    if use_gpu:
        return sum(min(node.gpus, node.cpus // cpus) if cpus else node.gpus for node in found)
    return sum(node.cpus // cpus for node in found) if cpus else 0


def _free(found: Sequence[Node]) -> list[Node]:
    """Return nodes with what nobody has reserved of each."""
    from ray._private.state import available_resources_per_node  # the one place where Ray says it of each node

    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    left = [(node, free.get(node.node_id, {})) for node in found]
    return [replace(node, cpus=int(own.get("CPU", 0)), gpus=int(own.get("GPU", 0))) for node, own in left]


def _ask(wanted: TrainingResources, cpus: int, now_free: int) -> list[Any]:
    """Ask Ray for the room that is missing, one group for each worker: an autoscaler starts nodes for it."""
    import ray

    asked = {name: amount for name, amount in bundle(replace(wanted, cpus=cpus)).items() if amount}
    return [ray.util.placement_group([asked]) for _ in range(max(1, wanted.workers - now_free))]


def _missing(wanted: TrainingResources, cpus: int, found: Sequence[Node], now_free: int) -> str:
    each = " and ".join(
        f"{amount:g} {name}(s)" for name, amount in bundle(replace(wanted, cpus=cpus)).items() if amount
    )
    return (
        f"{wanted.least} training worker(s) need room{f' for {each} each' if each else ''}; {len(found)} node(s) have it "
        f"for {now_free}"
    )


def _too_many(wanted: TrainingResources, found: Sequence[Node], batch_size: int) -> str:
    kind, have = ("GPU", [node.gpus for node in found]) if wanted.use_gpu else ("CPU", [node.cpus for node in found])
    other = ", or resources.device=cpu" if wanted.use_gpu else ""
    least = "resources.least_train_workers"  # which alone leaves room for more
    option = least if wanted.least < wanted.workers else f"resources.train_workers or {least}"
    most = sum(have)
    told = f"at most {most}, one for each {kind} of this machine"
    if wanted.least <= most:  # there is room, but for no number of them that divides the batch
        told = f"{told}, and a number that divides the batch of {batch_size}"
    return f"{option}: expected {told}, got {wanted.least}; name fewer{other}"
