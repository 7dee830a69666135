"""Table 5: what adaptive pseudo ground truth and the drop losses add, on drawn images, against training on true boxes.

    python -m benchmarks.table5 --out runs/table5                        Faster R-CNN, 3 to 8 seeds
    python -m benchmarks.table5 --out runs/table5 --detector dino        DINO, 3 seeds

top-1, adaptive, adaptive + drop and true boxes, from the same MIST detections, on 2,000 test images (``recipes/table5.yaml``).
Run it again to continue. Published on VOC 2007: 68.4, 70.7, 71.8 (Faster R-CNN) and 71.1, 72.8, 73.4 (DINO).
"""

from __future__ import annotations

import argparse

from rich.console import Console

from benchmarks.paired import FEWEST_SEEDS, PATIENT, Cell, add_arguments, report, run_cells
from pipelines.exchange.true_boxes import run_export_true_boxes
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from weaksam.io.files import absolute

TRUTH = "true-boxes"
PAIRS = [("top-1", "adaptive"), ("adaptive", "adaptive + drop"), ("adaptive + drop", "true boxes")]
MOST_SEEDS = {"faster_rcnn": 8, "dino": FEWEST_SEEDS}  # a cell of DINO takes several times as long


def main() -> None:
    """Run the cells that are not finished and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/table5", help="run folder")
    parser.add_argument("--detector", default="faster_rcnn", choices=list(MOST_SEEDS))
    parser.add_argument("--seeds", type=int, default=0, help="at most; 0 = 8 for Faster R-CNN, 3 for DINO")
    add_arguments(parser)
    args = parser.parse_args()
    console, out = Console(soft_wrap=True), absolute(args.out)
    recipe = "table5" if args.detector == "faster_rcnn" else "table5-dino"
    Run(load_recipe(recipe)[0], out).bring(["index"], PATIENT, console)
    run_export_true_boxes(out, name=TRUTH)
    results = run_cells(
        cells_of(args.detector),
        PAIRS,
        recipe=recipe,
        run_uri=out,
        most_seeds=args.seeds or MOST_SEEDS[args.detector],
        half_width=args.half_width,
        split="test",
        cpus=args.cpus,
        console=console,
    )
    for table in report(results, PAIRS, f"Table 5 on drawn images, {args.detector}, AP in %, ± largest minus smallest"):
        console.print(table)


def cells_of(detector: str) -> list[Cell]:
    """Return the four cells of a detector; the bound comes first, for it says whether the detector learns at all."""
    off, on = (f"retrain.{detector}.drop.enabled={enabled}" for enabled in ("false", "true"))
    return [
        Cell(name="true boxes", overrides=(f"retrain.learn_from=true-boxes.{TRUTH}", off)),
        Cell(name="top-1", overrides=("pseudo_labels.mode=top1", off)),
        Cell(name="adaptive", overrides=(off,)),
        Cell(name="adaptive + drop", overrides=(on,)),
    ]


if __name__ == "__main__":
    main()
