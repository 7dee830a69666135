"""Compare two run folders product by product, bit for bit: ``python -m tools.compare_runs RUN_A RUN_B``.

A change of the code that must not change what is computed is held against a run from before it. Instances are paired by
name through their ``current`` pointers, so their keys may differ. Compared are the rows of every table (those of dropped
images too), whatever set of images they were asked for with, every tensor of the weights and every value of the JSON files; not
plans, manifests, checkpoints and pages. Files are read with pyarrow and safetensors alone, so that run folders of older commits
stay readable when the package's own readers change. Two NaN are equal in tables and JSON files; 0.0 and -0.0 are not. Exits
with 1 when anything differs, as diff does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load
from torch import Tensor

from weaksam.errors import ConfigError, RunError, WeaksamError

KEYS = ("image_id", "split", "input")  # what rows are paired by, as far as both tables have it
CLASS_NAMES = b"class_names"  # in a table's metadata: the list that its class indices point into
SHOWN = 40  # characters of each of two values, from where they part

Differences = list[tuple[str, str]]  # the item (row, column, tensor, value), and how it differs


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found in one product of one instance."""

    instance: str
    product: str
    compared: int  # rows, tensors or values that both runs have
    differing: int  # rows, columns, tensors or values that differ, or that only one run has
    first: str  # of the differences; empty when there is none


def compare_runs(
    a: Path, b: Path, renamed: Mapping[str, str] | None = None, ignored: Collection[str] = ()
) -> list[Comparison]:
    """Compare all instances of two run folders, by name.

    Args:
        a: run folder.
        b: the other.
        renamed: name of an instance in ``a`` -> its name in ``b``.
        ignored: names of columns, and of fields in JSON files, that may differ or be in one run only.

    Raises:
        RunError: a folder holds no instances, or a renamed instance is not there.
    """
    renamed = renamed or {}
    in_a, in_b = _instances(a), _instances(b)
    for run, there, names in ((a, in_a, renamed.keys()), (b, in_b, renamed.values())):
        for name in names:
            if name not in there:
                raise RunError(f"--rename: expected an instance of {run} ({', '.join(sorted(there))}), got {name}")
    pairs = {(name, renamed.get(name, name)) for name in in_a}
    pairs |= {(name, name) for name in in_b.keys() - {new for _, new in pairs}}
    return [
        comparison
        for old, new in sorted(pairs)
        for comparison in _compare_instances(
            old if old == new else f"{old} = {new}", in_a.get(old), in_b.get(new), ignored
        )
    ]


def compare_tables(a: pa.Table, b: pa.Table, ignored: Collection[str] = ()) -> tuple[int, Differences]:
    """Compare two tables row by row, in whatever order the rows are; return how many rows both have, and the differences."""
    differences: Differences = []
    if (a.schema.metadata or {}).get(CLASS_NAMES) != (b.schema.metadata or {}).get(CLASS_NAMES):
        differences.append(("class names", "another list"))
    columns_a, columns_b = (
        {field.name: field.type for field in table.schema if field.name not in ignored} for table in (a, b)
    )
    differences += [(f"column {name}", how) for name, how in _in_one_only(columns_a, columns_b)]
    shared = [name for name in columns_a if name in columns_b]
    rows_a, rows_b = (_rows_by_key(table, [name for name in KEYS if name in shared]) for table in (a, b))
    twice = [side for side, table, rows in (("A", a, rows_a), ("B", b, rows_b)) if len(rows) < table.num_rows]
    differences += [("rows", f"several of one image in {side}") for side in twice]
    differences += _in_one_only(rows_a, rows_b)
    both = [key for key in rows_a if key in rows_b]
    for name in shared:
        if columns_a[name] != columns_b[name]:
            differences.append((f"column {name}", f"{columns_a[name]} != {columns_b[name]}"))
            continue
        values_a, values_b = (table[name].combine_chunks() for table in (a, b))
        for key in both:
            how = _difference(values_a[rows_a[key]].as_py(), values_b[rows_b[key]].as_py())
            if how:
                differences.append((key, f"{name}: {how}"))
    return len(both), differences


def compare_weights(a: bytes, b: bytes) -> tuple[int, Differences]:
    """Compare two safetensors files tensor by tensor; return how many tensors both have, and the differences."""
    tensors_a, tensors_b = load(a), load(b)
    both = sorted(tensors_a.keys() & tensors_b.keys())
    differences = _in_one_only(tensors_a, tensors_b)
    for name in both:
        one, other = tensors_a[name], tensors_b[name]
        kind, other_kind = (f"{tensor.dtype} {list(tensor.shape)}" for tensor in (one, other))
        if kind != other_kind:
            differences.append((name, f"{kind} != {other_kind}"))
        elif not torch.equal(_bits(one), _bits(other)):
            differences.append((name, f"other bits in {kind}"))
    return len(both), differences


def compare_json(a: Any, b: Any, ignored: Collection[str] = ()) -> tuple[int, Differences]:
    """Compare two JSON documents value by value; return how many values both have, and the differences."""
    values_a, values_b = dict(_values(a, ignored)), dict(_values(b, ignored))
    both = [path for path in values_a if path in values_b]
    changed = [(path, _difference(values_a[path], values_b[path])) for path in both]
    return len(both), _in_one_only(values_a, values_b) + [(path, how) for path, how in changed if how]


