"""As many rows as COCO train2017 has images through ``propose``, on logical GPUs that sleep; and what the real ones would cost.

    python -m benchmarks.coco_scale                                        1, 8 and 32 GPUs, 80 rows a second: 3 hours
    python -m benchmarks.coco_scale --rows 2000 --gpus 1 4                 minutes
    python -m benchmarks.coco_scale … --results docs/RESULTS.md            write the tables into a document, too
    python -m benchmarks.coco_scale … --seconds-per-image 1.5 --price MACHINE GPUS DOLLARS DATE

Nodes of up to 8 logical GPUs and one logical CPU run on this machine. Actors sleep, so that all together do ``--rate`` rows a
second, and give each row ``--boxes`` random boxes; the data set is hard links to 100 small JPEGs; all else is ``weaksam index``
and ``weaksam propose``. *Beside* is how much longer the command takes, from start to end, than the sleeping at full use; the
driver's memory is its resident set; a second run's driver is killed when half of the rows are written. The exit code is 1
if rows are lost, doubled or done twice.

Hours and dollars are arithmetic: images x seconds per image / GPUs, plus the time beside. Seconds per image are yours, stated
or from a run of your own; so are the prices, which change by the hour and of which this program knows none: each says its day.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from benchmarks.coco_scale.cost import COCO_TRAIN2017, Price, hours, measured_seconds_per_image
from benchmarks.coco_scale.scene import Measured, Plan, measure
from benchmarks.tables import markdown, write_between_marks


def main() -> int:
    """Run what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 32], metavar="N", help="logical, one run each")
    parser.add_argument("--rows", type=int, default=COCO_TRAIN2017)
    parser.add_argument("--new", type=int, default=1_000, help="rows that come afterwards")
    parser.add_argument("--rate", type=float, default=80.0, help="rows a second, of all actors together")
    parser.add_argument("--boxes", type=int, default=200, help="of each row")
    parser.add_argument("--results", type=Path, help="a document whose tables are written anew")
    parser.add_argument("--folder", type=Path, help="on the disk where runs are written")
    seconds = parser.add_mutually_exclusive_group()
    seconds.add_argument("--seconds-per-image", type=float, metavar="S", help="of one GPU")
    seconds.add_argument("--measured", nargs=2, metavar=("RUN", "GPUS"), help="a run folder, and on how many GPUs")
    price = ("MACHINE", "GPUS", "DOLLARS", "DATE")
    parser.add_argument("--price", nargs=4, action="append", default=[], metavar=price, help="of a machine-hour")
    args = parser.parse_args()
    prices = [
        Price(machine=machine, gpus=int(gpus), dollars_per_hour=float(dollars), on=date.fromisoformat(day))
        for machine, gpus, dollars, day in args.price
    ]
    per_image = args.seconds_per_image
    if args.measured:
        per_image = measured_seconds_per_image(args.measured[0], int(args.measured[1]))
    os.environ["RAY_AUTH_MODE"] = "disabled"  # read when Ray is imported
    plan = Plan(rows=args.rows, new=args.new, rows_per_s=args.rate, boxes=args.boxes)
    measured = []
    for gpus in args.gpus:
        with tempfile.TemporaryDirectory(prefix="weaksam-scale-", dir=args.folder) as folder:
            measured.append(measure(gpus, plan, Path(folder)))
        print(f"{gpus} GPUs: {measured[-1].whole.seconds:.0f} s", file=sys.stderr, flush=True)
    told = [as_table(measured)]
    if per_image:
        told.append(f"COCO train2017, {COCO_TRAIN2017:,} images of {per_image:.3g} s on one GPU:")
        told.append(as_costs(measured, per_image, prices))
    text = "\n\n".join(told)
    print(f"{text}\n\n{args.rate:g} rows/s, {args.boxes} boxes, {platform.machine()}, {os.cpu_count()} CPUs")
    wrong = [f"{m.gpus} GPUs: {what}" for m in measured for what in m.wrong]
    for line in wrong:
        print(line)
    if args.results:
        write_between_marks(args.results, "coco-scale", text)
    return int(bool(wrong) or any(m.resumed.twice for m in measured))


def as_table(measured: Sequence[Measured]) -> str:
    """Return what was measured in Markdown."""
    head = (
        "logical GPUs", "rows", "s", "beside s", "beside", "peak MiB", "2nd quarter MiB", "last quarter MiB", "files",
        "index s", "done twice", "s to first", "new rows", "new s",
    )  # fmt: skip
    lines = [
        [
            f"{m.gpus}", f"{m.plan.rows:,}", f"{m.whole.seconds:,.0f}", f"{m.beside_s:,.1f}", f"{m.beside:.1%}",
            f"{m.whole.peak_mib:.0f}", f"{m.whole.quarter_mib(1):.0f}", f"{m.whole.quarter_mib(3):.0f}", f"{m.files:,}",
            f"{m.index_s:.0f}", f"{m.resumed.twice:,}", f"{m.resumed.until_first_s:.0f}", f"{m.plan.new:,}", f"{m.new_s:.0f}",
        ]
        for m in measured
    ]  # fmt: skip
    return markdown(head, lines)


def as_costs(measured: Sequence[Measured], seconds_per_image: float, prices: Sequence[Price]) -> str:
    """Return in Markdown what COCO train2017 would take."""
    lines = []
    for m in measured:
        taken = hours(COCO_TRAIN2017, seconds_per_image, m.gpus, m.beside_s)
        lines.append([f"{m.gpus}", f"{taken:,.1f}", *(f"{price.dollars(m.gpus, taken):,.2f}" for price in prices)])
    return markdown(["GPUs", "hours", *(f"$: {price}" for price in prices)], lines)


if __name__ == "__main__":
    sys.exit(main())
