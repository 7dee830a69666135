"""A training step of MIST at few and at many proposals per image, batched and image by image, class by class.

    python -m benchmarks.mil                                             the small body on a CPU; two minutes
    python -m benchmarks.mil --backbone vgg16.torchvision --side 800 --images 2 --device cuda --peak-tflops 989

The paper's comparison (table 6): WeakSAM's 213 proposals in the place of Selective Search's 2,001 save 43.8 % of MIST's
training time and 68.2 % of its memory. The plain side computes the same losses for one image at a time and mines pseudo
labels class by class in Python, as a first implementation would; its loss is compared with the batched one. Each case is a
process of its own, cases alternate, medians are shown. Memory is the peak of the process, on a GPU what torch allocated.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from weaksam.boxes import iou_matrix
from weaksam.config import DropBlockConfig, MilConfig, MistConfig
from weaksam.detectors.loading import build_detector
from weaksam.detectors.mil.base import BOX_CODER, WeakDetector
from weaksam.losses.mil import BACKGROUND, PseudoLabels, box_loss, image_loss, refinement_loss, wsddn_scores

NUM_CLASSES = 20
PROPOSALS = (213, 2001)  # WeakSAM's and Selective Search's mean on VOC 2007 (table 6)
BACKBONES = ("small", "efficientnet_lite2", "vgg16.torchvision", "resnet50.torchvision")
BATCHED, PLAIN = "batched", "image by image, class by class"


def main() -> None:
    """Run every case in processes of its own, in alternating order, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="small", choices=BACKBONES)
    parser.add_argument("--side", type=int, default=256, help="pixels, both sides of an image")
    parser.add_argument("--images", type=int, default=8, help="images per step")
    parser.add_argument("--steps", type=int, default=3, help="timed after one that warms up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, to show the share of it in use")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one case, as JSON, for the parent's table
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(args, **json.loads(args.measure))))
        return
    cases = [{"proposals": number, "way": way} for number in PROPOSALS for way in (BATCHED, PLAIN)]
    runs: list[list[dict[str, float]]] = [[] for _ in cases]
    for repeat in range(args.repeats):
        for n in range(len(cases)) if repeat % 2 == 0 else reversed(range(len(cases))):
            runs[n].append(_in_fresh_process(cases[n]))
    median = [{name: statistics.median(run[name] for run in of_case) for name in of_case[0]} for of_case in runs]
    print(
        f"MIST on {args.backbone}, {args.images} images of {args.side} x {args.side} a step, {args.precision}, "
        f"{args.device}, {args.threads} threads, median of {args.repeats}\n"
        f"{'proposals an image':>18}  {'way':32}{'images/s':>9}{'peak MiB':>10}{'loss':>9}"
        f"{'  share of peak' if args.peak_tflops else ''}"
    )
    for case, found in zip(cases, median, strict=True):
        share = f"{found['tflops'] / args.peak_tflops:15.1%}" if args.peak_tflops else ""
        print(
            f"{case['proposals']:>18,}  {case['way']:32}{found['images_per_s']:9.2f}{found['peak_mib']:10,.0f}"
            f"{found['loss']:9.4f}{share}"
        )
    few, many = median[0], median[2]
    print(
        f"{PROPOSALS[0]} against {PROPOSALS[1]:,} proposals, batched: {1 - many['images_per_s'] / few['images_per_s']:.1%} "
        f"less time, {1 - few['peak_mib'] / many['peak_mib']:.1%} less memory (paper: 43.8 % and 68.2 %)"
    )


