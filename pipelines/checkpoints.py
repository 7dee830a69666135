"""The files that a training leaves behind: checkpoints by step number, and scalars for curves and progress.

The same with and without Ray, on a disk and in a bucket: written all or nothing; the newest checkpoint that reads back
counts. They hold tensors and plain values, never pickled objects. Ray Train's own manager is not used: it keeps its list of
checkpoints in a file that it overwrites in place and that only the same Ray version reads, so that a kill at the wrong
moment, or an upgrade, would end a run for good.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import posixpath
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from pipelines.store import write_bytes
from pipelines.training import Progress, TrainingPlan
from weaksam.errors import RunError
from weaksam.files import join, open_fs

logger = logging.getLogger(__name__)

SCALARS = "_scalars.jsonl"

_KEPT = 2


class Checkpoints:
    """The checkpoints of one training: files ``step-00000120.pt``, of which the newest two are kept."""

    def __init__(self, folder: str, plan: TrainingPlan) -> None:
        self.folder = folder
        self._plan = asdict(plan)

    def newest(self) -> dict[str, Any] | None:
        """Return the state of the newest checkpoint that reads back, on the CPU, or None.

        Raises:
            RunError: it belongs to a training of another plan.
        """
        fs, _ = open_fs(self.folder)
        for path in reversed(self._paths()):
            try:
                state: dict[str, Any] = torch.load(io.BytesIO(fs.cat_file(path)), map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                logger.warning("%s does not read back (%s); taking the one before", path, error)
                continue
            if state["plan"] != self._plan:
                raise RunError(f"{path}: expected a checkpoint of the plan {self._plan}, got one of {state['plan']}")
            return state
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint of ``state["step"]``, all or nothing, and delete old ones."""
        buffer = io.BytesIO()
        torch.save({**state, "plan": self._plan}, buffer)
        write_bytes(join(self.folder, f"step-{state['step']:08d}.pt"), buffer.getvalue())
        fs, _ = open_fs(self.folder)
        for path in self._paths()[:-_KEPT]:
            fs.rm_file(path)

    def _paths(self) -> list[str]:
        fs, root = open_fs(self.folder)
        fs.invalidate_cache()
        if not fs.exists(root):
            return []
        names = (posixpath.basename(path) for path in fs.ls(root, detail=False))
        return sorted(posixpath.join(root, name) for name in names if name.startswith("step-") and name.endswith(".pt"))


def read_scalars(folder: str) -> list[Progress]:
    """Return the rows written so far, in step order; empty before the first."""
    fs, path = open_fs(join(folder, SCALARS))
    fs.invalidate_cache()
    try:
        lines = fs.cat_file(path).decode().splitlines()
    except FileNotFoundError:
        return []
    return [Progress(**json.loads(line)) for line in lines]


def write_scalars(folder: str, rows: Sequence[Progress]) -> None:
    """Write all rows, replacing the file: buckets cannot append."""
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    write_bytes(join(folder, SCALARS), lines.encode())
