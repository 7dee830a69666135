"""Does RoI drop help where labels are wrong? True boxes with a known share of noise, drop off and on.

    python -m benchmarks.noise --out runs/noise

10, 30 and 50 % of the boxes are in a wrong place, of a wrong class or missing, in equal thirds (``pseudo_labels.noise``).
Faster R-CNN is trained with the drop off and on, seed by seed, and tested on 2,000 images (``recipes/table5.yaml``). The
drop's precision is the share of dropped regions whose label is wrong, at the step where it begins (``analyse.noise``). Run
it again to continue.
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table as TextTable

from benchmarks.paired import PATIENT, Cell, add_arguments, report, resources, run_cells
from pipelines.exchange.true_boxes import run_export_true_boxes
from pipelines.products.measured import Analysis
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from weaksam.io.files import absolute

RECIPE = "table5"
SHARES = (0.1, 0.3, 0.5)


def main() -> None:
    """Run the cells that are not finished and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/noise", help="run folder; that of benchmarks.table5 will do")
    parser.add_argument("--seeds", type=int, default=8, help="at most")
    add_arguments(parser)
    args = parser.parse_args()
    console, out = Console(soft_wrap=True), absolute(args.out)
    Run(load_recipe(RECIPE)[0], out).bring(["index"], PATIENT, console)
    cells, pairs = [], []
    for share in SHARES:
        name = f"noise-{share:.0%}".rstrip("%")
        run_export_true_boxes(out, name=name, noise=share)
        off, on = (
            Cell(
                name=f"{share:.0%} noise, drop {state}",
                overrides=(f"retrain.learn_from=true-boxes.{name}", f"retrain.faster_rcnn.drop.enabled={enabled}"),
            )
            for state, enabled in (("off", "false"), ("on", "true"))
        )
        cells += [off, on]
        pairs.append((off.name, on.name))
    results = run_cells(
        cells,
        pairs,
        recipe=RECIPE,
        run_uri=out,
        most_seeds=args.seeds,
        half_width=args.half_width,
        split="test",
        cpus=args.cpus,
        console=console,
    )
    for table in report(results, pairs, "RoI drop on noisy true boxes, AP in %, ± largest minus smallest"):
        console.print(table)
    console.print(precision_of(cells[1::2], out, args.cpus, console))


def precision_of(cells: list[Cell], run_uri: str, cpus: int, console: Console) -> TextTable:
    """Measure what the drop drops at its first step, with seed 0."""
    text = TextTable(title="What RoI drop drops of sampled regions, seed 0", title_justify="left")
    for name in ("", "regions", "wrong", "dropped", "wrong among dropped", "dropped among wrong"):
        text.add_column(name, justify="right" if name else "left")
    for cell in cells:
        recipe, _ = load_recipe(RECIPE, [*cell.overrides, "retrain.seed=0", *resources(cpus)])
        Run(recipe, run_uri).bring(["analyse.noise"], PATIENT, console)
        drop = Analysis(Run(recipe, run_uri).instance("analyse.noise")).read()["drop"]
        for kind, n in drop.items():
            text.add_row(
                f"{cell.name}, {kind}",
                f"{n['regions']:,}",
                f"{n['wrong'] / max(n['regions'], 1):.1%}",
                f"{n['dropped'] / max(n['regions'], 1):.1%}",
                f"{n['wrong_dropped'] / n['dropped']:.1%}" if n["dropped"] else "–",
                f"{n['wrong_dropped'] / n['wrong']:.1%}" if n["wrong"] else "–",
            )
    return text


if __name__ == "__main__":
    main()