def _in_fresh_process(case: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.mil", *sys.argv[1:], "--measure", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    measured: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def _measure(args: argparse.Namespace, proposals: int, way: str) -> dict[str, float]:
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    config = MilConfig(
        backbone=args.backbone,
        dropout=0.0,
        freeze_stages=2,
        detector=MistConfig(dropblock=DropBlockConfig(enabled=False)),
    )
    detector = build_detector(config, NUM_CLASSES).to(device).train()
    optimizer = torch.optim.SGD(detector.parameter_groups(config), lr=1e-4)
    batch = [tensor.to(device) for tensor in _batch(args.images, args.side, proposals)]
    losses = detector.training_losses if way == BATCHED else lambda *inputs: plain_losses(detector, *inputs)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            loss = torch.stack(list(losses(*batch).values())).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.detach())

    first_loss = step()
    started = time.perf_counter()
    for _ in range(args.steps):
        step()
    seconds = (time.perf_counter() - started) / args.steps
    if device.type == "cuda":
        peak_mib = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with FlopCounterMode(display=False) as counter:
        step()
    tflops = counter.get_total_flops() / seconds / 1e12
    return {"images_per_s": args.images / seconds, "peak_mib": peak_mib, "loss": first_loss, "tflops": tflops}


def _batch(images: int, side: int, proposals: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise with boxes of at least an eighth of the image's side and one to three classes."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(images, proposals, 2, generator=generator) * side
    halves = (torch.rand(images, proposals, 2, generator=generator) * 0.4 + 0.0625) * side
    boxes_xyxy = torch.cat([centres - halves, centres + halves], dim=2).clamp(0, side)
    labels = torch.zeros(images, NUM_CLASSES, dtype=torch.bool)
    for n in range(images):
        labels[n, torch.randperm(NUM_CLASSES, generator=generator)[: 1 + n % 3]] = True
    real = torch.ones(images, proposals, dtype=torch.bool)
    return torch.randn(images, 3, side, side, generator=generator), boxes_xyxy, real, labels


def plain_losses(
    detector: WeakDetector, images: Tensor, boxes_xyxy: Tensor, real: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """MIST's losses, one image after the other, pseudo labels one class after the other."""
    options = detector.config.detector
    assert isinstance(options, MistConfig)
    total = torch.zeros((), device=images.device)
    for n in range(len(images)):
        one = slice(n, n + 1)
        outputs = detector(images[one], boxes_xyxy[one], real[one])
        scores = wsddn_scores(outputs.class_logits, outputs.detection_logits, real[one])
        targets = torch.cat([torch.zeros_like(labels[one, :1]), labels[one]], dim=1)
        total = total + image_loss(scores, targets, real[one], epsilon=1e-8, mean=True).sum()
        teacher = scores[0, :, 1:]
        for branch, logits in enumerate(outputs.refined_logits):
            pseudo = _mine(boxes_xyxy[n], teacher.detach(), labels[n], options)
            deltas = BOX_CODER.encode_single(pseudo.target_boxes_xyxy[0], boxes_xyxy[n])[None]
            loss = refinement_loss(logits, pseudo, real[one]) + box_loss(
                outputs.deltas[branch], deltas, pseudo, real[one]
            )
            total = total + detector.branch_weight(branch) * loss.sum()
            teacher = logits[0].float().softmax(dim=1)[:, 1:]
    return {"all": total / len(images)}


def _mine(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, config: MistConfig) -> PseudoLabels:
    found: list[tuple[Tensor, int, float]] = []
    ranked_at_all = max(1, int(len(boxes_xyxy) * config.share)) if len(boxes_xyxy) >= 10 else 1
    for class_index in labels.nonzero()[:, 0].tolist():
        order = scores[:, class_index].argsort(descending=True, stable=True)[:ranked_at_all].tolist()
        for rank, row in enumerate(order):
            better = boxes_xyxy[order[:rank]]
            if not rank or float(iou_matrix(boxes_xyxy[row : row + 1], better).max()) < config.max_overlap:
                found.append((boxes_xyxy[row], class_index, float(scores[row, class_index])))
    overlaps = torch.stack([iou_matrix(boxes_xyxy, box[None])[:, 0] for box, _, _ in found], dim=1)
    best, nearest = overlaps.max(dim=1)
    classes = torch.tensor([c for _, c, _ in found], device=boxes_xyxy.device)[nearest]
    weights = torch.tensor([score for _, _, score in found], device=boxes_xyxy.device)[nearest]
    return PseudoLabels(
        class_index=torch.where(best >= config.min_iou, classes, BACKGROUND)[None],
        weight=weights[None],
        target_boxes_xyxy=torch.stack([box for box, _, _ in found])[nearest][None],
    )


if __name__ == "__main__":
    main()
