"""Ray's provider of nodes on this machine, for its autoscaler; with gates, a node comes when a test lets it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class GatedNodes(FakeMultiNodeProvider):
    """The n-th node that is asked for, from 1, starts once the file ``gates/n`` is there."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._gates = provider_config["gates"]
        self._asked_for = 0

    def _create_node_with_resources_and_labels(self, *of_the_node: Any) -> None:
        with self.lock:
            self._asked_for += 1
            gate = Path(self._gates, str(self._asked_for))
        if not self._gates:
            super()._create_node_with_resources_and_labels(*of_the_node)
            return
        threading.Thread(target=self._once_open, args=(gate, *of_the_node), daemon=True).start()

    def _once_open(self, gate: Path, *of_the_node: Any) -> None:
        while not gate.exists():
            time.sleep(0.1)
        super()._create_node_with_resources_and_labels(*of_the_node)
