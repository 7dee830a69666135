"""Where fetched weights are kept on a machine."""

from __future__ import annotations

import hashlib
import os
import posixpath
from pathlib import Path
from urllib.parse import urlsplit

from weaksam.errors import CheckpointError
from weaksam.io.node_cache import cache_folder, usual_folder

_WEIGHTS = "weights"  # kind of files


def default_cache_dir() -> Path:
    """Return where downloads are kept: ``$WEAKSAM_CACHE``, else ``~/.cache/weaksam``, in both cases under ``weights/``."""
    return usual_folder(_WEIGHTS)


def cached_path(uri: str, cache_dir: str | os.PathLike[str] = "") -> Path:
    """Return where the download of ``uri`` is kept, whether it is there or not: the same file name at two addresses differs.

    Where nobody says a folder and that in the home folder cannot be written to, it is a temporary folder, with a warning.
    """
    name = f"{hashlib.sha256(uri.encode()).hexdigest()[:8]}-{file_name(uri)}"
    usual = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    if cache_dir or (usual / name).is_file():
        return usual / name
    try:
        return cache_folder(_WEIGHTS) / name
    except OSError as error:
        raise CheckpointError(
            f"{usual}: no folder for fetched weights can be made here ({error.strerror}); set WEAKSAM_CACHE or weights.cache "
            "to a folder that can be written to"
        ) from error


def file_name(uri: str) -> str:
    """Return what the file at an address is called."""
    return posixpath.basename(urlsplit(uri).path) or "weights"
