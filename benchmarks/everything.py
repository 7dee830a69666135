"""Masks of everything in an image, by stock ``SamAutomaticMaskGenerator`` and by ``weaksam``.

    python -m benchmarks.everything                            built-in SAM, 16 x 16 points; a minute on two cores
    python -m benchmarks.everything --grid 32 --crop-layers 1 --min-region-area 100
    python -m benchmarks.everything --sam vit_b --images 1     random weights; some minutes

Both sides take the same options and end with COCO's compressed run-length encodings. ViT-B has random weights here: its time is
real, its masks compare rounding and nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator, automatic_mask_generator
from segment_anything.modeling import Sam

from benchmarks.sams import exclusive_nms, sam_called
from benchmarks.tables import markdown
from weaksam.config import EverythingConfig
from weaksam.datasets.shapes import data_set_seed, draw
from weaksam.masks_np import Rle, rle_iou
from weaksam.sam.everything import segment_everything

HEIGHT, WIDTH = 375, 500


def main() -> None:
    """Time both sides in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", choices=("builtin", "vit_b"), default="builtin")
    parser.add_argument("--grid", type=int, default=16, help="points per side")
    parser.add_argument("--crop-layers", type=int, default=0)
    parser.add_argument("--min-region-area", type=int, default=0, help="pixels")
    parser.add_argument("--min-predicted-iou", type=float, default=0.5)
    parser.add_argument("--min-stability", type=float, default=0.7)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = EverythingConfig(
        points_per_side=args.grid,
        min_predicted_iou=args.min_predicted_iou,
        min_stability=args.min_stability,
        crop_layers=args.crop_layers,
        crop_points_downscale=2,
        min_region_area=args.min_region_area,
    )
    sam = sam_called(args.sam)
    images = [draw(data_set_seed(0, "test", index), WIDTH).image[:HEIGHT].copy() for index in range(args.images)]
    sides: dict[str, Callable[[Sam, NDArray[np.uint8], EverythingConfig], list[Rle]]] = {
        "stock": _stock, "weaksam": _ours,
    }  # fmt: skip
    taken: dict[str, list[float]] = {side: [] for side in sides}
    masks: dict[str, list[list[Rle]]] = {}
    for _ in range(args.repeats):
        for side, segment in sides.items():
            started = time.perf_counter()
            masks[side] = [segment(sam, image, config) for image in images]
            taken[side].append((time.perf_counter() - started) / len(images))
    seconds = {side: statistics.median(runs) for side, runs in taken.items()}
    print(
        f"SAM {args.sam}, {args.grid} x {args.grid} points, {args.crop_layers} layers of crops, small regions below "
        f"{args.min_region_area} px, {HEIGHT} x {WIDTH}, {args.images} images, {args.threads} threads, median of "
        f"{args.repeats}\n"
    )
    rows = [
        [side, f"{seconds[side]:.2f}", f"{seconds['stock'] / seconds[side]:.1f}x", str(sum(map(len, masks[side])))]
        for side in sides
    ]
    print(markdown(["", "s/image", "speed", "masks"], rows))
    same = sum(
        int((rle_iou(theirs, mine) == 1).any(axis=1).sum())
        for theirs, mine in zip(masks["stock"], masks["weaksam"], strict=True)
    )
    print(f"\nmasks: {same} of {sum(map(len, masks['stock']))} to the pixel")


def _ours(sam: Sam, image: NDArray[np.uint8], config: EverythingConfig) -> list[Rle]:
    return list(segment_everything(sam, image, config).mask_rle)


def _stock(sam: Sam, image: NDArray[np.uint8], config: EverythingConfig) -> list[Rle]:
    automatic_mask_generator.batched_nms = exclusive_nms
    generator = SamAutomaticMaskGenerator(
        sam,
        points_per_side=config.points_per_side,
        pred_iou_thresh=config.min_predicted_iou,
        stability_score_thresh=config.min_stability,
        stability_score_offset=config.stability_offset,
        box_nms_thresh=config.nms_iou,
        crop_n_layers=config.crop_layers,
        crop_nms_thresh=config.crop_nms_iou,
        crop_overlap_ratio=config.crop_overlap,
        crop_n_points_downscale_factor=config.crop_points_downscale,
        min_mask_region_area=config.min_region_area,
        output_mode="coco_rle",
    )
    found = [record["segmentation"] for record in generator.generate(image)]
    return [{"size": rle["size"], "counts": rle["counts"].encode()} for rle in found]


if __name__ == "__main__":
    main()
