"""What two run folders have in common: rows lost, doubled and dropped, and whatever differs in a bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tools.compare_runs import compare_json, compare_tables, compare_weights

_TIMES = ("seconds", "ended")  # of a trial


@dataclass(frozen=True, kw_only=True)
class Found:
    """How a disturbed run differs from an undisturbed one."""

    rows: int = 0  # of the undisturbed run
    lost: int = 0  # rows that the disturbed run lacks
    doubled: int = 0  # rows that it has twice
    dropped: int = 0  # images that it dropped and the other did not
    differing: int = 0  # rows, tensors, values and instances that differ in a bit
    first: str = ""  # of what is wrong

    def __add__(self, other: Found) -> Found:
        return Found(
            rows=self.rows + other.rows,
            lost=self.lost + other.lost,
            doubled=self.doubled + other.doubled,
            dropped=self.dropped + other.dropped,
            differing=self.differing + other.differing,
            first=self.first or other.first,
        )

    @property
    def wrong(self) -> int:
        """How much is."""
        return self.lost + self.doubled + self.dropped + self.differing


def compare(undisturbed: Path, disturbed: Path) -> Found:
    """Compare all finished instances, whatever their name and key, and the records of trials."""
    wanted, there = set(_instances(undisturbed)), set(_instances(disturbed))
    found = Found()
    for name in sorted(wanted | there):
        if name not in wanted or name not in there:
            where = "disturbed" if name in there else "undisturbed"
            found += Found(differing=1, first=f"{name}: finished in the {where} run alone")
            continue
        found += _compare_rows(name, undisturbed / name, disturbed / name)
        found += _compare_files(undisturbed / name, disturbed / name)
    for trials in undisturbed.glob("tune/*/trials"):
        found += _compare_files(trials, disturbed / trials.relative_to(undisturbed))
    return found


def _instances(run: Path) -> Iterator[str]:
    """Yield NAME/KEY of the instances that are finished."""
    for pattern in ("*/*/_manifest.json", "*/*/_sets/*.manifest.json"):
        for manifest in run.glob(pattern):
            yield "/".join(manifest.relative_to(run).parts[:2])


def _compare_rows(name: str, undisturbed: Path, disturbed: Path) -> Found:
    a, b = _rows(undisturbed), _rows(disturbed)
    ids_a, ids_b = ([] if t is None else t["image_id"].to_pylist() for t in (a, b))
    lost = set(ids_a) - set(ids_b)
    dropped = set(_dropped(disturbed)) - set(_dropped(undisturbed))
    twice = len(ids_b) - len(set(ids_b))
    wrong = [f"{len(lost)} row(s) lost"] * bool(lost) + [f"{twice} doubled"] * bool(twice)
    wrong += [
        f"dropped {image_id}: {why}" for image_id, why in sorted(_dropped(disturbed).items()) if image_id in dropped
    ]
    differing: set[str] = set()
    if a is not None and b is not None and not wrong:
        _, differences = compare_tables(a, b)
        differing = {item for item, _ in differences}
        wrong += [": ".join(difference) for difference in differences]
    return Found(
        rows=len(ids_a),
        lost=len(lost),
        doubled=twice,
        dropped=len(dropped),
        differing=len(differing),
        first=f"{name}: {wrong[0]}" if wrong else "",
    )


def _rows(folder: Path) -> pa.Table | None:
    parts = [pq.ParquetFile(path).read() for path in sorted(folder.glob("part-*.parquet"))]
    return pa.concat_tables(parts) if parts else None


def _dropped(folder: Path) -> dict[str, str]:
    """Return image id -> reason."""
    dropped = _rows(folder / "_dropped")
    return {row["image_id"]: f"{row['reason']}, {row['detail']}" for row in dropped.to_pylist()} if dropped else {}


def _compare_files(undisturbed: Path, disturbed: Path) -> Found:
    found = Found()
    for path in sorted(undisturbed.glob("[!_.]*.json")) + sorted(undisturbed.glob("[!_.]*.safetensors")):
        other = disturbed / path.name
        if not other.exists():
            found += Found(differing=1, first=f"{other}: not there")
            continue
        if path.suffix == ".json":
            _, differences = compare_json(json.loads(path.read_bytes()), json.loads(other.read_bytes()), _TIMES)
        else:
            _, differences = compare_weights(path.read_bytes(), other.read_bytes())
        if differences:
            first = ": ".join(differences[0])
            found += Found(differing=len({item for item, _ in differences}), first=f"{path}: {first}")
    return found
