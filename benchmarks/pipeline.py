"""What Ray Data costs and brings: the propose stage against a bare loop over the same actors, and the driver's memory.

    python -m benchmarks.pipeline            three tables; minutes on two cores

Throughput is taken once warm: images after the first finished task, over the time since then, so that neither side pays
for starting processes and loading models. Every row is the median of ``--repeats`` runs, sides alternated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch


def main() -> None:
    """Run every measurement in a process of its own and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160, help="drawn images per throughput run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-images", type=int, nargs=2, default=(200, 2000))
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one measurement, as JSON, for the parent's tables
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(**json.loads(args.measure))))
        return

    cases = [
        ("one process, 1 thread: bare loop", {"mode": "loop", "actors": 1, "threads": 1}),
        ("one actor, 1 thread: Ray Data", {"mode": "ray", "actors": 1, "threads": 1}),
        ("one process, 2 threads: bare loop", {"mode": "loop", "actors": 1, "threads": 2}),
        ("two actors, 1 thread each: Ray Data", {"mode": "ray", "actors": 2, "threads": 1}),
    ]
    print(
        f"\npropose, built-in SAM, 8x8 grid, {args.images} drawn images, {args.repeats} runs, median images/s once warm"
    )
    loop1, ray1, loop2, ray2 = _in_turn(cases, args)
    print(f"  Ray Data / bare loop, 1 thread in all    {ray1 / loop1:.2f}")
    print(f"  Ray Data / bare loop, 2 threads in all   {ray2 / loop2:.2f}")
    print(f"  two actors / one actor                   {ray2 / ray1:.2f}")

    print("\nthe same with clues of a network after one epoch")
    apart, together = _in_turn(
        [
            ("one actor of clues, two of SAM", {"mode": "ray", "actors": 2, "threads": 1, "clues": "apart"}),
            ("two actors of both", {"mode": "ray", "actors": 2, "threads": 1, "clues": "together"}),
        ],
        args,
    )
    print(f"  both in an actor / apart                 {together / apart:.2f}")

    print("\npeak memory of the driver, MiB, 2x2 grid")
    for images in args.memory_images:
        peak = _in_fresh_process(images=images, side=2, mode="ray", actors=2, threads=1)["driver_peak_mib"]
        print(f"  {images:6,} images  {peak:8.0f}")


def _in_turn(cases: list[tuple[str, dict[str, object]]], args: argparse.Namespace) -> list[float]:
    """Measure cases in turn, print how they went, and return the median of each."""
    rates: dict[str, list[float]] = {name: [] for name, _ in cases}
    for repeat in range(args.repeats):
        for name, case in cases if repeat % 2 == 0 else reversed(cases):
            rates[name].append(_in_fresh_process(images=args.images, side=8, **case)["images_per_s"])
    for name, values in rates.items():
        print(f"  {name:38} {statistics.median(values):7.2f}   ({min(values):.2f} to {max(values):.2f})", flush=True)
    return [statistics.median(values) for values in rates.values()]


def _in_fresh_process(**case: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.pipeline", "--measure", json.dumps(case)]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    measured: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def _measure(mode: str, images: int, side: int, actors: int, threads: int, clues: str = "") -> dict[str, float]:
    import resource

    from pipelines.dataflow import passes
    from pipelines.engine.sizes import PoolSizes, pool_sizes
    from pipelines.engine.stage import Options
    from pipelines.recipe.model import load_recipe
    from pipelines.runner import Run
    from pipelines.store.instances import current_instance

    settings = [
        f"data.shapes.train={images}",
        "data.splits=[train]",
        f"prompts.points_per_side={side}",
        f"resources.segment_actors={actors}",
        f"resources.threads_per_actor={threads}",
        "resources.rows_per_task=8",
        "report.gallery_images=0",
    ]
    if clues:
        settings.append("classifier.epochs=1")
    recipe, _ = load_recipe("small" if clues else "grid", settings, "shapes:")

    def sizes(*args: Any) -> PoolSizes:
        return replace(pool_sizes(*args), prompt_actors=0) if clues == "together" else pool_sizes(*args)

    with tempfile.TemporaryDirectory() as out, patch.object(passes, "pool_sizes", sizes):
        if mode == "loop":
            Run(recipe, out).bring(["index"], Options())
            return {"images_per_s": _loop(recipe, out, threads)}
        Run(recipe, out).bring(["propose"], Options())
        instance = current_instance(out, "propose")
        assert instance is not None
        finished = sorted((p.stat().st_mtime, p) for p in Path(instance.folder).glob("part-*.parquet"))
        import pyarrow.parquet as pq

        rows = [pq.ParquetFile(p).metadata.num_rows for _, p in finished]
        rate = sum(rows[1:]) / (finished[-1][0] - finished[0][0])
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images_per_s": rate, "driver_peak_mib": peak_mib}


def _loop(recipe: object, out: str, threads: int) -> float:
    """Run the stage's own operators one after another in this process, without Ray."""
    from pipelines.dataflow.rows import fetch, planned_images
    from pipelines.products.index import Index
    from pipelines.recipe.model import Recipe
    from pipelines.stages.propose.actors import ActorSpec, Prompting, SegmentActor
    from pipelines.stages.propose.stage import STAGE
    from pipelines.store.instances import Instance, current_instance
    from pipelines.store.planned import identify
    from pipelines.store.schemas import PROPOSALS
    from weaksam.config.weights import NO_WEIGHTS

    assert isinstance(recipe, Recipe)
    index, options = current_instance(out, "index"), STAGE.options(recipe, "propose")
    assert index is not None
    assert isinstance(options.method, Prompting)
    images = Index(index).read()
    planned = planned_images(identify(images, ("content",)), images)
    instance = Instance(out, "propose", "loop")
    spec = ActorSpec(
        instance=instance,
        how=options.method,
        clue_weights=NO_WEIGHTS,
        class_names=(),
        threads=threads,
        device="cpu",
    )
    actor, table, rows = SegmentActor(spec), instance.table(PROPOSALS), recipe.resources.rows_per_task
    started, done = 0.0, 0
    for start in range(0, planned.num_rows, rows):
        part = actor(fetch(planned.slice(start, rows), longest_side=128))
        table.write_part(part, f"part-{start}")
        if start:
            done += part.num_rows
        else:
            started = time.perf_counter()
    return done / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
