"""Damage: of bytes, as disks and transfers do it, and of trees of values, as other people's programs do it."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

_BYTES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"%s%n",
    b"../",
    b"\xed\xa0\x80",
)
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**62, 2**63, 2**64 - 1)
_VERY_LONG = "a number of 5,001 digits"  # stands for one that ``json.dumps`` refuses to write

Path = tuple[Any, ...]  # keys and places from the root of a tree


def damage_bytes(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """Return ``data`` after one to six accidents; ``others`` are spliced in, and ``words`` are what its format is made of."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = _accident(rng, data, others, (*_BYTES, *words))
    return data


def damage_head(rng: Random, data: bytes, length: int) -> bytes:
    """Return ``data`` with accidents among its first ``length`` bytes only, where most of a format's rules are."""
    return damage_bytes(rng, data[:length], [data[:length]]) + data[length:]


def damage_tree(rng: Random, tree: Any) -> Any:
    """Return a copy of a tree of dicts, lists and plain values with one to four of its parts changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        paths = list(_paths(tree))
        path = rng.choice(paths)
        tree = _changed(rng, tree, path, paths)
    return tree


def to_json(tree: Any) -> bytes:
    """Write a tree as JSON, with what JSON proper does not have (NaN, lone surrogates, very long numbers)."""
    return json.dumps(tree).replace(f'"{_VERY_LONG}"', f"1{'0' * 5000}").encode()


def words_between(*words: bytes) -> Callable[[Random, bytes, list[bytes]], bytes]:
    """Return ``damage_bytes`` for a format that is made of such words."""
    return lambda rng, data, files: damage_bytes(rng, data, files, words)


def _accident(rng: Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice([n for n in (1, 1, 2, 4, 8, 64, 1024) if n <= max(len(data) // 16, 1)]))
    kind = rng.choice(
        (*("flip", "overwrite", "insert", "remove", "repeat", "number", "zeros", "splice") * 2, "cut", "swap")
    )
    if kind == "flip" and data:
        at = min(at, len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == "overwrite":
        return data[:at] + rng.randbytes(end - at) + data[end:]
    if kind == "insert":
        return data[:at] + rng.choice(words) * rng.choice((1, 1, 1, 50)) + data[at:]
    if kind == "remove":
        return data[:at] + data[end:]
    if kind == "repeat":
        return data[:end] + data[at:end] * rng.choice((1, 2, 9)) + data[end:]
    if kind == "cut":
        return data[:at]
    if kind == "number":
        width = rng.choice("BHIQ")
        packed = struct.pack(rng.choice("<>") + width, rng.choice(_NUMBERS) % 2 ** (8 * struct.calcsize(f"<{width}")))
        return data[:at] + packed + data[at + len(packed) :]
    if kind == "zeros":
        return data[:at] + bytes(end - at) + data[end:]
    if kind == "swap":
        return data[end:] + data[:end]
    other = rng.choice(others)
    start = rng.randrange(len(other) + 1)
    return data[:at] + other[start : start + rng.choice((4, 64, 1024))] + data[end:]


def _strange_values() -> list[Any]:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    return [
        None, True, False, 0, 1, -1, 2, 7, 1.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**63,
        10**400, -(10**400), _VERY_LONG, "", " ", "0", "1", "-1", "1.5", "nan", "1e999", "true", "no", "None", "a" * 10_000,
        "ä\u0301", "\ud800", "\0", "\x1b[31m", "a\nb", "../../etc/passwd", "/", "C:\\a.jpg", "*", "[", [], {}, [None], [[]],
        [0, 0, 0, 0], [1, 2, 3], [1, 2, 3, "4"], {"a": 1}, deep,
    ]  # fmt: skip


def _changed(rng: Random, tree: Any, path: Path, paths: Sequence[Path]) -> Any:
    if not path:
        return rng.choice(_strange_values()) if rng.random() < 0.1 else tree
    *above, last = path
    parent = _at(tree, tuple(above))
    value = parent[last]
    kind = rng.choice(("replace", "replace", "replace", "remove", "rename", "repeat", "move", "text", "wrap", "negate"))
    if kind == "remove":
        del parent[last]
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice((f"{last} ", str(last).upper(), str(last)[:-1], "", "id", "\ud800"))] = parent.pop(last)
    elif kind == "repeat" and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(value))
    elif kind == "move":
        parent[last] = copy.deepcopy(_at(tree, rng.choice(paths)))
    elif kind == "text":
        parent[last] = str(value)[:1000]
    elif kind == "wrap":
        parent[last] = rng.choice(([value], {"value": value}, [value, value]))
    elif kind == "negate" and isinstance(value, int | float):
        parent[last] = -value
    else:
        parent[last] = rng.choice(_strange_values())
    return tree


def _paths(tree: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    if len(path) < 12:  # strange values may be deeper than that
        for key, value in items:
            yield from _paths(value, (*path, key))


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree
