"""A dilated depthwise convolution and its gradient: PyTorch's own, and the one in parts that EfficientNet-Lite runs here.

    python -m benchmarks.dilated        the last layers of EfficientNet-Lite2 at stride 16, a batch of MIST; a minute

Both in ``channels_last``, in one process, taking turns; the medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.tables import markdown
from weaksam.networks.efficientnet_lite import dilated_depthwise

_SHAPE = (4, 1248, 20, 28)  # images of 320 x 448 pixels


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = []
    for side in (3, 5):
        plain = nn.Conv2d(_SHAPE[1], _SHAPE[1], side, padding=2 * (side // 2), dilation=2, groups=_SHAPE[1], bias=False)
        plain = plain.to(memory_format=torch.channels_last)
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "nn.Conv2d": plain,
            "in parts": partial(dilated_depthwise, weight=plain.weight, bias=None, dilation=2),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(1 + args.repeats):
            for name, layer in ways.items():
                taken[name].append(_seconds(layer))
        for name, times in taken.items():
            forward, backward = (statistics.median(column) for column in zip(*times[1:], strict=True))
            lines.append([f"{side} x {side}, {name}", f"{1000 * forward:.0f}", f"{1000 * backward:.0f}"])
    print(markdown(("kernel", "forward, ms", "gradient, ms"), lines))


def _seconds(layer: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    features = torch.randn(_SHAPE).to(memory_format=torch.channels_last).requires_grad_(True)
    started = time.perf_counter()
    output = layer(features)
    forwarded = time.perf_counter()
    torch.autograd.backward(output, torch.ones_like(output))
    return forwarded - started, time.perf_counter() - forwarded


if __name__ == "__main__":
    main()
