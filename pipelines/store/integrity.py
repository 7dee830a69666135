"""What a finished stage instance left behind, and whether it is still as it was.

The manifest keeps how many Parquet files there were, a digest of the images that they have rows of, and one of every other file
of the instance's folder. Parquet files need none: their pages carry checksums, and the same rows may be spread otherwise over
files when damaged ones are made again. Names that begin with ``_`` or ``.`` are no products, and nor are folders.
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

_DIGESTED_BYTES = (
    64 * 2**20
)  # of each file: all of what is not weights, and of those names, shapes and the first layers


def record(folder: str) -> dict[str, Any]:
    """Return what a manifest keeps of an instance's products, each only if there are any.

    Returns:
        ``parts``, the number of Parquet files; ``rows``, their number (``count``) and the digest of the images they are of
        (``image_ids``); ``files``, name -> digest.
    """
    parts, files = _products(folder)
    kept: dict[str, Any] = {}
    if parts:
        ids = sorted(Table(folder, pa.schema([IMAGE_ID])).ids())
        digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
        kept |= {"parts": len(parts), "rows": {"count": len(ids), "image_ids": digest}}
    if files:
        kept["files"] = {name: _digest(folder, name, size) for name, size in files.items()}
    return kept


def damage(folder: str, manifest: Mapping[str, Any], table: Table | None) -> dict[str, str]:
    """Return what is wrong with an instance's products, by file name; empty when they are what the manifest says.

    Args:
        folder: of the instance.
        manifest: of the instance; one that keeps no record is believed.
        table: the instance's, if its stage writes one; every part of it is read from end to end.
    """
    parts, files = _products(folder)
    found = {} if table is None else table.damaged()
    if "parts" in manifest and len(parts) != manifest["parts"] and not found:
        found[""] = f"expected {manifest['parts']:,} Parquet files, got {len(parts):,}"
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