def _bits(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(torch.uint8)


@dataclass(frozen=True)
class _Instance:
    folder: Path
    manifest: Path  # there if it is finished

    @classmethod
    def at(cls, pointer: Path) -> _Instance:
        """Return the one that ``current`` names by its key and its set of images; before there were sets, by its key alone."""
        key, *sets = pointer.read_text().split()
        folder = pointer.parent / key
        names = [f"_sets/{name}.manifest.json" for name in sets] or ["_manifest.json"]
        return cls(folder, folder / names[0])


def _instances(run: Path) -> dict[str, _Instance]:
    """Return the current instance of every name in a run folder."""
    found = {pointer.parent.name: _Instance.at(pointer) for pointer in run.glob("*/current")}
    if not found:
        raise RunError(f"{run}: expected a run folder, found no INSTANCE/current in it")
    return found


def _compare_instances(
    title: str, a: _Instance | None, b: _Instance | None, ignored: Collection[str]
) -> Iterator[Comparison]:
    if a is None or b is None:
        yield _comparison(title, "", 0, [("instance", f"only in {'B' if a is None else 'A'}")])
        return
    open_in = [side for instance, side in ((a, "A"), (b, "B")) if not instance.manifest.exists()]
    if open_in:
        yield _comparison(title, "", 0, [("instance", f"not finished in {' and '.join(open_in)}")])
        return
    products_a, products_b = _products(a.folder), _products(b.folder)
    for product, how in _in_one_only(products_a, products_b):
        yield _comparison(title, product, 0, [("product", how)])
    for product in (name for name in products_a if name in products_b):
        yield _comparison(title, product, *_compare_products(products_a[product], products_b[product], ignored))


def _products(folder: Path) -> dict[str, Path]:
    """Return what is compared of an instance: files, and folders of the parts of a table."""
    shown = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in (".json", ".safetensors") and path.name[0] not in "._"
    ]
    tables = {"rows": folder, "dropped": folder / "_dropped"}
    return {name: path for name, path in tables.items() if _parts(path)} | {path.name: path for path in shown}


def _parts(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.parquet")) if path.name[0] not in "._"]


def _read_table(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(part).read() for part in _parts(folder)])


def _compare_products(a: Path, b: Path, ignored: Collection[str]) -> tuple[int, Differences]:
    if a.is_dir():
        return compare_tables(_read_table(a), _read_table(b), ignored)
    if a.suffix == ".json":
        return compare_json(json.loads(a.read_bytes()), json.loads(b.read_bytes()), ignored)
    return compare_weights(a.read_bytes(), b.read_bytes())


def _comparison(instance: str, product: str, compared: int, differences: Differences) -> Comparison:
    first = ": ".join(differences[0]) if differences else ""
    return Comparison(
        instance=instance,
        product=product,
        compared=compared,
        differing=len({item for item, _ in differences}),
        first=first,
    )


def _in_one_only(a: Collection[str], b: Collection[str]) -> Differences:
    return [(name, "only in A") for name in a if name not in b] + [(name, "only in B") for name in b if name not in a]


def _rows_by_key(table: pa.Table, keys: Sequence[str]) -> dict[str, int]:
    """Return the number of each row by its key, as text; keys in ascending order."""
    named = ((" ".join(map(str, row.values())), number) for number, row in enumerate(table.select(keys).to_pylist()))
    return dict(sorted(named))


def _values(document: Any, ignored: Collection[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of every leaf; an empty list or mapping is a leaf."""
    if isinstance(document, (dict, list)) and document:
        named = document.items() if isinstance(document, dict) else enumerate(document)
        for name, value in named:
            if name not in ignored:
                yield from _values(value, ignored, f"{path}.{name}" if path else str(name))
    else:
        yield path, document


def _difference(a: Any, b: Any) -> str:
    """Return where two values part, or nothing. They are compared as text: it shows every bit of a float, and NaN is NaN."""
    text_a, text_b = repr(a), repr(b)
    if text_a == text_b:
        return ""
    start = next((n for n, (x, y) in enumerate(zip(text_a, text_b, strict=False)) if x != y), 0)
    start = max(0, start - SHOWN // 2)
    lead = "…" if start else ""
    return f"{lead}{text_a[start : start + SHOWN]} != {lead}{text_b[start : start + SHOWN]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the runs that the command line names, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_runs", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("a", type=Path, metavar="RUN_A", help="a run folder")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="the other")
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="an instance of RUN_A and its name in RUN_B"
    )
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="NAME", help="a column or JSON field that may differ"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        found = compare_runs(options.a, options.b, dict(map(_renamed, options.rename)), options.ignore)
    except WeaksamError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps([asdict(c) for c in found], indent=2) if options.json else _as_text(found))
    return int(any(c.differing for c in found))


def _renamed(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not new:
        raise ConfigError(f"--rename: expected OLD=NEW, got {text!r}")
    return old, new


def _as_text(found: Sequence[Comparison]) -> str:
    lines = [("instance", "product", "compared", "differing", "first difference")]
    lines += [(c.instance, c.product, f"{c.compared:,}", f"{c.differing:,}", c.first) for c in found]
    widths = [max(len(line[n]) for line in lines) for n in range(4)]
    table = [
        f"{i:{widths[0]}}  {p:{widths[1]}}  {compared:>{widths[2]}}  {differing:>{widths[3]}}  {first}".rstrip()
        for i, p, compared, differing, first in lines
    ]
    different = sum(c.differing > 0 for c in found)
    verdict = f"{different} of {len(found)} products differ" if different else f"all {len(found)} products are equal"
    return "\n".join([*table, verdict])


if __name__ == "__main__":
    sys.exit(main())
