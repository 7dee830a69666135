"""Label maps: CLIP's maps of classes and SAM's seeds, each beside the plain way; and what the stages of a run take.

    python -m benchmarks.label_maps                           maps with the installed small CLIP, and seeds
    python -m benchmarks.label_maps --clip vit_b --side 224   maps with CLIP's ViT-B/16: some minutes and much memory
    python -m benchmarks.label_maps --run RUN                 each stage of a finished run alone

Maps are those of the last block on, for all before it is the same. The published way sends the identity of all pairs of
an image and a class through the whole batch; here one backward pass serves a class of every image. Each side's memory is
by how much a process of its own exceeds its size before. ViT-B/16 has random weights: time and memory are real. Seeds
are held against a mean over each mask of each class, mask by mask. Both begin with run lengths, as they are stored, of
ellipses. Sides work in turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.memory import growth_mib
from benchmarks.photos import table
from benchmarks.tables import markdown
from weaksam.config import ClipConfig, Weights
from weaksam.mask_runs import MaskRuns
from weaksam.masks import encode_rles
from weaksam.masks_np import Rle, decode_rles
from weaksam.networks.clip.load import load_clip
from weaksam.networks.clip.softmax_cam import class_probabilities, softmax_cam
from weaksam.networks.clip.tokens import END, START, Vocabulary
from weaksam.networks.clip.towers import Clip, ClipArchitecture
from weaksam.segmentation.seeding import sam_seed

T = TypeVar("T")
CLASSES, BACKGROUND = 20, 25
HEIGHT, WIDTH, POWER = 375, 500, 0.6


def main() -> None:
    """Time both sides in turn, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", choices=("builtin", "vit_b"), default="builtin")
    parser.add_argument("--images", type=int, default=16, help="of a batch")
    parser.add_argument("--classes", type=int, default=4, help="of each image")
    parser.add_argument("--side", type=int, default=96, help="pixels of an image that CLIP sees")
    parser.add_argument("--masks", type=int, default=100, help="of an image that a seed is made of")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", default="", help="a finished run")
    parser.add_argument("--alone", choices=tuple(_MAPS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.run:
        print(table(args.run))
    elif args.alone:
        print(growth_mib(partial(_MAPS[args.alone], *_before_the_last_block(args)))[1])
    else:
        _compare_maps(args)
        _compare_seeds(args.masks, args.classes, args.repeats)


def _compare_maps(args: argparse.Namespace) -> None:
    known = _before_the_last_block(args)
    seconds, found = _in_turn({name: partial(make, *known) for name, make in _MAPS.items()}, args.repeats)
    torch.testing.assert_close(found["weaksam"], found["identity"], rtol=1e-3, atol=1e-6)
    print(
        f"maps by CLIP {args.clip}, {args.images} images of {args.side} x {args.side}, {args.classes} classes each, "
        f"{args.threads} thread(s), median of {args.repeats}\n"
    )
    rows = [[name, f"{statistics.median(of):.3f}", f"{_most(name):,.0f}"] for name, of in seconds.items()]
    print(markdown(["", "s", "MiB"], rows))
    _tell_ratio(seconds["identity"], seconds["weaksam"])


def _compare_seeds(masks: int, classes: int, repeats: int) -> None:
    maps, class_index, level = torch.randn(classes, 24, 32), list(range(classes)), [n % 3 for n in range(masks)]
    masks_rle = encode_rles(_ellipses(masks))

    def by_runs() -> NDArray[np.uint8]:
        return sam_seed(maps, class_index, MaskRuns.of(masks_rle, (HEIGHT, WIDTH)), level, POWER).label_map

    makes: dict[str, Callable[[], NDArray[np.uint8]]] = {
        "mask by mask": partial(_seed_mask_by_mask, maps, class_index, masks_rle, level),
        "weaksam": by_runs,
    }
    seconds, found = _in_turn(makes, repeats)
    same = float((found["mask by mask"] == found["weaksam"]).mean())
    print(f"\na seed of {masks} masks, {classes} classes, {HEIGHT} x {WIDTH}; {same:.2%} of the pixels the same\n")
    print(markdown(["", "ms"], [[name, f"{1e3 * statistics.median(of):.1f}"] for name, of in seconds.items()]))
    _tell_ratio(seconds["mask by mask"], seconds["weaksam"])


def _in_turn(makes: dict[str, Callable[[], T]], repeats: int) -> tuple[dict[str, list[float]], dict[str, T]]:
    """Return the seconds of all repeats, and what was made last; one repeat before those counts for nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in makes}
    found = {name: make() for name, make in makes.items()}
    for _ in range(repeats):
        for name, make in makes.items():
            started = time.perf_counter()
            found[name] = make()
            seconds[name].append(time.perf_counter() - started)
    return seconds, found


def _tell_ratio(plain: list[float], ours: list[float]) -> None:
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    print(
        f"\n{statistics.median(ratios):.1f} times as fast, median of the pairs ({min(ratios):.1f} to {max(ratios):.1f})"
    )


def _before_the_last_block(args: argparse.Namespace) -> tuple[Clip, Tensor, Tensor, Tensor, Tensor]:
    """Return CLIP, tokens and activations before its last block, embeddings of prompts, and which classes are present."""
    torch.manual_seed(0)
    if args.clip == "builtin":
        clip = load_clip(ClipConfig(weights=Weights("builtin:clip")))
    else:
        words = Vocabulary([START, END])
        clip = Clip(ClipArchitecture(vocabulary=len(words)), words).eval()
    known = clip.visual.before_last_block(torch.randn(args.images, 3, args.side, args.side))
    texts = torch.randn(CLASSES + BACKGROUND, clip.architecture.embed_dim)
    present = torch.rand(args.images, CLASSES).argsort(dim=1) < args.classes
    return clip, known.tokens, known.activations, texts, present


def _maps_of_ranks(clip: Clip, tokens: Tensor, activations: Tensor, texts: Tensor, present: Tensor) -> Tensor:
    leaf = activations.clone().requires_grad_()
    return softmax_cam(leaf, _probabilities(clip, tokens, leaf, texts, present), present)


def _maps_of_identity(clip: Clip, tokens: Tensor, activations: Tensor, texts: Tensor, present: Tensor) -> Tensor:
    leaf = activations.clone().requires_grad_()
    pairs = _probabilities(clip, tokens, leaf, texts, present)[present]
    (gradients,) = torch.autograd.grad(pairs, leaf, torch.eye(len(pairs)), is_grads_batched=True)
    image = present.nonzero()[:, 0]
    weights = gradients[torch.arange(len(pairs)), image, 1:].mean(dim=1)
    return torch.einsum("npd,nd->np", activations[image, 1:], weights)


def _probabilities(clip: Clip, tokens: Tensor, activations: Tensor, texts: Tensor, present: Tensor) -> Tensor:
    return class_probabilities(clip.logits(clip.visual.embedding(tokens, activations), texts), present)


_MAPS: dict[str, Callable[[Clip, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "identity": _maps_of_identity, "weaksam": _maps_of_ranks,
}  # fmt: skip


def _most(name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.label_maps", *sys.argv[1:], "--alone", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _ellipses(count: int) -> Tensor:
    """Return masks ``[count, H, W]`` of a fortieth to a half of each side, anywhere."""
    y, x = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    generator = torch.Generator().manual_seed(0)
    centre, radius = (
        torch.rand(count, 2, generator=generator),
        torch.rand(count, 2, generator=generator) * 0.24 + 0.0125,
    )
    masks = [
        ((y / HEIGHT - cy) / ry) ** 2 + ((x / WIDTH - cx) / rx) ** 2 <= 1
        for (cy, cx), (ry, rx) in zip(centre.tolist(), radius.tolist(), strict=True)
    ]
    return torch.stack(masks)


def _seed_mask_by_mask(
    maps: Tensor, class_index: list[int], masks_rle: list[Rle], level: list[int]
) -> NDArray[np.uint8]:
    masks = torch.from_numpy(decode_rles(masks_rle, (HEIGHT, WIDTH)))
    pixels = F.interpolate(maps[None], (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0].clamp(min=0)
    means = torch.stack([torch.stack([of_class[mask].mean() for mask in masks]) for of_class in pixels])
    low, high = means.amin(dim=1, keepdim=True), means.amax(dim=1, keepdim=True)
    shares = (means - low) / (high - low + 1e-7)
    scores = torch.cat([(1 - shares.amax(dim=0, keepdim=True)) ** POWER, shares])
    confidence, best = scores.max(dim=0)
    label_map = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    for n in sorted(range(len(masks)), key=lambda n: (level[n], float(confidence[n]))):
        label_map[masks[n]] = [0, *(c + 1 for c in class_index)][int(best[n])]
    return label_map.numpy()


if __name__ == "__main__":
    main()
