"""Looking up the proposals of an image, as loaders of a training and actors of ``detect`` do, in several processes of a node.

    python -m benchmarks.proposal_boxes           118,287 images of 200 boxes, two processes; a minute on two cores

The table is written by ``Table``, in parts of 64 images. Each process opens the boxes and looks all images up in another order;
one is first, and finds no file in the node's cache. Memory of its own is what no file backs; whole memory also counts mapped
files, which all processes share and the operating system may drop at any time. Lookups are measured in time of the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES_PER_PART = 64


def main() -> None:
    """Write the table, let processes read it, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=200, help="per image")
    parser.add_argument("--processes", type=int, default=2, help="that look up at the same time, after the first")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk of the table and of the cache")
    parser.add_argument("--read", help=argparse.SUPPRESS)  # what one process measures of this table, as JSON
    args = parser.parse_args()
    if args.read:
        print(json.dumps(_read(args.read)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        table = str(Path(folder, "table"))
        _write(table, args.images, args.boxes)
        print(f"{args.images:,} images of {args.boxes} boxes")
        print(
            f"{'':12}{'s to open':>10}{'ms to open, per image':>23}{'us per lookup':>15}{'own MiB':>9}{'whole MiB':>11}"
        )
        for names in (["the first"], [f"one of {args.processes}"] * args.processes):
            command = [sys.executable, "-m", "benchmarks.proposal_boxes", "--read", table]
            environment = {**os.environ, "WEAKSAM_CACHE": str(Path(folder, "cache"))}
            started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in names]
            for name, process in zip(names, started, strict=True):
                found = json.loads(process.communicate()[0])
                print(
                    f"{name:12}{found['open_s']:10.2f}{1e3 * found['open_s'] / args.images:23.4f}"
                    f"{found['lookup_us']:15.2f}{found['own_mib']:9.0f}{found['whole_mib']:11.0f}"
                )


def _write(folder: str, images: int, boxes: int) -> None:
    import numpy as np
    import pyarrow as pa

    from benchmarks.store import random_proposals
    from pipelines.store.schemas import PROPOSALS
    from pipelines.store.tables import Table

    table, generator = Table(folder, PROPOSALS), np.random.default_rng(0)
    for first in range(0, images, IMAGES_PER_PART):
        ids = [f"train-{n:07}" for n in range(first, min(first + IMAGES_PER_PART, images))]
        alone = pa.table({"image_id": ids, "input": ids})
        table.write_part(random_proposals(alone, boxes, PROPOSALS, generator), f"part-{first:07}")


def _read(folder: str) -> dict[str, float]:
    import pyarrow.compute  # noqa: F401  # what imports take is not of the boxes

    from pipelines.products.proposal_boxes import ProposalBoxes
    from pipelines.store.schemas import PROPOSALS
    from pipelines.store.tables import Table

    own_mib, whole_mib = _memory_mib()
    started = time.perf_counter()
    boxes = ProposalBoxes(Table(folder, PROPOSALS))
    open_s = time.perf_counter() - started
    image_ids = list(boxes)
    random.Random(os.getpid()).shuffle(image_ids)
    started, total = time.process_time(), 0.0
    for image_id in image_ids:
        total += float(boxes[image_id][0, 0])
    lookup_us = 1e6 * (time.process_time() - started) / len(image_ids)
    del image_ids
    own_after_mib, whole_after_mib = _memory_mib()
    return {
        "open_s": open_s,
        "lookup_us": lookup_us,
        "own_mib": own_after_mib - own_mib,
        "whole_mib": whole_after_mib - whole_mib,
    }


def _memory_mib() -> tuple[float, float]:
    """Return this process's anonymous and resident memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(value.split()[0]) for name, value in (line.split(":", 1) for line in lines)}
    return kib["Anonymous"] / 1024, kib["Rss"] / 1024


if __name__ == "__main__":
    main()
