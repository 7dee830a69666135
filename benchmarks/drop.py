"""What the drop losses cost: a training step of both detectors with the drop off and on.

    python -m benchmarks.drop                                        the small detectors of recipes/table5*.yaml; two minutes
    python -m benchmarks.drop --backbone resnet50.torchvision --side 800 --images 2 --device cuda

Two copies of a detector, same weights and same images, take turns, one step each; a step is forward, backward and update.
Shown are the medians of the steps and of the ratios of neighbouring steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipelines.recipe.model import load_recipe
from weaksam.config import DinoConfig, FasterRcnnConfig, RetrainConfig
from weaksam.detectors.loading import build_retrained
from weaksam.detectors.retrained.base import RetrainedDetector, Targets

NUM_CLASSES = 20
RECIPES = {"faster_rcnn": "table5", "dino": "table5-dino"}


def main() -> None:
    """Time both detectors and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--side", type=int, default=192, help="pixels, both sides of an image; a multiple of 32")
    parser.add_argument("--images", type=int, default=8, help="images per step")
    parser.add_argument("--steps", type=int, default=40, help="timed pairs, after two that warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{args.backbone}, {args.images} images of {args.side} x {args.side} a step, {args.device}, {args.threads} threads, "
        f"median of {args.steps}\n{'':12}{'off, ms':>9}{'on, ms':>9}{'more':>8}{'positives dropped':>19}"
    )
    for name, recipe in RECIPES.items():
        config = replace(load_recipe(recipe)[0].retrain, backbone=args.backbone)
        off, on, ratio, dropped = _compare(config, args)
        print(f"{name:12}{1000 * off:9.1f}{1000 * on:9.1f}{ratio - 1:8.1%}{dropped:19.1%}")


def _compare(config: RetrainConfig, args: argparse.Namespace) -> tuple[float, float, float, float]:
    """Return seconds without and with the drop, the ratio of neighbours, and the share of positives that was dropped."""
    device = torch.device(args.device)
    batch = _batch(args.images, args.side, device)
    sides = [_Side(config, enabled, device) for enabled in (False, True)]
    seconds: list[list[float]] = [[], []]
    for pair in range(-2, args.steps):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            taken = sides[which].step(batch)
            if pair >= 0:
                seconds[which].append(taken)
    ratio = statistics.median(on / off for off, on in zip(*seconds, strict=True))
    return statistics.median(seconds[0]), statistics.median(seconds[1]), ratio, statistics.median(sides[1].dropped)


class _Side:
    """A detector that trains."""

    def __init__(self, config: RetrainConfig, enabled: bool, device: torch.device) -> None:
        assert isinstance(config.detector, FasterRcnnConfig | DinoConfig)
        drop: Any = replace(config.detector.drop, enabled=enabled, start_step=0)
        torch.manual_seed(0)
        detector = build_retrained(replace(config, detector=replace(config.detector, drop=drop)), NUM_CLASSES)
        self.detector: RetrainedDetector = detector.to(device).train()
        # Far below what learns: both copies stay the same network, and go on doing the same work.
        self.optimizer = torch.optim.AdamW(self.detector.parameter_groups(replace(config, lr=1e-9)))
        self.device = device
        self.dropped: list[float] = []

    def step(self, batch: tuple[Tensor, Tensor, list[Targets]]) -> float:
        """Take one step and return its seconds."""
        torch.manual_seed(len(self.dropped))  # what is sampled
        self._wait()
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        losses, counts = self.detector.training_losses(*batch, step=0)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        self.optimizer.step()
        self._wait()
        taken = time.perf_counter() - started
        self.dropped.append(float(counts["dropped_foreground"] / counts["foreground"].clamp(min=1e-9)))
        return taken

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _batch(images: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, list[Targets]]:
    """Noise with one to three boxes of a quarter to a half of the image's side."""
    generator = torch.Generator().manual_seed(1)
    targets = []
    for n in range(images):
        count = 1 + n % 3
        sides = (0.25 + 0.25 * torch.rand(count, 2, generator=generator)) * side
        corners = torch.rand(count, 2, generator=generator) * (side - sides)
        classes = torch.randint(NUM_CLASSES, (count,), generator=generator)
        targets.append(Targets(torch.cat([corners, corners + sides], dim=1).to(device), classes.to(device)))
    sizes_hw = torch.full((images, 2), side)
    return torch.randn(images, 3, side, side, generator=generator).to(device), sizes_hw.to(device), targets


if __name__ == "__main__":
    main()
