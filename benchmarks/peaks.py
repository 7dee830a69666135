"""Peaks of the cross-attention maps of one class: 48 maps of 500 x 375 under a window of 129 x 129.

    python -m benchmarks.peaks            one table; about two minutes on two cores

Four ways to the same peaks: ours, two one-dimensional max-poolings, one 129 x 129 max-pooling over all maps, and the same
map by map with the greedy filter in Python, as the published code does it. The slow ones search fewer maps
(``--slow-maps``); all figures are per map, medians of ``--repeats`` rounds in alternating order.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from weaksam.config import PeaksConfig
from weaksam.proposals.peaks import find_peaks

CONFIG = PeaksConfig()
Points = list[list[tuple[int, int]]]  # per map


def main() -> None:
    """Time every way and print the table; fails if two of them disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=48)
    parser.add_argument("--slow-maps", type=int, default=4, help="maps for the two ways that take seconds a map")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--kernel", type=int, default=CONFIG.kernel_cross)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    maps = _smooth_maps(args.maps, *args.size)

    ways: list[tuple[str, Callable[[Tensor, int], Points], int]] = [
        ("weaksam.proposals.peaks", _ours, args.maps),
        ("max_pool2d by rows, then columns", _separable, args.maps),
        ("max_pool2d, all maps at once", _direct, args.slow_maps),
        ("max_pool2d, map by map, Python filter", _map_by_map, args.slow_maps),
    ]
    expected = _ours(maps, args.kernel)
    per_map_ms: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    for repeat in range(args.repeats):
        for name, way, count in ways if repeat % 2 == 0 else reversed(ways):
            started = time.perf_counter()
            found = way(maps[:count], args.kernel)
            per_map_ms[name].append(1e3 * (time.perf_counter() - started) / count)
            if found != expected[:count]:
                raise SystemExit(f"{name} finds other peaks")

    height, width = args.size
    print(f"{height} x {width}, window {args.kernel}, {args.threads} threads, float32, median of {args.repeats}")
    print(f"{'':40}{'maps':>6}{'ms/map':>10}{'slower than ours':>18}")
    ours_ms = statistics.median(per_map_ms[ways[0][0]])
    for name, _, count in ways:
        median_ms = statistics.median(per_map_ms[name])
        print(f"{name:40}{count:6}{median_ms:10.2f}{median_ms / ours_ms:17.1f}x")


def _smooth_maps(count: int, height: int, width: int) -> Tensor:
    """Seeded noise on a 24 x 32 grid of tokens, enlarged and normalised like attention maps."""
    coarse = torch.rand(count, 1, 24, 32, generator=torch.Generator().manual_seed(0))
    maps = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low)


def _ours(maps: Tensor, kernel: int) -> Points:
    return [list(map(tuple, peaks.points_xy.tolist())) for peaks in find_peaks(maps, CONFIG, kernel=kernel)]


def _separable(maps: Tensor, kernel: int) -> Points:
    rows = F.max_pool2d(maps[:, None], (1, kernel), 1, (0, kernel // 2))
    pooled = F.max_pool2d(rows, (kernel, 1), 1, (kernel // 2, 0))[:, 0]
    return [_greedy(one, maximum, kernel) for one, maximum in zip(maps, pooled, strict=True)]


def _direct(maps: Tensor, kernel: int) -> Points:
    pooled = F.max_pool2d(maps[:, None], kernel, 1, kernel // 2)[:, 0]
    return [_greedy(one, maximum, kernel) for one, maximum in zip(maps, pooled, strict=True)]


def _map_by_map(maps: Tensor, kernel: int) -> Points:
    return [_greedy(one, F.max_pool2d(one[None, None], kernel, 1, kernel // 2)[0, 0], kernel) for one in maps]


def _greedy(one: Tensor, pooled: Tensor, kernel: int) -> list[tuple[int, int]]:
    """Algorithm 1 after the pooling, in plain Python."""
    candidates = [(-float(one[y, x]), y, x) for y, x in (one == pooled).nonzero().tolist()]
    kept: list[tuple[int, int]] = []
    for negative, y, x in sorted(candidates)[: CONFIG.max_candidates]:
        far = all(abs(x - kept_x) + abs(y - kept_y) >= kernel // 2 for kept_x, kept_y in kept)
        if far and -negative >= CONFIG.threshold:
            kept.append((x, y))
    return kept


if __name__ == "__main__":
    main()
