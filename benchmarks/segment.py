"""Masks of an image's boxes, one ``SamPredictor.predict`` per box and all together by ``weaksam``; and their run lengths.

    python -m benchmarks.segment                     built-in SAM, 12 boxes an image; a minute on two cores
    python -m benchmarks.segment --sam vit_b         random weights; some minutes

Both sides encode each image once, take the one mask of a box, and make COCO's compressed run-length encoding of it: stock by
pycocotools, mask by mask. Boxes are seeded. Beside the time of all there is that after the encoder, which both spend alike.
ViT-B has random weights here: its time is real, its masks compare rounding and nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from benchmarks.sams import sam_called
from benchmarks.tables import markdown
from weaksam.config import SegmentConfig
from weaksam.datasets.shapes import data_set_seed, draw
from weaksam.masks import encode_rles
from weaksam.masks_np import Rle, decode_rle, encode_rle
from weaksam.sam.encode import encode_image
from weaksam.sam.segment import segment_boxes

HEIGHT, WIDTH = 375, 500


def main() -> None:
    """Time both sides in turn, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", choices=("builtin", "vit_b"), default="builtin")
    parser.add_argument("--boxes", type=int, default=12, help="of each image")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sam = sam_called(args.sam)
    images = [draw(data_set_seed(0, "test", index), WIDTH).image[:HEIGHT].copy() for index in range(args.images)]
    boxes = [_boxes(index, args.boxes) for index in range(args.images)]
    sides: dict[str, Callable[..., tuple[float, list[Rle]]]] = {"stock": _stock, "weaksam": _ours}
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}  # of all, and after the encoder
    masks: dict[str, list[Rle]] = {}
    for _ in range(args.repeats):
        for side, segment in sides.items():
            started = time.perf_counter()
            answers = [segment(sam, image, of_image) for image, of_image in zip(images, boxes, strict=True)]
            seconds = time.perf_counter() - started
            taken[side].append((seconds, sum(after for after, _ in answers)))
            masks[side] = [rle for _, of_image in answers for rle in of_image]
    count = args.images * args.boxes
    rows = []
    for side, runs in taken.items():
        whole, after = (statistics.median(column) for column in zip(*runs, strict=True))
        rows.append([side, f"{count / whole:.1f}", f"{count / after:.1f}", f"{1e3 * after / count:.1f}"])
    print(
        f"SAM {args.sam}, {args.boxes} boxes of {HEIGHT} x {WIDTH}, {args.threads} threads, median of {args.repeats}\n"
    )
    print(markdown(["", "boxes/s", "boxes/s after the encoder", "ms a box after it"], rows))
    agree = [_iou(a, b) for a, b in zip(masks["stock"], masks["weaksam"], strict=True)]
    print(f"\nmasks: {sum(iou == 1 for iou in agree)} of {count} to the pixel, least IoU {min(agree):.4f}")
    _time_run_lengths(masks["stock"])


def _boxes(seed: int, count: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    corner = random.random((count, 2)) * [WIDTH * 0.7, HEIGHT * 0.7]
    side = 20 + random.random((count, 2)) * 100
    return np.concatenate([corner, np.minimum(corner + side, [WIDTH, HEIGHT])], axis=1).astype(np.float32)


def _stock(sam: Sam, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> tuple[float, list[Rle]]:
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    started = time.perf_counter()
    found = [encode_rle(predictor.predict(box=box, multimask_output=False)[0][0]) for box in boxes_xyxy]
    return time.perf_counter() - started, found


def _ours(sam: Sam, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32]) -> tuple[float, list[Rle]]:
    encoded = encode_image(sam, image)
    started = time.perf_counter()
    nothing = [np.zeros((0, 2), np.float32)] * len(boxes_xyxy)
    found = segment_boxes(sam, encoded, boxes_xyxy, nothing, SegmentConfig())
    return time.perf_counter() - started, list(found.mask_rle)


def _iou(a: Rle, b: Rle) -> float:
    mine, theirs = decode_rle(a), decode_rle(b)
    union = int((mine | theirs).sum())
    return int((mine & theirs).sum()) / union if union else 1.0


def _time_run_lengths(rles: list[Rle]) -> None:
    """Print how long both ways to encode the same masks take."""
    masks = np.stack([decode_rle(rle) for rle in rles])
    together = torch.from_numpy(masks)
    ways: dict[str, Callable[[], Any]] = {
        "pycocotools, one by one": lambda: [encode_rle(mask) for mask in masks],
        "weaksam, together": lambda: encode_rles(together),
    }
    rows = []
    for name, encode in ways.items():
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            encode()
            seconds.append(time.perf_counter() - started)
        rows.append([name, f"{1e3 * statistics.median(seconds) / len(masks):.2f}"])
    print(f"\n{markdown(['run lengths', 'ms a mask'], rows)}")


if __name__ == "__main__":
    main()
