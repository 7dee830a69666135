"""The files that a training leaves behind: checkpoints by step number, scalars for curves and progress, TensorBoard events.

The same with and without Ray, on a disk and in a bucket: written all or nothing; the newest checkpoint that reads back
counts. They hold tensors and plain values, never pickled objects. Ray Train's own manager is not used: it keeps its list of
checkpoints in a file that it overwrites in place and that only the same Ray version reads, so that a kill at the wrong
moment, or an upgrade, would end a run for good.

No process holds a checkpoint twice: it is written tensor by tensor, and read mapped, so that a tensor is in memory from when
somebody looks at it.
"""

from __future__ import annotations

import json
import logging
import posixpath
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tensorboardX import SummaryWriter

from pipelines.store.files import on_disk, set_aside, write_bytes, write_large
from pipelines.training.task import Progress, TrainingPlan
from weaksam.errors import CheckpointError, RunError
from weaksam.io.files import join, open_fs
from weaksam.io.state_dicts import read_pickled

logger = logging.getLogger(__name__)

SCALARS = "_scalars.jsonl"
EVENTS = "events.out.tfevents"  # names that TensorBoard looks for; the last step follows

_KEPT = 2
_HELD = frozenset({"plan", "step", "model", "optimizers", "scaler", "best", "skipped"})  # of a checkpoint


class Checkpoints:
    """The checkpoints of one training: files ``step-00000120.pt``, of which the newest two and the plan's ``keep`` stay."""

    def __init__(self, folder: str, plan: TrainingPlan) -> None:
        self.folder = folder
        self._plan = asdict(plan)
        self._kept = {_name(step) for step in plan.keep}

    def newest(self) -> dict[str, Any] | None:
        """Return the state of the newest checkpoint that reads back, mapped, or None: what is to stay must be copied.

        Raises:
            RunError: it belongs to a training of another plan.
        """
        return self._newest({})

    def recover(self) -> int:
        """Return the steps of ``newest``, 0 for none, after moving those after it away. Only for the holder of the lock."""
        damaged: dict[str, str] = {}
        state = self._newest(damaged)
        set_aside(self.folder, damaged)
        return 0 if state is None else int(state["step"])

    def steps_done(self) -> int:
        """Return the number of steps that the newest checkpoint has done, by its name; 0 without any."""
        return max(map(_step, self._paths()), default=0)

    def _newest(self, damaged: dict[str, str]) -> dict[str, Any] | None:
        for path in reversed(self._paths()):
            try:
                state = _load(join(self.folder, posixpath.basename(path)))
            except CheckpointError as error:
                damaged[posixpath.basename(path)] = str(error)
                continue
            return self._of_this_plan(state, path)
        return None

    def at(self, step: int) -> dict[str, Any]:
        """Return the state after ``step`` steps, one of the plan's ``keep``.

        Raises:
            RunError: there is none that reads back.
        """
        path = join(self.folder, _name(step))
        try:
            state = _load(path)
        except (FileNotFoundError, CheckpointError) as error:
            raise RunError(
                f"{path}: expected a checkpoint of step {step:,} that reads back: {error}. To train again, delete the folder "
                "of the stage instance that this one is in, and run its command again"
            ) from error
        return self._of_this_plan(state, path)

    def _of_this_plan(self, state: dict[str, Any], path: str) -> dict[str, Any]:
        if state["plan"] != self._plan:
            raise RunError(
                f"{path}: expected a checkpoint of the plan {self._plan}, got one of {state['plan']}; delete "
                f"{self.folder} to train afresh"
            )
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint of ``state["step"]``, all or nothing, and delete old ones."""
        whole = {**state, "plan": self._plan}
        write_large(join(self.folder, _name(state["step"])), lambda file: torch.save(whole, file))
        fs, _ = open_fs(self.folder)
        for path in self._paths()[:-_KEPT]:
            if posixpath.basename(path) not in self._kept:
                fs.rm_file(path)

    def _paths(self) -> list[str]:
        return [path for path in _files(self.folder, "step-") if path.endswith(".pt")]


def _name(step: int) -> str:
    return f"step-{step:08d}.pt"


def _step(path: str) -> int:
    return int(posixpath.basename(path).removeprefix("step-").removesuffix(".pt"))


def _load(uri: str) -> dict[str, Any]:
    """Read a checkpoint, mapped: of a bucket's the copy that it lies in has no name any more, and goes with the tensors."""
    name = posixpath.basename(uri)
    try:
        with on_disk(uri) as path:
            state = read_pickled(path, name, expected="a training's state", mapped=True)
    except IsADirectoryError as error:
        raise CheckpointError(f"{name}: expected a training's state, found a folder") from error
    if not isinstance(state, dict) or not state.keys() >= _HELD:
        raise CheckpointError(f"{name}: expected a training's state ({', '.join(sorted(_HELD))}), got something else")
    return state


def read_scalars(folder: str) -> list[Progress]:
    """Return the rows written so far, in step order; empty before the first. Lines that are damaged are left out and said."""
    uri = join(folder, SCALARS)
    fs, path = open_fs(uri)
    fs.invalidate_cache()
    try:
        lines = fs.cat_file(path).splitlines()
    except FileNotFoundError:
        return []
    rows, damaged = [], 0
    for line in lines:
        try:
            rows.append(Progress(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            damaged += 1
    if damaged:
        logger.warning("%s: left %d damaged line(s) of %d out; curves lack them", uri, damaged, len(lines))
    return rows


def write_scalars(folder: str, rows: Sequence[Progress]) -> None:
    """Write all rows, replacing the file: buckets cannot append."""
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    write_bytes(join(folder, SCALARS), lines.encode())


def write_events(folder: str, rows: Sequence[Progress]) -> None:
    """Write the rows that no event file holds yet into a further one, for ``tensorboard --logdir`` on any folder above.

    TensorBoard follows a growing folder but no file that is replaced, so files are never touched again. Each is named by its
    last step, which is how a resumed training knows what is there already and draws no step twice.
    """
    written = max((int(path.rsplit(".", 1)[1]) for path in _files(folder, EVENTS)), default=0)
    new = [row for row in rows if row.step > written]
    if not new:
        return
    with tempfile.TemporaryDirectory() as scratch:
        with SummaryWriter(scratch) as writer:
            for row in new:
                parts = {f"loss/{name}": value for name, value in row.losses.items()}
                parts |= {f"count/{name}": value for name, value in row.counts.items()}
                for tag, value in {"loss": row.loss, **parts, "lr": row.lr, "images_per_s": row.images_per_s}.items():
                    writer.add_scalar(tag, value, row.step)
        (events,) = Path(scratch).iterdir()
        write_bytes(join(folder, f"{EVENTS}.{new[-1].step:08d}"), events.read_bytes())


def _files(folder: str, prefix: str) -> list[str]:
    """Return the paths of the folder's files of that prefix, sorted; empty when there is no folder."""
    fs, root = open_fs(folder)
    fs.invalidate_cache()
    if not fs.exists(root):
        return []
    names = (posixpath.basename(path) for path in fs.ls(root, detail=False))
    return sorted(posixpath.join(root, name) for name in names if name.startswith(prefix))
