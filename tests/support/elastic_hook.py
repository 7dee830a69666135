"""What the workers of ``tests.pipelines.test_elastic`` do beside their work; run by ``tests.support.in_workers``.

Each image that an actor computes is a line in a file named by the node and the GPU, in the folder that ``LOG`` names. Other
variables of the environment, of a cluster or of one of its nodes, say what goes wrong.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from pathlib import Path
from typing import Any

LOG = "WEAKSAM_TEST_LOG"  # a folder
PLACES = "WEAKSAM_TEST_PLACES"  # so many (node, GPU) must be at work before any of them finishes its third image
DEADLY = "WEAKSAM_TEST_DEADLY"  # the image that kills the process that computes it
GREEDY = "WEAKSAM_TEST_GREEDY"  # the image that takes memory until its process is killed
NO_WEIGHTS = "WEAKSAM_TEST_NO_WEIGHTS"  # "1": SAM's weights are missing here

_FREE = 2  # images of each place that wait for no other


def _around_images(rows: Any) -> None:
    guarded = rows.guarded

    @functools.wraps(guarded)
    def noted(work: Any, row: dict[str, Any], *rest: Any) -> Any:
        image_id = row["image_id"]
        if image_id == os.environ.get(DEADLY):
            os.kill(os.getpid(), signal.SIGKILL)
        if image_id == os.environ.get(GREEDY):
            _take_memory()
        log = Path(os.environ[LOG])
        place = log / _place()
        with place.open("a") as file:
            file.write(f"{image_id}\n")
        if len(place.read_text().splitlines()) > _FREE:
            while len(list(log.iterdir())) < int(os.environ.get(PLACES, 1)):
                time.sleep(0.05)
        return guarded(work, row, *rest)

    rows.guarded = noted


def _place() -> str:
    import ray

    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"{ray.get_runtime_context().get_node_id()} {gpu}"


def _take_memory() -> None:
    taken = []
    while True:
        taken.append(b"x" * 2**27)
        time.sleep(0.05)  # the monitor looks every quarter of a second


def _without_weights(load: Any) -> None:
    if os.environ.get(NO_WEIGHTS) != "1":
        return

    def missing(*arguments: Any, **named: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", "/nowhere/sam.safetensors")

    load.load_sam = missing


AFTER = {"pipelines.dataflow.rows": _around_images, "weaksam.sam.load": _without_weights}
