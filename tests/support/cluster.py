"""Ray clusters of several nodes on this machine: fixed nodes that a test adds and loses, and an autoscaler that starts them.

The nodes are real ones, each with a raylet, an object store and workers of its own; their CPUs and GPUs are numbers. Whoever
has one joins it by its address: this process (``ray.init``), or a driver (``--address``).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
OBJECT_STORE_BYTES = 100 * 2**20  # of each node
GPUS_ON_CPU = "WEAKSAM_TEST_GPUS_ON_CPU"  # "1": what is moved to a GPU stays on the CPU, in workers
WORKER_HOOK = "WEAKSAM_TEST_WORKER_HOOK"  # a file of Python that workers run, see ``tests.support.in_workers``
_MARK = "WEAKSAM_TEST_CLUSTER"  # in the environment of every process of a cluster
_WORKER_TYPE = "worker"


class FixedNodes:
    """A head, and the nodes that are added to it and lost again."""

    def __init__(self, cpus: int, gpus: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False}
        self._cluster: Any = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,  # which would take over SIGTERM
            head_node_args={**head, "object_store_memory": OBJECT_STORE_BYTES},
        )

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return str(self._cluster.address)

    @property
    def head_id(self) -> str:
        """The head's node id."""
        return str(self._cluster.head_node.node_id)

    @property
    def nodes(self) -> list[Any]:
        """The nodes beside the head, in no order."""
        return list(self._cluster.worker_nodes)

    def add(self, cpus: int = 1, gpus: int = 0, environment: Mapping[str, str] | None = None) -> Any:
        """Let a node join, with more in the environment of its raylet; return it."""
        return self._cluster.add_node(
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            env_vars=dict(environment or {}),
        )

    def lose(self, node: Any) -> None:
        """End a node and all of its workers at once and without a word, as a spot machine that is taken away."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        processes = [raylet, *raylet.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()  # or those killed last would see the others die
        _kill(processes)
        self._cluster.remove_node(node, allow_graceful=False)

    def end(self) -> None:
        """Lose all nodes, and the head."""
        for node in (*self.nodes, self._cluster.head_node):
            self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def fixed_nodes(cpus: int = 0, gpus: int = 0, environment: Mapping[str, str] | None = None) -> Iterator[FixedNodes]:
    """Give a cluster whose head has these logical CPUs and GPUs; end it and whatever runs on it with the body."""
    with _marked(environment or {}) as mark, ExitStack() as at_the_end:
        at_the_end.callback(_end, mark)
        nodes = FixedNodes(cpus, gpus)
        at_the_end.callback(nodes.end)
        at_the_end.callback(_leave)
        yield nodes


@contextmanager
def autoscaling(
    worker: Mapping[str, float],
    most: int,
    *,
    idle_minutes: float = 5.0,
    gates: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Give the address of a cluster whose head has no CPUs and whose autoscaler starts nodes for what asks for room.

    Args:
        worker: resources of a node: {"CPU": 1, "GPU": 2}; its object store is added.
        most: nodes at a time.
        idle_minutes: after which a node without work ends.
        gates: a folder; the n-th node, from 1, starts when it has been asked for and ``gates/n`` is there. None: at once.
        environment: more, for all processes of the cluster.
    """
    with _marked(environment or {}) as mark, tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        # Ray knows the head by it; of hexadecimal digits, and no id that the provider gives to nodes.
        head_id = uuid.uuid4().hex + "0" * 24
        port = _free_port()
        config = _config(worker, most, idle_minutes, head_id, f"127.0.0.1:{port}", gates)
        file = Path(folder, "autoscaler.yaml")
        file.write_text(json.dumps(config))  # which is YAML
        of_the_head = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": head_id,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id,
        }
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--autoscaling-config={file}"),
            *("--num-cpus=0", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"),
        ]
        try:
            started = subprocess.run(
                command, env={**os.environ, **of_the_head}, capture_output=True, text=True, check=False
            )
            assert started.returncode == 0, started.stdout + started.stderr
            yield f"127.0.0.1:{port}"
        finally:
            _leave()
            _end(mark)


def _config(
    worker: Mapping[str, float], most: int, idle_minutes: float, head_id: str, address: str, gates: Path | None
) -> dict[str, Any]:
    """Return what the autoscaler reads. It wants every key, also of commands that are run on no machine of ours."""
    nothing_to_run = (
        *("setup_commands", "initialization_commands", "head_setup_commands", "worker_setup_commands"),
        *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude"),
        "rsync_filter",
    )
    store = {"object_store_memory": OBJECT_STORE_BYTES}
    return {
        "cluster_name": "tests",
        "max_workers": most,
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 10,
        "provider": {
            "type": "external",
            "module": "tests.support.gated_nodes.GatedNodes",
            "gates": str(gates or ""),
            "head_node_id": head_id,
            "gcs_address": address,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            _WORKER_TYPE: {
                "resources": {**worker, **store},
                "node_config": {},
                "min_workers": 0,
                "max_workers": most,
            },
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    } | {name: [] for name in nothing_to_run}


@contextmanager
def _marked(environment: Mapping[str, str]) -> Iterator[str]:
    """Let whatever is started in the body be known by its environment; yield the mark."""
    mark = uuid.uuid4().hex
    path = [str(Path(__file__).parent / "in_workers"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    more = {**environment, _MARK: mark, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield mark
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _leave() -> None:
    """Leave the cluster if this process has joined it."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _end(mark: str) -> None:
    """Kill whatever carries the mark, also what is started meanwhile; not this process."""
    while found := [process for process in psutil.process_iter() if _carries(process, mark)]:
        _kill(found)


def _carries(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error):
        return process.pid != os.getpid() and process.environ().get(_MARK) == mark
    return False


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
