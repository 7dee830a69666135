"""What of a machine or cluster a run may take as it is now, and the wait for workers that are not there yet.

A cluster of spot machines begins with none of them: Ray starts nodes, where it has an autoscaler, for what asks for room. So
whoever waits here asks, and says every 15 s what is missing, in Ray's own words.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.engine import nodes as cluster
from pipelines.engine import ray_session
from pipelines.engine.voice import Voice, Waiting
from pipelines.recipe.config import ResourcesConfig
from weaksam.errors import ConfigError, RunError

SAY_EVERY_S = 15.0
AGAIN_WITH_WORKERS = "Start workers and run the same command again"
_LOOK_EVERY_S = 1.0
_DECIDE_S = 15.0  # for an autoscaler to begin to start a node, if it can start one that fits


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The room for actors and workers."""

    cpus: int  # logical
    gpus: int  # 0 where all is computed on CPUs
    least_cpus: int  # of the smallest node that computes
    grows: bool = False  # nodes may come and go
    starts_nodes: bool = False  # an autoscaler starts some if room is asked for

    @property
    def device(self) -> Literal["gpu", "cpu"]:
        """Where actors compute, as a recipe says it."""
        return "gpu" if self.gpus else "cpu"


def reach(resources: ResourcesConfig, voice: Voice, avoided: Collection[str] = ()) -> Reach:
    """Return what a run may take of the Ray that this process is connected to, once there is enough of it to begin.

    Args:
        resources: what the run wants.
        voice: is told every 15 s what is waited for.
        avoided: ids of nodes that do not count.

    Raises:
        ConfigError: ``resources.device`` is not to be had.
        RunError: the workers did not come within ``resources.wait_for_workers``.
    """
    if resources.here:
        cpus = resources.cpus or ray_session.usable_cpus()
        return Reach(cpus=cpus, gpus=int(resources.device == "gpu" or resources.gpus_per_actor > 0), least_cpus=cpus)
    if ray_session.is_own():  # this machine, and that is all
        found, starts_nodes = cluster.nodes(), False
        on_gpus = _on_gpus_of_this_machine(resources, found)
    else:
        starts_nodes = cluster.autoscaler() is not None
        on_gpus = _on_gpus(resources, starts_nodes)
        found = _wait(resources, on_gpus, voice, avoided)
    working = [node for node in found if node.gpus] if on_gpus else [node for node in found if node.cpus]
    cpus = sum(node.cpus for node in working)
    return Reach(
        cpus=min(cpus, resources.cpus or cpus),
        gpus=sum(node.gpus for node in working) if on_gpus else 0,
        least_cpus=min((node.cpus for node in working), default=0),
        grows=not ray_session.is_own(),
        starts_nodes=starts_nodes,
    )


@contextmanager
def asking_for(bundle: Mapping[str, float], times: int) -> Iterator[None]:
    """Ask Ray for room of ``times`` bundles until the body ends; whatever room is found is given back then."""
    import ray

    groups = [ray.util.placement_group([dict(bundle)]) for _ in range(times)]
    try:
        yield
    finally:
        for group in groups:
            stop_asking(group)


def stop_asking(group: Any) -> None:
    """Take back what was asked for, and give back what was given."""
    import ray

    with suppress(Exception):  # at the end of a connection there is nobody to tell
        ray.util.remove_placement_group(group)


def _on_gpus_of_this_machine(resources: ResourcesConfig, found: list[cluster.Node]) -> bool:
    gpus = sum(node.gpus for node in found)
    if resources.device == "gpu" and not gpus:
        raise ConfigError(
            "resources.device: expected cpu or auto, because this machine has no GPU that Ray or torch finds, got gpu"
        )
    return gpus > 0 and resources.device != "cpu"


def _on_gpus(resources: ResourcesConfig, starts_nodes: bool) -> bool:
    """Decide whether a cluster computes on GPUs, also on those that it may still start."""
    if resources.device != "auto":
        return resources.device == "gpu"
    found = cluster.nodes()
    if any(node.gpus for node in found):
        return True
    if starts_nodes:
        before = cluster.autoscaler()
        with asking_for({"GPU": 1}, 1):
            until = time.monotonic() + _DECIDE_S
            while time.monotonic() < until:
                now = cluster.autoscaler()
                if any(node.gpus for node in cluster.nodes()) or (now and now.has_begun_since(before)):
                    return True
                time.sleep(_LOOK_EVERY_S)
    raise ConfigError(
        f"resources.device: expected a cluster that has a GPU{' or may start one' if starts_nodes else ''}, got one of "
        f"{len(found)} node(s) with {sum(node.cpus for node in found)} CPUs and no GPU; resources.device=cpu computes on "
        "those, resources.device=gpu waits until a node with a GPU joins"
    )


def _wait(resources: ResourcesConfig, on_gpus: bool, voice: Voice, avoided: Collection[str]) -> list[cluster.Node]:
    """Wait until a cluster has room for the fewest actors that a recipe wants; return its nodes but those avoided."""
    least = max(1, resources.least_actors)
    share = resources.gpus_per_actor or 1.0
    bundle = {"GPU": share} if on_gpus else {"CPU": 1.0}

    def look() -> tuple[list[cluster.Node], int]:
        found = [node for node in cluster.nodes() if node.node_id not in avoided]
        return found, sum(node.gpus * int(1 / share) if on_gpus else node.cpus for node in found)

    found, room = look()
    if room >= least:
        return found
    started = said = time.monotonic()
    with asking_for(bundle, least):  # for what is there as well, so that no autoscaler takes it for idle
        while room < least:
            time.sleep(_LOOK_EVERY_S)
            (found, room), now = look(), time.monotonic()
            if resources.wait_for_workers and now - started > resources.wait_for_workers:
                raise RunError(
                    f"no room for {least} actor(s) within {resources.wait_for_workers:g} s (resources.wait_for_workers): "
                    f"{_missing(found, on_gpus)}. {AGAIN_WITH_WORKERS}"
                )
            if now - said >= SAY_EVERY_S:
                what, details = f"room for {least} actor(s)", _missing(found, on_gpus)
                voice.say(Waiting(what=what, seconds=now - started, details=details))
                said = now
    return found


def _missing(found: list[cluster.Node], on_gpus: bool) -> str:
    """Say in a line what a cluster has, and what Ray says of what it lacks."""
    have = f"{sum(node.gpus for node in found)} GPUs" if on_gpus else f"{sum(node.cpus for node in found)} CPUs"
    return f"{len(found)} node(s) with {have}; {words_of_ray()}"


def words_of_ray() -> str:
    """Return what Ray says of pending demands and of nodes that it starts."""
    scaler = cluster.autoscaler()
    if scaler is None:
        return "no autoscaler reports, so nodes must be added by hand"
    return f"Ray: {scaler}" if str(scaler) else "Ray: nothing pending"
