"""Take nodes, actors, training workers and the driver away from runs, and hold what comes out against undisturbed ones.

    python -m benchmarks.kills                                        100 at all stages and a sweep
    python -m benchmarks.kills --kills 4 --only propose --images 24   4 at one of them
    python -m benchmarks.kills --results docs/RESULTS.md              write the table into a document, too

Each runs on a cluster of two logical nodes of one CPU, on drawn images: once undisturbed, and with kills by SIGKILL whose
kinds, order and victims ``--seed`` decides, from the start as often as it takes for all of them; their moments follow the
run's progress. After a node a fresh one joins within seconds, a driver is started again with the same command. Lost is a row
that the undisturbed run has, dropped an image that it did not drop, differing whatever differs in a bit: rows by image, tensors
of the weights, figures. Nodes are missed after some 3 s instead of Ray's 15. The exit code is 1 if anything is lost, doubled,
dropped or different, or if a driver ended with an error or hung.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.kills.compare import Found, compare
from benchmarks.kills.disturb import WEAKSAM, Told, work
from benchmarks.kills.scenes import IMAGES, PREPARED, RECIPE, SCENES, SWEEP, Kind, Scene
from benchmarks.tables import markdown, write_between_marks


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a scene."""

    scene: Scene
    undisturbed: Told
    disturbed: Told  # of all runs together
    runs: int  # that were disturbed
    found: Found

    @property
    def failed(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.found.wrong or self.undisturbed.failures or self.disturbed.failures)


def main() -> int:
    """Run what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scene.name for scene in SCENES]
    parser.add_argument("--kills", type=int, default=100, help="of all scenes together")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="VERB", help=", ".join(names))
    parser.add_argument("--images", type=int, default=IMAGES, help="that are learnt from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a document whose table is written anew")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave run folders and logs there")
    args = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # read when Ray is imported
    scenes = [scene for scene in SCENES if scene.name in args.only]
    with tempfile.TemporaryDirectory(prefix="weaksam-kills-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = run(scenes, args.kills, args.images, args.seed, folder)
    table = as_table(outcomes)
    print(table)
    for outcome in outcomes:
        for failure in (*outcome.undisturbed.failures, *outcome.disturbed.failures):
            print(f"\n{outcome.scene.name}: a driver ended or hung, and said at last:\n{failure}")
        if outcome.found.first:
            print(f"\n{outcome.scene.name}: {outcome.found.first}")
    print(f"\nseed {args.seed}, {platform.machine()}, {os.cpu_count()} CPUs")
    if args.results:
        write_between_marks(args.results, "kills", table)
    return int(any(outcome.failed for outcome in outcomes))


def run(scenes: list[Scene], kills: int, images: int, seed: int, folder: Path) -> list[Outcome]:
    """Run scenes, each undisturbed and disturbed, with their share of the kills."""
    (folder / "recipe.yaml").write_text(RECIPE.replace("IMAGES", str(images)))
    (folder / "sweep.yaml").write_text(SWEEP.replace("RECIPE", str(folder / "recipe.yaml")))
    prepared = folder / "prepared"
    if any(scene.on_prepared for scene in scenes):
        _prepare(folder, prepared)
    shares = _shares([scene.share for scene in scenes], kills)
    return [_outcome(scene, count, seed, folder, prepared) for scene, count in zip(scenes, shares, strict=True)]


def as_table(outcomes: list[Outcome]) -> str:
    """Return the table in Markdown, with a line for all scenes."""
    head = (
        "at", "kills", "nodes", "actors", "workers", "driver", "runs", "rows", "lost", "doubled", "dropped", "differing",
        "gave up", "undisturbed s", "disturbed s",
    )  # fmt: skip
    lines = [[outcome.scene.name, *_figures([outcome])] for outcome in outcomes] + [["all", *_figures(outcomes)]]
    return markdown(head, lines)


def _figures(outcomes: list[Outcome]) -> list[str]:
    found = sum((outcome.found for outcome in outcomes), Found())
    kills = [outcome.disturbed.kills for outcome in outcomes]
    killed = [sum(of[kind] for of in kills) for kind in ("node", "actor", "worker", "driver")]
    failures = sum(len(o.disturbed.failures) + len(o.undisturbed.failures) for o in outcomes)
    seconds = [
        sum(told.seconds for told in of) for of in zip(*((o.undisturbed, o.disturbed) for o in outcomes), strict=True)
    ]
    runs = sum(outcome.runs for outcome in outcomes)
    counts = [
        sum(killed),
        *killed,
        runs,
        found.rows,
        found.lost,
        found.doubled,
        found.dropped,
        found.differing,
        failures,
    ]
    return [f"{count:,}" for count in counts] + [f"{s:.0f}" for s in seconds]


def _prepare(folder: Path, run: Path) -> None:
    """Make what the scenes read, in one process."""
    command = [
        "run",
        str(folder / "recipe.yaml"),
        "--until",
        PREPARED,
        "--out",
        str(run),
        "--set",
        "resources.here=true",
    ]
    with (folder / "prepare.log").open("w") as log:
        code = subprocess.run([*WEAKSAM, *command], stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        sys.exit((folder / "prepare.log").read_text())


def _shares(weights: list[int], kills: int) -> list[int]:
    """Divide kills by weight; what is left over goes to the first."""
    counts = [kills * weight // sum(weights) for weight in weights]
    counts[0] += kills - sum(counts)
    return counts


def _outcome(scene: Scene, kills: int, seed: int, folder: Path, prepared: Path) -> Outcome:
    random = Random(f"{seed} {scene.name}")
    what = "sweep.yaml" if scene.name == "tune" else "recipe.yaml"
    settings = [word for setting in scene.settings for word in ("--set", setting)]
    arguments = [scene.command[0], str(folder / what), *scene.command[1:], *settings]

    def drive(name: str, kills: Sequence[Kind]) -> Told:
        run = folder / name
        if scene.on_prepared:
            shutil.copytree(prepared, run)
        told = work(scene, arguments, run, folder / f"{name}.log", kills, random)
        how = f"{sum(told.kills.values())} of {len(kills)} kills" if kills else "undisturbed"
        print(f"{scene.name}: {how}, {told.seconds:.0f} s", file=sys.stderr, flush=True)
        return told

    whole = f"{scene.name}-undisturbed"
    undisturbed = drive(whole, ())
    planned, disturbed, found, runs = scene.plan(kills, random), Told(), Found(), 0
    while True:
        name = f"{scene.name}-disturbed-{runs}"
        told = drive(name, planned[sum(disturbed.kills.values()) :])
        disturbed, found, runs = disturbed + told, found + compare(folder / whole, folder / name), runs + 1
        if told.failures or not told.kills or sum(disturbed.kills.values()) == kills:
            return Outcome(scene=scene, undisturbed=undisturbed, disturbed=disturbed, runs=runs, found=found)


if __name__ == "__main__":
    sys.exit(main())
