"""What a finished stage instance left behind, and whether it is still as it was.

The manifest keeps a digest of every file that is no Parquet file. These need none: their pages carry checksums, and the same
rows may be spread otherwise over files when damaged ones are made again. Names that begin with ``_`` or ``.`` are no products,
and nor are folders.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines.store.schemas import IMAGE_ID
from pipelines.store.tables import Table
from weaksam.io.files import open_fs

# Of each file: all of what is not weights, and of those names, shapes and the first layers.
_DIGESTED_BYTES = 64 * 2**20


def record(folder: str) -> dict[str, Any]:
    """Return what a manifest keeps of an instance's other files, ``files``, name -> digest; empty if there are none."""
    _, files = _products(folder)
    return {"files": {name: _digest(folder, name, size) for name, size in files.items()}} if files else {}


def rows(folder: str) -> dict[str, Any]:
    """Return the number (``count``) and the digest of a folder's rows where they belong to one set alone; empty for none."""
    parts, _ = _products(folder)
    if not parts:
        return {}
    ids = sorted(Table(folder, pa.schema([IMAGE_ID])).ids())
    return {"count": len(ids), "digest": hashlib.sha256(json.dumps(ids).encode()).hexdigest()}


def damage(folder: str, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with an instance's other files, by name; a manifest that keeps no record is believed."""
    _, files = _products(folder)
    found = {}
    for name, digest in manifest.get("files", {}).items():
        if name not in files:
            found[name] = "it is gone"
        elif _digest(folder, name, files[name]) != digest:
            found[name] = "it is not what was written"
    return found


def _products(folder: str) -> tuple[list[str], dict[str, int]]:
    """Return the names of a folder's Parquet files, and its other files with their sizes."""
    fs, root = open_fs(folder)
    fs.invalidate_cache()
    listed = fs.ls(root, detail=True) if fs.exists(root) else []
    named = {posixpath.basename(info["name"].rstrip("/")): info for info in listed}
    shown = {name: info for name, info in named.items() if name and name[0] not in "._"}
    parts = [name for name in shown if name.endswith(".parquet")]
    files = {n: int(info["size"]) for n, info in shown.items() if info["type"] == "file" and n not in parts}
    return sorted(parts), dict(sorted(files.items()))


def _digest(folder: str, name: str, size: int) -> str:
    fs, root = open_fs(folder)
    with fs.open(posixpath.join(root, name), "rb") as file:
        return f"{size}:{hashlib.sha256(file.read(_DIGESTED_BYTES)).hexdigest()}"
