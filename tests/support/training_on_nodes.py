"""A toy training on a cluster of its own whose nodes come and go, as a program: a process joins one Ray. FOLDER SCENARIO"""

import sys
import threading
import time
from pathlib import Path

import ray

from pipelines.engine.voice import Words, plain
from pipelines.training.loop import run_training
from pipelines.training.task import TrainingResources
from tests.support.cluster import FixedNodes, fixed_nodes
from tests.support.patience import wait_until
from tests.support.toy_training import ToyTask

TASK = ToyTask(count=20, epochs=4, batch_size=4, step_s=0.1, batch_norm=False)
SCENARIOS = {  # nodes at the start, workers at least
    "fewer": (2, 1),  # one node is lost, and does not come back
    "back": (2, 2),  # one is lost, and another one comes once it is missed
    "none": (0, 2),  # none ever comes
}


def disturb(nodes: FixedNodes, folder: Path, scenario: str, said: list[str]) -> None:
    wait_until(lambda: list(folder.glob("run/step-*.pt")))
    nodes.lose(nodes.nodes[0])
    if scenario == "back":
        wait_until(lambda: any("waiting for room, " in line for line in said))
        nodes.add(cpus=1)


def main(folder: Path, scenario: str) -> None:
    number, least = SCENARIOS[scenario]
    said: list[str] = []
    began = time.monotonic()

    def say(words: Words) -> None:
        line = plain([words])
        said.append(line)
        print(f"{time.monotonic() - began:.0f} s: {line}", flush=True)  # noqa: T201

    with fixed_nodes() as nodes:
        for _ in range(number):
            nodes.add(cpus=1)
        ray.init(address=nodes.address, log_to_driver=False)
        if number:
            threading.Thread(target=disturb, args=(nodes, folder, scenario, said), daemon=True).start()
        resources = TrainingResources(workers=2, least_workers=least, checkpoint_every=1)
        try:
            result = run_training(TASK, storage_uri=str(folder), run_name="run", resources=lambda: resources, say=say)
            say(result.text)
        except KeyboardInterrupt:
            say("interrupted")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
