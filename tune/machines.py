"""What trials of a sweep may take of the machines that there are, and of those that may come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.engine import nodes as cluster
from tune.sweep import TrialResources
from weaksam.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine, or node of a cluster."""

    cpus: int
    gpus: float = 0.0

    def holds(self, cpus: int, gpus: float) -> int:
        """Return how many trials of such a size it can run at the same time."""
        by_gpus = math.inf if gpus == 0 else (self.gpus + 1e-6) / gpus
        return int(min(self.cpus // cpus, by_gpus))

    def __str__(self) -> str:
        return told_size(self.cpus, self.gpus)


def connected_machines() -> list[Machine]:
    """Return the nodes that compute, of the cluster that this process is connected to."""
    return [Machine(cpus=node.cpus, gpus=node.gpus) for node in cluster.nodes() if node.cpus or node.gpus]


def may_grow(machines: Sequence[Machine]) -> bool:
    """Whether other nodes may come to the cluster that this process is connected to: from zero, someone will add them."""
    return not machines or cluster.autoscaler() is not None


def cpus_of_each(resources: TrialResources, machines: Sequence[Machine], where: str, *, grows: bool = False) -> int:
    """Return how many CPUs each trial gets.

    If the sweep does not say, they are as many as let all trials run at the same time that may, or that there are GPUs for:
    one CPU each if neither is limited.

    Args:
        resources: of the sweep.
        machines: that there are now.
        where: the sweep's file or name, for messages.
        grows: whether others may come, of which nothing is known.

    Raises:
        ConfigError: no trial will ever fit.
    """
    of_one = resources.gpus if resources.gpus <= 1 else 0.0  # workers of a trial may be on several machines

    def at_once(cpus: int) -> int:
        return sum(machine.holds(cpus, of_one) for machine in machines)

    least = resources.cpus or 1
    if not grows and not (at_once(least) and _has_gpus(resources, machines)):
        raise ConfigError(
            f"{where}: resources: expected trials that fit into {' + '.join(map(str, machines)) or 'no machine'}, got "
            f"{f'{resources.concurrency} at a time with ' if resources.gpus > 1 else ''}{told_size(least, resources.gpus)} each"
            f"{'; resources.gpus: 0 trains on the CPU' if resources.gpus else ''}"
        )
    wanted = min(at_once(least), resources.concurrency or math.inf)
    if resources.cpus or not wanted:
        return least
    return max(cpus for cpus in range(1, max(m.cpus for m in machines) + 1) if at_once(cpus) >= wanted)


def _has_gpus(resources: TrialResources, machines: Sequence[Machine]) -> bool:
    """Whether all GPUs that trials take at the same time are there: one that waits for its workers holds some of them."""
    return resources.gpus <= 1 or sum(m.gpus for m in machines) >= resources.gpus * resources.concurrency


def told_size(cpus: int, gpus: float) -> str:
    """Return the size of a trial, or of a machine, for people; of GPUs that nobody has counted (infinity) nothing is said."""
    return f"{cpus} CPU(s)" + (f" and {gpus:g} GPU(s)" if 0 < gpus < math.inf else "")
