"""The stand-in for actors that hold SAM: it sleeps. Workers, which run this file as their hook, put it in the place of those.

All else is what it is: images are fetched, checked and sent to it, and its rows are written.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# Of the environment of workers.
LOG = (
    "WEAKSAM_SCALE_LOG"  # a folder: each actor writes a file of lines {"at": time.time(), "image_ids": what it begins}
)
ROWS_PER_S = "WEAKSAM_SCALE_ROWS_PER_S"  # of each actor
BOXES = "WEAKSAM_SCALE_BOXES"  # of each row, random ones


class SleepingActor:
    """Like ``SegmentActor``, without its time: a batch takes what its rows are said to take. Never imports torch."""

    def __init__(self, spec: Any, schema: pa.Schema) -> None:  # noqa: ARG002
        import numpy as np

        self._schema = schema
        self._generator = np.random.default_rng()
        self._log = Path(os.environ[LOG], str(os.getpid()))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Sleep, and return random boxes."""
        from benchmarks.store import random_proposals

        until = time.monotonic() + batch.num_rows / float(os.environ[ROWS_PER_S])
        with self._log.open("a") as log:
            print(json.dumps({"at": time.time(), "image_ids": batch["image_id"].to_pylist()}), file=log)
        proposals = random_proposals(batch, int(os.environ[BOXES]), self._schema, self._generator)
        time.sleep(max(0.0, until - time.monotonic()))
        return proposals


def _sleep(actors: ModuleType) -> None:
    from benchmarks.coco_scale import sleeping

    actors.SegmentActor = sleeping.SleepingActor  # type: ignore[attr-defined]


AFTER = {"pipelines.stages.propose.actors": _sleep}
