"""Proposals of one image, prompted the stock way and prompted by ``weaksam``: seconds, memory, and the same boxes.

    python -m benchmarks.proposals                                  built-in SAM, 8 x 8 grid; two minutes on two cores
    python -m benchmarks.proposals --sam vit_b --grid 32 --images 1 --repeats 1        random weights; a quarter of an hour

Stock is ``SamAutomaticMaskGenerator`` for the grid and one ``SamPredictor.predict`` per clue prompt, the image encoded once
per kind of prompt, as the published pipeline does. Both sides get the same images, weights, prompts, thresholds and threads,
and suppress by the same IoU (the stock generator's is moved to exclusive corners). Each run is a process of its own, so that
glibc's allocator can be told to keep its memory, which is how ``weaksam`` starts its actors; stock is timed with and without
that. Prompts are seeded: 30 fine and 30 coarse peaks of two classes, alone and jointly, and 20 cross-attention clusters.

ViT-B has random weights here, its last layers scaled so that masks are blots and some pass the filters: its time is real,
its boxes compare rounding and nothing else.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, automatic_mask_generator
from segment_anything.modeling import Sam

from benchmarks.sams import exclusive_nms, sam_called
from weaksam.boxes import nms_in_order
from weaksam.config import PromptsConfig, ProposalsConfig
from weaksam.datasets.shapes import data_set_seed, draw
from weaksam.heap import keep_heap
from weaksam.proposals.proposer import Proposer
from weaksam.structures import SOURCES, Prompts

STOCK, STOCK_KEEPING, OURS = "stock", "stock, memory kept", "weaksam, memory kept"
SIDES = (STOCK, STOCK_KEEPING, OURS)
Found = list[tuple[str, list[float]]]  # source, box
HEIGHT, WIDTH = 375, 500


def main() -> None:
    """Run every side in processes of its own, in alternating order, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", choices=("builtin", "vit_b"), default="builtin")
    parser.add_argument("--grid", type=int, default=8, help="points per side")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--min-predicted-iou", type=float, default=0.1, help="of grid masks")
    parser.add_argument("--min-stability", type=float, default=0.1, help="of grid masks")
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)  # one side, as JSON, for the parent's table
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(args)))
        return

    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(args.repeats):
        for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
            runs[side].append(_run(side))
    stock_s = statistics.median(run["seconds"] for run in runs[STOCK])
    print(
        f"SAM {args.sam}, {args.grid} x {args.grid} grid + 84 clue prompts, {HEIGHT} x {WIDTH}, {args.images} images, "
        f"{args.threads} threads, float32, median of {args.repeats}"
    )
    print(f"{'':24}{'s/image':>10}{'speed':>8}{'peak GB':>9}{'boxes':>8}")
    for side in SIDES:
        seconds = statistics.median(run["seconds"] for run in runs[side])
        run = runs[side][0]
        print(f"{side:24}{seconds:10.2f}{stock_s / seconds:7.1f}x{run['peak_gb']:9.2f}{len(run['boxes']):8}")
    _print_agreement(runs[STOCK][0]["boxes"], runs[OURS][0]["boxes"])


def _run(side: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.proposals", *sys.argv[1:], "--measure", side]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    run: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return run


def _print_agreement(stock: list[list[Any]], ours: list[list[Any]]) -> None:
    """Boxes are [image, source, x1, y1, x2, y2], in order within a source."""
    for source in SOURCES:
        theirs, mine = ([tuple(box) for box in boxes if box[1] == source] for boxes in (stock, ours))
        shared = sum((Counter(theirs) & Counter(mine)).values())
        print(
            f"{source:>8}: {shared} of {len(theirs)} boxes to the pixel, {'same' if theirs == mine else 'another'} order"
        )


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """One side over all images, after a small warm-up: seconds per image, peak memory, boxes."""
    torch.set_num_threads(args.threads)
    if args.measure == OURS:
        keep_heap()
    sam = _sam(args.sam)
    config = ProposalsConfig(min_predicted_iou=args.min_predicted_iou, min_stability=args.min_stability)
    propose = _ours if args.measure == OURS else _stock
    images = [draw(data_set_seed(0, "test", index), WIDTH).image[:HEIGHT].copy() for index in range(args.images)]
    propose(sam, images[0], 1, [], config)
    clues = _clue_prompts()
    started = time.perf_counter()
    found = [propose(sam, image, args.grid, clues, config) for image in images]
    seconds = (time.perf_counter() - started) / len(images)
    return {
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "boxes": [[index, source, *box] for index, boxes in enumerate(found) for source, box in boxes],
    }


def _sam(name: str) -> Sam:
    sam = sam_called(name)
    if name == "builtin":
        return sam
    for head in sam.mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight *= 100
    sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
    return sam


def _clue_prompts() -> list[Prompts]:
    """Seeded points: per semantic source 15 peaks of each of two classes, alone and jointly; 20 clusters."""
    rng = np.random.default_rng(0)
    prompts = []
    for source in ("fine", "coarse"):
        by_class = np.floor(rng.random((2, 15, 2)) * [WIDTH, HEIGHT]).astype(np.float32)
        points_xy = [*by_class.reshape(-1, 1, 2), *by_class]
        kind = ["semantic"] * 30 + ["class-joint"] * 2
        prompts.append(Prompts(source=source, points_xy=points_xy, kind=kind, class_index=[0] * 15 + [1] * 15 + [0, 1]))
    clusters = np.floor(rng.random((20, 1, 2)) * [WIDTH, HEIGHT]).astype(np.float32)
    prompts.append(Prompts(source="cross", points_xy=list(clusters), kind=["instance"] * 20, class_index=[-1] * 20))
    return prompts


def _ours(sam: Sam, image: NDArray[np.uint8], grid: int, clues: list[Prompts], config: ProposalsConfig) -> Found:
    proposer = Proposer(None, sam, prompts=PromptsConfig(points_per_side=grid), proposals=config)
    found = proposer.segment(image, clues)
    return list(zip(found.source, found.boxes_xyxy.tolist(), strict=True))


def _stock(sam: Sam, image: NDArray[np.uint8], grid: int, clues: list[Prompts], config: ProposalsConfig) -> Found:
    automatic_mask_generator.batched_nms = exclusive_nms
    generator = SamAutomaticMaskGenerator(
        sam,
        points_per_side=grid,
        pred_iou_thresh=config.min_predicted_iou,
        stability_score_thresh=config.min_stability,
        stability_score_offset=config.stability_offset,
        box_nms_thresh=config.grid_nms_iou,
    )
    records = [record["bbox"] for record in generator.generate(image)]
    found: Found = [("grid", [float(x), float(y), float(x + w + 1), float(y + h + 1)]) for x, y, w, h in records]
    predictor = SamPredictor(sam)
    for of_source in clues:
        predictor.set_image(image)
        boxes_xyxy: list[list[float]] = []
        for points_xy in of_source.points_xy:
            masks, _, _ = predictor.predict(points_xy, np.ones(len(points_xy)))
            for mask in masks[list(config.clue_mask_indices)]:
                rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
                if len(rows):
                    boxes_xyxy.append([float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)])
        if of_source.source == "cross":
            kept = nms_in_order(torch.tensor(boxes_xyxy).reshape(-1, 4), config.cross_nms_iou)
            boxes_xyxy = [boxes_xyxy[row] for row in kept.tolist()]
        found += [(of_source.source, box) for box in boxes_xyxy]
    return found


if __name__ == "__main__":
    main()
