"""Mask R-CNN: a training step beside torchvision's own, and the memory that detecting with masks takes.

    python -m benchmarks.masks             both, a minute on two cores
    python -m benchmarks.masks --memory    the memory alone

Both sides train the same network, ours with targets cut to their boxes, torchvision's heads with masks of the views' size, as
its loss wants them. Their losses are the same in kind but not in value: each samples its own regions. Detecting finds 100
objects in a picture of 2,000 x 3,000 pixels, with random weights, in a process of its own; told is by how much its largest size
(Linux) exceeds that before.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.memory import growth_mib
from benchmarks.tables import markdown
from weaksam.config import MaskRcnnConfig, RetrainConfig, RetrainedDetectConfig
from weaksam.detectors.inference import detect_alone
from weaksam.detectors.loading import build_retrained
from weaksam.detectors.retrained.base import Targets
from weaksam.detectors.retrained.mask_rcnn import MaskRcnn
from weaksam.masks import paste_masks
from weaksam.masks_np import Rle

SIDE, OBJECTS, CLASSES = 320, 8, 20
PICTURE_HW, MASKS = (2000, 3000), 100


def main() -> None:
    """Time both sides in turn, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="the memory alone")
    parser.add_argument("--images", type=int, default=2, help="of a batch")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", choices=("paste", "detect"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        print(_work(args.alone))
        return
    if not args.memory:
        _time_steps(args.images, args.repeats)
    print(f"\n{MASKS} masks of {PICTURE_HW[0]:,} x {PICTURE_HW[1]:,}: memory at the most, beside the network's\n")
    names = {"paste": "pasting the masks", "detect": "detecting, with that"}
    print(markdown(["", "MiB"], [[name, f"{_most(what):,.0f}"] for what, name in names.items()]))


def _detector(score_threshold: float = 0.0) -> MaskRcnn:
    torch.manual_seed(0)
    test = RetrainedDetectConfig(
        scales=(800,), max_side=1333, score_threshold=score_threshold, nms_iou=0.5, max_detections=MASKS
    )
    config = RetrainConfig(detector=MaskRcnnConfig(), freeze_stages=0, test=test)
    built = build_retrained(config, CLASSES)
    assert isinstance(built, MaskRcnn)
    return built


def _time_steps(images: int, repeats: int) -> None:
    model = _detector().train()
    views, sizes = torch.randn(images, 3, SIDE, SIDE), torch.tensor([[SIDE, SIDE]] * images)
    truth = [_targets(seed) for seed in range(images)]
    full = [_full_size(of_view) for of_view in truth]

    def ours() -> Tensor:
        return torch.stack(list(model.training_losses(views, sizes, truth, 0).losses.values())).sum()

    def stock() -> Tensor:
        image_list, features = model._features(views, sizes)
        boxes = [{"boxes": of_view.boxes_xyxy, "labels": of_view.class_index} for of_view in truth]
        proposals, of_rpn = model.rpn(image_list, features, boxes)
        known = [
            {"boxes": of_view.boxes_xyxy, "labels": of_view.class_index + 1, "masks": masks}
            for of_view, masks in zip(truth, full, strict=True)
        ]
        _, of_heads = model.roi_heads(features, proposals, [(SIDE, SIDE)] * images, known)
        return torch.stack([*of_rpn.values(), *of_heads.values()]).sum()

    sides: dict[str, Callable[[], Tensor]] = {"torchvision": stock, "weaksam": ours}
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, loss in sides.items():
            started = time.perf_counter()
            loss().backward()  # type: ignore[no-untyped-call]
            taken[side].append(time.perf_counter() - started)
            model.zero_grad()
    print(f"a step of {images} views of {SIDE} x {SIDE}, {OBJECTS} objects each, ResNet-50, median of {repeats}\n")
    rows = [[side, f"{1e3 * statistics.median(of):.0f}"] for side, of in taken.items()]
    print(markdown(["", "ms"], rows))
    ratio = statistics.median(a / b for a, b in zip(taken["weaksam"], taken["torchvision"], strict=True))
    print(f"\nweaksam / torchvision, median of the pairs: {ratio:.3f}")


def _targets(seed: int) -> Targets:
    random = np.random.default_rng(seed)
    corner = random.random((OBJECTS, 2)) * SIDE * 0.6
    boxes = torch.from_numpy(np.concatenate([corner, corner + 30 + random.random((OBJECTS, 2)) * 90], axis=1)).float()
    cells = MaskRcnnConfig.mask_cells
    masks = torch.full((OBJECTS, cells, cells), 255, dtype=torch.uint8)
    return Targets(boxes, torch.from_numpy(random.integers(0, CLASSES, OBJECTS)), masks)


def _full_size(targets: Targets) -> Tensor:
    masks = torch.zeros(OBJECTS, SIDE, SIDE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, targets.boxes_xyxy.round().int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def _work(what: str) -> float:
    """Do it, and return by how many MiB this process was larger at its largest."""
    model = _detector().eval()
    picture = np.random.default_rng(0).integers(0, 255, (*PICTURE_HW, 3), np.uint8)
    random = np.random.default_rng(0)
    corner = random.random((MASKS, 2)) * [2000, 1000]
    boxes = np.concatenate([corner, corner + 300 + random.random((MASKS, 2)) * 700], axis=1).astype(np.float32)
    cells = torch.rand(MASKS, 28, 28)

    def find() -> list[Rle]:
        if what == "paste":
            return paste_masks(cells, torch.from_numpy(boxes), PICTURE_HW)
        return list(detect_alone(model, picture).mask_rle or [])

    found, most = growth_mib(find)
    assert len(found) == MASKS
    return most


def _most(what: str) -> float:
    command = [sys.executable, "-m", "benchmarks.masks", "--alone", what]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
