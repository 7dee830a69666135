"""The nodes of the Ray cluster that this process is connected to, and what its autoscaler, if it has one, says of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PROBE_S = 30.0  # Ray needs some 15 s to notice that a node is gone


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine, or pod, of the cluster."""

    node_id: str
    address: str
    cpus: int  # logical
    gpus: int

    def __str__(self) -> str:
        return f"{self.address} ({self.node_id[:8]})"


@dataclass(frozen=True, kw_only=True)
class Autoscaler:
    """What the cluster's autoscaler is about to do."""

    starting: tuple[str, ...]  # node types that it has asked for, one for each node
    failed: tuple[str, ...]  # what it says of nodes that it could not start
    waiting: tuple[str, ...]  # demands that no node has room for

    def has_begun_since(self, before: Autoscaler | None) -> bool:
        """Whether it has begun to start a node, or has tried in vain, since it was looked at before."""
        known = Counter((*before.starting, *before.failed)) if before else Counter[str]()
        return bool(Counter((*self.starting, *self.failed)) - known)

    def __str__(self) -> str:
        parts = {"starting": self.starting, "not started": self.failed, "pending": self.waiting}
        return "; ".join(f"{what} {', '.join(dict.fromkeys(told))}" for what, told in parts.items() if told)


def nodes() -> list[Node]:
    """Return the nodes that are alive as far as Ray knows, in the order of their ids."""
    import ray

    found = [
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: node.node_id)


def own_node_id() -> str:
    """Return the id of the node that this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def lives(node_id: str) -> bool:
    """Whether a node is there: Ray believes in one that was lost for some time, so it is asked to do something."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if node_id == own_node_id():
        return True
    if node_id not in {node.node_id for node in nodes()}:
        return False
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    # Not ``_sign_of_life`` decorated once: what is remote belongs to the Ray that it was first used with.
    sign = ray.remote(_sign_of_life).options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote()
    try:
        ray.get(sign, timeout=_PROBE_S)
    except RayError:  # the time is over, or Ray has noticed meanwhile
        ray.cancel(sign, force=True)
        return False
    return True


def autoscaler() -> Autoscaler | None:
    """Return what the autoscaler says; None where no autoscaler reports to the cluster."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.exceptions import RpcError

    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
    except RpcError:  # the head is busy; it is asked again
        return None
    if int(status.stats.autoscaler_version or 0) == 0:
        return None
    demands = status.resource_demands
    waiting = [
        f"{bundle.count} x {_told(bundle.bundle)}"
        for demand in (*demands.ray_task_actor_demand, *demands.placement_group_demand)
        for bundle in demand.bundles_by_count
    ]
    return Autoscaler(
        starting=(
            *(launch.ray_node_type_name for launch in status.pending_launches for _ in range(launch.count)),
            *(node.ray_node_type_name for node in status.pending_nodes),
        ),
        failed=tuple(
            f"{launch.ray_node_type_name}: {launch.details or 'no reason'}" for launch in status.failed_launches
        ),
        waiting=tuple(waiting),
    )


def without(avoided: Sequence[str]) -> dict[str, str] | None:
    """Return the labels that Ray takes for "on any node but these"; None where none is avoided."""
    return {"ray.io/node-id": f"!in({','.join(avoided)})"} if avoided else None


def _told(bundle: Mapping[str, Any]) -> str:
    """Return a demand in Ray's words, without the labels of the group that it comes from."""
    wanted = {name: amount for name, amount in bundle.items() if not name.startswith(("bundle", "node:"))}
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in sorted(wanted.items())) + "}"


def _sign_of_life() -> None:
    """Do nothing, where it is asked for."""
