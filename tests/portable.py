"""The suite as other processors would run it: ``python -m tests.portable [--only NAME] [--seed N]``.

PyTorch, oneDNN and MKL choose their kernels by the processor, and each adds in its own order. A row of the matrix asks for
the kernels of another processor, for one or two threads, and mostly for a shuffled order of the tests of each file. Not
every combination is there: each library, each number of threads and each kind of kernels is, with each other where one
might hide the other. What this processor lacks is told as skipped. Whole runs on Ray happen once, in the first row.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

IN_PROCESS = "not ray and not gpu and not long"
KERNELS = ("DEFAULT", "AVX2", "AVX512")  # of PyTorch, each including those before
AVX2_AT_MOST = {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@dataclass(frozen=True)
class Row:
    """One setting that the suite is run under."""

    name: str
    threads: int
    environment: dict[str, str]
    tests: str = IN_PROCESS  # pytest's -m
    kernels: str = "DEFAULT"  # that the processor must have
    shuffled: bool = True


@dataclass(frozen=True)
class Outcome:
    """What came of a row; ``failed`` counts errors, too."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    exit_code: int


ROWS = (
    Row("as it is", 1, {}, tests="not gpu and not long", shuffled=False),
    Row("as it is", 2, {}),
    Row("PyTorch without vectors", 1, {"ATEN_CPU_CAPABILITY": "default"}),
    Row("PyTorch with AVX2", 2, {"ATEN_CPU_CAPABILITY": "avx2"}, kernels="AVX2"),
    Row("PyTorch with AVX-512", 2, {"ATEN_CPU_CAPABILITY": "avx512"}, kernels="AVX512"),
    Row("oneDNN and MKL with AVX2", 1, AVX2_AT_MOST, kernels="AVX2"),
    Row("all three with AVX2", 2, {"ATEN_CPU_CAPABILITY": "avx2", **AVX2_AT_MOST}, kernels="AVX2"),
)


def main() -> int:
    """Run the rows and print them as a table; returns 1 if any test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name, threads included, holds this text")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the shuffled order"
    )
    parser.add_argument("tests", nargs="*", help="files or folders instead of all tests")
    options = parser.parse_args()
    console = Console(soft_wrap=True)
    console.print(f"{processor()}; PyTorch's kernels: {own_kernels()}; order by --seed {options.seed}")
    table = Table("kernels", "threads", "order", "passed", "failed", "skipped", "seconds", box=None)
    outcomes = []
    for row in ROWS:
        if options.only not in f"{row.name}, {row.threads}":
            continue
        order = "shuffled" if row.shuffled else "fixed"
        if KERNELS.index(row.kernels) > KERNELS.index(own_kernels()):
            table.add_row(row.name, str(row.threads), order, "skipped: this processor has no such kernels")
            continue
        console.print(f"\n{row.name}, {row.threads} thread(s), {order}: {row.environment}")
        outcomes.append(outcome := run(row, options.seed, options.tests))
        counts = (outcome.passed, outcome.failed, outcome.skipped, round(outcome.seconds))
        table.add_row(row.name, str(row.threads), order, *(f"{count:,}" for count in counts))
    console.print(table)
    return 0 if outcomes and not any(outcome.exit_code or outcome.failed for outcome in outcomes) else 1


def run(row: Row, seed: int, tests: list[str]) -> Outcome:
    """Run the tests of a row in processes of their own, whose libraries read the row's environment as they start."""
    environment = {name: value for name, value in os.environ.items() if name not in settings()}
    environment |= {"WEAKSAM_TEST_THREADS": str(row.threads), **row.environment}
    order = [f"--random-order-seed={seed}", "--random-order-bucket=module"] if row.shuffled else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", row.tests, f"--junitxml={report}", *order, *tests]
        started = time.monotonic()
        done = subprocess.run([*command, "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"], env=environment)
        seconds = time.monotonic() - started
        counts = counted(report) if report.exists() else dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return Outcome(passed, failed, counts["skipped"], seconds, done.returncode)


def counted(report: Path) -> dict[str, int]:
    """Add up the counts of a JUnit report."""
    suites = list(ElementTree.parse(report).iter("testsuite"))
    return {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }


def settings() -> set[str]:
    """Every variable that some row sets."""
    return {name for row in ROWS for name in row.environment}


def own_kernels() -> str:
    """The best of ``KERNELS`` that this processor has, whatever the environment asks for."""
    import torch

    best = torch.backends.cpu.get_cpu_capability()
    return best if best in KERNELS else "DEFAULT"


def processor() -> str:
    """Name this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    for name in settings():  # before PyTorch is imported here
        os.environ.pop(name, None)
    sys.exit(main())
