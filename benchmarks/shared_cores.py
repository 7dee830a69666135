"""How much two processes that compute on the same cores hold each other up.

    python -m benchmarks.shared_cores                  two processes of two threads each, and one alone
    python -m benchmarks.shared_cores --threads 8

Each goes round a loop of small convolutions and products of matrices, with OpenMP's own waiting and with that of
``weaksam.threads``. Together they should go round as often as one alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from benchmarks.tables import markdown
from weaksam.threads import sleep_soon


def main() -> None:
    """Run one process, then two, either way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--go", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.go:
        print(_rounds(args.threads, args.seconds))
        return
    rows = [["OpenMP's own", *_alone_and_together()]]
    sleep_soon()  # for the processes from here on
    rows.append(["weaksam", *_alone_and_together()])
    print(f"rounds in {args.seconds:g} s, {args.threads} threads a process, {os.cpu_count()} cores\n")
    print(markdown(["waiting", "one process", "two, together"], rows))


def _alone_and_together() -> tuple[str, str]:
    return _all_rounds(1), _all_rounds(2)


def _all_rounds(processes: int) -> str:
    command = [sys.executable, "-m", "benchmarks.shared_cores", *sys.argv[1:], "--go"]
    under_way = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return f"{sum(int(process.communicate()[0]) for process in under_way):,}"


def _rounds(threads: int, seconds: float) -> int:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    images, kernels, matrix = torch.randn(4, 64, 56, 56), torch.randn(64, 64, 3, 3), torch.randn(300, 300)
    rounds, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        F.conv2d(images, kernels, padding=1)
        for _ in range(50):
            torch.mm(matrix, matrix)
        rounds += 1
    return rounds


if __name__ == "__main__":
    main()
