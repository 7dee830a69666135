"""One cluster of logical GPUs that sleep: a run over all rows, one whose driver is killed at half, and new rows.

Images are hard links to a few files, so that each is a picture of its own to the data set, to the index and to ``propose``.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.coco_scale import sleeping
from benchmarks.kills.disturb import QUIET, WEAKSAM
from tests.support.cluster import WORKER_HOOK, fixed_nodes

PICTURES = 100  # files; all images are links to them
GPUS_PER_NODE = 8
CPUS_PER_NODE = 1  # logical; reading and writing tasks take a tenth each
_SIDE = 128  # pixels
_LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much there is to do, and how fast."""

    rows: int
    new: int  # rows that come when those are done
    rows_per_s: float  # of all actors together
    boxes: int  # of each row


@dataclass(frozen=True, kw_only=True)
class Life:
    """A driver's, from its start to its end."""

    seconds: float
    rss_mib: Sequence[float]  # twice a second

    @property
    def peak_mib(self) -> float:
        """The most memory that was seen."""
        return max(self.rss_mib)

    def quarter_mib(self, quarter: int) -> float:
        """Return the mean memory in a quarter of its life, 0 to 3."""
        count = len(self.rss_mib)
        return mean(self.rss_mib[count * quarter // 4 : count * (quarter + 1) // 4] or self.rss_mib)


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """How a run went on whose driver was killed when half of the rows were written."""

    twice: int  # rows that were written and were begun again
    until_first_s: float  # from the second start until an actor begins on an image that was left
    wrong: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of a plan on so many GPUs."""

    gpus: int
    plan: Plan
    index_s: float
    whole: Life
    files: int  # of rows
    resumed: Resumed
    new_s: float  # of the command that finds and does the new rows
    wrong: Sequence[str]

    @property
    def needed_s(self) -> float:
        """What the actors' sleeping takes at full use."""
        return self.plan.rows / self.plan.rows_per_s

    @property
    def beside_s(self) -> float:
        """What the run takes beside it."""
        return self.whole.seconds - self.needed_s

    @property
    def beside(self) -> float:
        """The same as a share of the run's time."""
        return self.beside_s / self.whole.seconds


def measure(gpus: int, plan: Plan, folder: Path) -> Measured:
    """Run everything on a cluster of its own; leave run folders and logs in a folder."""
    with scene(gpus, plan, folder) as on:
        run = folder / "whole"
        indexed, whole = on.drive("index", run), on.drive("propose", run)
        files, wrong = len(_parts(run)), _wrong(run, plan.rows)
        resumed = on.resumed()
        on.link(range(plan.rows, plan.rows + plan.new))
        before = on.actors()
        new = on.drive("propose", run)
        wrong += _wrong(run, plan.rows + plan.new)
        done = sum(len(ids) for _, ids in on.begun(before))
        wrong += [f"{done:,} rows done for {plan.new:,} new ones"] * (done != plan.new)
    return Measured(
        gpus=gpus,
        plan=plan,
        index_s=indexed.seconds,
        whole=whole,
        files=files,
        resumed=resumed,
        new_s=new.seconds,
        wrong=[*wrong, *resumed.wrong],
    )


@contextmanager
def scene(gpus: int, plan: Plan, folder: Path) -> Iterator[Scene]:
    """Give a cluster and its images; run folders and logs are left in a folder."""
    log = folder / "actors"
    log.mkdir(parents=True)
    environment = {
        **QUIET,
        WORKER_HOOK: sleeping.__file__,
        sleeping.LOG: str(log),
        sleeping.ROWS_PER_S: str(plan.rows_per_s / gpus),
        sleeping.BOXES: str(plan.boxes),
    }
    with fixed_nodes(environment=environment) as nodes:
        for first in range(0, gpus, GPUS_PER_NODE):
            nodes.add(cpus=CPUS_PER_NODE, gpus=min(GPUS_PER_NODE, gpus - first))
        yield Scene(plan, folder, log, nodes.address)


class Scene:
    """Drivers on a cluster of sleeping GPUs."""

    def __init__(self, plan: Plan, folder: Path, log: Path, address: str) -> None:
        self._plan = plan
        self._folder = folder
        self._log = log
        self._address = address
        self._pictures = folder / "pictures"
        self._sources = [folder / f"picture-{n}.jpg" for n in range(PICTURES)]
        self._pictures.mkdir()
        generator = np.random.default_rng(0)
        for source in self._sources:
            coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(source)
        self.link(range(plan.rows))

    def link(self, numbers: range) -> None:
        """Add images of these numbers."""
        for number in numbers:
            os.link(self._sources[number % PICTURES], self._pictures / f"{number:012}.jpg")

    def resumed(self) -> Resumed:
        """Kill a driver at half, and start another one."""
        run = self._folder / "killed"
        self.drive("index", run)
        self.drive("propose", run, enough=_Written(run, self._plan.rows // 2))
        there, before, again = set(_ids(run)), self.actors(), time.time()
        self.drive("propose", run)
        begun = list(self.begun(before))
        return Resumed(
            twice=len(there & {image_id for _, ids in begun for image_id in ids}),
            until_first_s=min((at for at, _ in begun), default=math.inf) - again,
            wrong=_wrong(run, self._plan.rows) + ["killed: it was through before"] * (not begun),
        )

    def actors(self) -> set[Path]:
        """Return what the actors write that have begun something, one file each."""
        return set(self._log.iterdir())

    def begun(self, before: set[Path]) -> Iterator[tuple[float, list[str]]]:
        """Yield when other actors than those before began batches (``time.time()``), and of which images.

        Those of a driver that was killed may begin one more while they are told.
        """
        for file in self.actors() - before:
            for line in map(json.loads, file.read_text().splitlines()):
                yield line["at"], line["image_ids"]

    def drive(self, verb: str, run: Path, enough: Callable[[], bool] = lambda: False) -> Life:
        """Run a command to its end, or kill its driver when it is enough."""
        arguments = ["grid", "--data", str(self._pictures), "--out", str(run), "--address", self._address]
        log, memory, started = Path(f"{run}.log"), [], time.monotonic()
        with log.open("ab") as file:
            settings = ["--set", "resources.device=gpu"]
            driver = subprocess.Popen([*WEAKSAM, verb, *arguments, *settings], stdout=file, stderr=subprocess.STDOUT)
        try:
            while driver.poll() is None:
                with suppress(psutil.Error):
                    memory.append(psutil.Process(driver.pid).memory_info().rss / 2**20)
                if enough():
                    return Life(seconds=time.monotonic() - started, rss_mib=memory)
                with suppress(subprocess.TimeoutExpired):
                    driver.wait(_LOOK_S)
        finally:
            driver.kill()
            driver.wait()
        if driver.returncode:
            words = "\n".join(log.read_text(errors="replace").strip().splitlines()[-8:])
            raise SystemExit(f"weaksam {verb} ended with {driver.returncode}, and said at last:\n{words}")
        return Life(seconds=time.monotonic() - started, rss_mib=memory)


class _Written:
    """Whether a run has written so many rows."""

    def __init__(self, run: Path, rows: int) -> None:
        self._run = run
        self._rows = rows
        self._known: dict[Path, int] = {}

    def __call__(self) -> bool:
        for part in _parts(self._run):
            if part not in self._known:
                self._known[part] = pq.read_metadata(part).num_rows
        return sum(self._known.values()) >= self._rows


def _parts(run: Path) -> list[Path]:
    return sorted(run.glob("propose/*/part-*.parquet"))


def _ids(run: Path) -> list[str]:
    return [i for part in _parts(run) for i in pq.ParquetFile(part).read(["image_id"])["image_id"].to_pylist()]


def _wrong(run: Path, rows: int) -> list[str]:
    """Return what is wrong with the rows of a finished run."""
    ids = _ids(run)
    there = f"{run.name}: {len(ids):,} rows of {len(set(ids)):,} images for {rows:,}"
    return [] if len(ids) == len(set(ids)) == rows else [there]
