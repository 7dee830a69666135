"""How long each stage of the recipe ``photos`` takes, and how much memory the whole run.

    python -m benchmarks.photos                                 300 drawings of 500 pixels, of which 240 are learnt from
    python -m benchmarks.photos --data cards/                   any labelled photographs
    python -m benchmarks.photos --set mil.steps=100 --out runs/photos-timed

Memory is the sum over all processes of the run, those of Ray with it; what processes share counts once (proportional set size),
looked at every second. A stage that was finished before is not timed: give another folder to time all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.tables import markdown
from pipelines.products.index import Index
from pipelines.recipe.keys import INDEX
from pipelines.recipe.model import load_recipe
from pipelines.registry import product_of
from pipelines.store.instances import current_instance, finished_instance

_DRAWN = ("data.shapes.size=500", "data.shapes.train=240", "data.shapes.val=0", "data.shapes.test=60")
_LOOK_S = 1.0
_MAIN = "from pipelines.cli.app import main; main()"


def main() -> int:
    """Run the recipe and print the table; return the exit code of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes:")
    parser.add_argument("--out", default="", help="the run folder; default a temporary one")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="settings")
    args = parser.parse_args()
    settings = [*(_DRAWN if args.data == "shapes:" else ()), *args.settings]
    with tempfile.TemporaryDirectory(prefix="weaksam-photos-") as temporary:
        run = str(Path(args.out or temporary).resolve())
        words = [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, "-c", _MAIN, "run", "photos", "--data", args.data, "--out", run, *words]
        started = time.monotonic()
        with subprocess.Popen(command) as process, _peak_of(process.pid) as peak:
            code = process.wait()
        whole_s = time.monotonic() - started
        stages = f"\n{table(run)}\n" if code == 0 else ""
        print(f"{stages}\nwhole run {whole_s / 60:.1f} min, at most {peak[0] / 2**30:.2f} GiB at once")
    return code


def table(run: str) -> str:
    """Return what each finished stage of a run took, in seconds and for each image of the data set."""
    images = sum(Index(finished_instance(run, INDEX)).facts.splits.values())
    lines = []
    for name in load_recipe(f"{run}/recipe.yaml")[0].stages:
        instance = current_instance(run, name)
        if instance is not None and instance.manifest() is not None:
            seconds = product_of(instance).seconds
            lines.append([name, f"{seconds:.1f}", f"{seconds / images:.2f}"])
    total = sum(float(line[1]) for line in lines)
    return markdown(
        ("stage", "s", "s an image"), [*lines, [f"all, {images:,} images", f"{total:.1f}", f"{total / images:.2f}"]]
    )


@contextmanager
def _peak_of(pid: int) -> Iterator[list[int]]:
    """Look at the memory of a process and all below it while the body runs; the list holds the most, in bytes."""
    peak, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            peak[0] = max(peak[0], _memory(pid))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield peak
    finally:
        ended.set()
        looking.join()


def _memory(pid: int) -> int:
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


if __name__ == "__main__":
    sys.exit(main())
