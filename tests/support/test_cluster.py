"""The clusters that tests start: nodes join and are lost, and an autoscaler starts one for a task that asks for room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import GPUS_ON_CPU, WORKER_HOOK, autoscaling, fixed_nodes
from tests.support.patience import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.nodes]  # some 20 s each
QUICK = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
HOOK = """
import os
def note(module):
    module.hooked = os.getpid()
AFTER = {"colorsys": note}
"""


def alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def node_of_a_task(**options: float) -> str:
    import ray

    where = ray.remote(lambda: ray.get_runtime_context().get_node_id()).options(**options)
    return ray.get(where.remote())


def test_fixed_nodes_join_work_and_are_lost(tmp_path: Path) -> None:
    import ray

    hook = tmp_path / "hook.py"
    hook.write_text(HOOK)
    with fixed_nodes(environment={**QUICK, GPUS_ON_CPU: "1", WORKER_HOOK: str(hook)}) as nodes:
        ray.init(address=nodes.address, log_to_driver=False)
        assert alive() == {nodes.head_id}
        assert ray.cluster_resources().get("CPU", 0) == 0
        plain, gpu = nodes.add(cpus=1), nodes.add(cpus=1, gpus=2)
        assert node_of_a_task(num_gpus=2) == gpu.node_id

        def on_gpu() -> tuple[str, bool]:
            import colorsys

            import torch

            network = torch.nn.Linear(2, 2).to("cuda").to(torch.device("cuda", 0), torch.float64)
            return str(next(network.parameters()).device), hasattr(colorsys, "hooked")

        assert ray.get(ray.remote(num_gpus=1)(on_gpu).remote()) == ("cpu", True)
        nodes.lose(gpu)
        wait_until(lambda: alive() == {nodes.head_id, plain.node_id})
        assert node_of_a_task(num_cpus=1) == plain.node_id


def test_an_autoscaler_starts_a_node_for_a_task_when_it_may(tmp_path: Path) -> None:
    import ray

    with autoscaling({"CPU": 1, "GPU": 1}, most=1, gates=tmp_path) as address:
        ray.init(address=address, log_to_driver=False)
        assert len(alive()) == 1
        head = alive()
        where = ray.remote(num_gpus=1)(lambda: ray.get_runtime_context().get_node_id()).remote()
        done, _ = ray.wait([where], timeout=5)
        assert not done
        assert alive() == head
        (tmp_path / "1").touch()
        assert ray.get(where) not in head
