"""``weaksam weights list`` and ``weaksam weights pull``: what weights there are, and fetching them ahead of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weaksam.config import SamConfig
from weaksam.io.weights import PUBLISHED, Progress, WeightsFile, cached_path, fetch_weights
from weaksam.sam import BUILTIN_SAM, sam_weights


@dataclass(frozen=True, kw_only=True)
class WeightsRow:
    """One line of the list. ``path`` is where the file is on this machine, or None when it has to be fetched first."""

    name: str
    note: str
    uri: str
    size_bytes: int | None
    sha256: str  # as published; possibly its first digits only, or empty
    path: Path | None


def list_weights() -> list[WeightsRow]:
    """Return the built-in weights, then those that others publish."""
    size = BUILTIN_SAM.stat().st_size if BUILTIN_SAM.is_file() else None
    builtin = WeightsRow(
        name="builtin",
        note="the small SAM that comes with weaksam: for drawings, tests and demos",
        uri=str(BUILTIN_SAM),
        size_bytes=size,
        sha256="",
        path=None if size is None else BUILTIN_SAM,
    )
    rows = [builtin]
    for name, published in PUBLISHED.items():
        path = cached_path(published.uri)
        rows.append(
            WeightsRow(
                name=name,
                note=published.note,
                uri=published.uri,
                size_bytes=published.size_bytes,
                sha256=published.sha256,
                path=path if path.is_file() else None,
            )
        )
    return rows


def pull_weights(name_or_uri: str, *, sha256: str = "", progress: Progress | None = None) -> WeightsFile:
    """Fetch weights by their name in the list or by address into the cache, where runs find them.

    Raises:
        CheckpointError: the weights cannot be fetched or have another checksum than ``sha256`` or the published one.
    """
    if name_or_uri == "builtin":
        return sam_weights(SamConfig(name="builtin", sha256=sha256))
    uri = PUBLISHED[name_or_uri].uri if name_or_uri in PUBLISHED else name_or_uri
    return fetch_weights(uri, sha256=sha256, progress=progress)
