"""Damage files of every kind, read them, and print what became of them.

    python -m benchmarks.fuzz                      10,000 files
    python -m benchmarks.fuzz --kind pickle        500 of one kind
    python -m benchmarks.fuzz --seed 3 --kind pickle --only 17      that one again, with its message or traceback

Files are read in processes of their own, with a limit on memory and on the time of each file, so that a crash or a hang of a
library is a line of the table. Inputs that are neither read nor refused by a named error are kept in ``--out``; then the exit
code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.fuzz.attempt import KINDS, Outcome, attempt, damaged_file

_MEMORY = 6 * 2**30  # bytes that a reading process may hold
_LIMIT_S = 20.0  # seconds for one file
_SILENCE_S = 120.0  # seconds without a line, imports included, after which a process is given up
_KEPT = 20  # failing inputs of each kind


def main() -> int:
    """Run what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000, help="files, of all kinds together")
    parser.add_argument("--kind", choices=KINDS, help="this kind alone, 500 files unless --count says otherwise")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this file alone")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failing inputs go")
    parser.add_argument("--from", dest="start", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.lines:
        return _read_and_tell(args.kind, args.seed, args.start, args.count)
    if args.only is not None and args.kind is None:
        parser.error("--only needs --kind: files are numbered within their kind")
    if args.only is not None:
        return _show(args.kind, args.seed, args.only)
    kinds = [args.kind] if args.kind else list(KINDS)
    if args.kind and args.count == parser.get_default("count"):
        args.count = 500
    share, surplus = divmod(args.count, len(kinds))
    jobs = [(kind, share + (n < surplus)) for n, kind in enumerate(kinds)]
    started = time.monotonic()
    with ThreadPoolExecutor(args.processes) as threads:
        results = list(threads.map(lambda job: _watch(job[0], job[1], args.seed), jobs))
    faults = _report(dict(zip(kinds, results, strict=True)), args.seed, args.out)
    print(f"seed {args.seed}, {args.count:,} files, {time.monotonic() - started:,.0f} s")
    return 1 if faults else 0


def _show(kind: str, seed: int, number: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        outcome = attempt(kind, seed, number, KINDS[kind].place(Path(folder)), limit_s=_LIMIT_S)
    data = damaged_file(kind, seed, number)
    print(f"{kind} {number} of seed {seed}: {len(data):,} bytes, begins {data[:60]!r}\n{outcome.word}: {outcome.text}")
    return 1 if outcome.word == "fault" else 0


def _read_and_tell(kind: str, seed: int, start: int, count: int) -> int:
    """Read the files from ``start`` on and print a line of JSON for each: what a reading process does."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        path = KINDS[kind].place(Path(folder))
        for number in range(start, count):
            outcome = attempt(kind, seed, number, path, limit_s=_LIMIT_S)
            print(json.dumps([number, *outcome]), flush=True)
    return 0


def _watch(kind: str, count: int, seed: int) -> list[Outcome]:
    """Have all files of a kind read, by a new process after each that dies or is silent."""
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        outcomes += _one_process(kind, count, seed, len(outcomes))
    return outcomes


def _one_process(kind: str, count: int, seed: int, start: int) -> list[Outcome]:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--lines", "--kind", kind, "--seed", str(seed)]
    command += ["--from", str(start), "--count", str(count)]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True)
        assert process.stdout is not None
        given_up = threading.Event()

        def give_up() -> None:
            given_up.set()
            process.kill()

        timer = _timer(give_up)
        for line in process.stdout:
            timer.cancel()
            _number, word, text = json.loads(line)
            outcomes.append(Outcome(word, text))
            timer = _timer(give_up)
        timer.cancel()
        code = process.wait()
        complaints.seek(0)
        said = complaints.read()[-2000:]
    if start + len(outcomes) < count:
        how = f"silent for {_SILENCE_S:g} s" if given_up.is_set() else f"ended with exit code {code}"
        outcomes.append(Outcome("fault", f"the reading process {how}\n{said}"))
    return outcomes


def _timer(function: Any) -> threading.Timer:
    timer = threading.Timer(_SILENCE_S, function)
    timer.daemon = True
    timer.start()
    return timer


def _report(results: dict[str, list[Outcome]], seed: int, out: Path) -> int:
    """Print the table, keep the failing inputs; return how many there are."""
    total: Counter[str] = Counter()
    print(f"{'':26}{'files':>8}{'read':>8}{'named errors':>14}{'anything else':>15}")
    faults: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for kind, outcomes in results.items():
        counts = Counter(outcome.word for outcome in outcomes)
        total += counts
        print(f"{kind:26}{len(outcomes):8,}{counts['read']:8,}{counts['named']:14,}{counts['fault']:15,}")
        faults[kind] = [(n, outcome.text) for n, outcome in enumerate(outcomes) if outcome.word == "fault"]
    print(f"{'all':26}{sum(total.values()):8,}{total['read']:8,}{total['named']:14,}{total['fault']:15,}")
    for kind, found in faults.items():
        for number, text in found[:_KEPT]:
            out.mkdir(parents=True, exist_ok=True)
            stem = f"{kind.replace(' ', '-').replace(',', '')}-{seed}-{number}"
            (out / stem).write_bytes(damaged_file(kind, seed, number))
            (out / f"{stem}.txt").write_text(text, errors="backslashreplace")
        for text, count in Counter(text.strip().splitlines()[-1][:150] for _, text in found).most_common(5):
            number = next(n for n, t in found if t.strip().splitlines()[-1][:150] == text)
            print(f"{kind}: {count} x {text}  (--kind {kind!r} --only {number}; kept in {out})")
    return total["fault"]


if __name__ == "__main__":
    sys.exit(main())
