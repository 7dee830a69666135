"""Where fetched weights are kept on a machine."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from weaksam.errors import CheckpointError

logger = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """Return where downloads are kept: ``$WEAKSAM_CACHE``, else ``~/.cache/weaksam``, in both cases under ``weights/``."""
    return Path(os.environ.get("WEAKSAM_CACHE") or "~/.cache/weaksam").expanduser() / "weights"


def cached_path(uri: str, cache_dir: str | os.PathLike[str] = "") -> Path:
    """Return where the download of ``uri`` is kept, whether it is there or not: the same file name at two addresses differs.

    Where nobody says a folder and that in the home folder cannot be written to, it is a temporary folder, with a warning.
    """
    name = f"{hashlib.sha256(uri.encode()).hexdigest()[:8]}-{file_name(uri)}"
    folder = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    asked = bool(cache_dir or os.environ.get("WEAKSAM_CACHE"))
    if asked or (folder / name).is_file() or _can_be_written(folder):
        return folder / name
    return _temporary_cache(folder) / name


def file_name(uri: str) -> str:
    """Return what the file at an address is called."""
    return posixpath.basename(urlsplit(uri).path) or "weights"


def _can_be_written(folder: Path) -> bool:
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


@cache
def _temporary_cache(instead_of: Path) -> Path:
    """Return this user's folder for fetched weights among temporary files, and warn once of its use."""
    remedy = "set WEAKSAM_CACHE or weights.cache to a folder that can be written to"
    folder = Path(tempfile.gettempdir()) / f"weaksam-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        is_mine = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except OSError:
        is_mine = False
    if not is_mine:
        raise CheckpointError(
            f"{instead_of}: no folder for fetched weights can be made here, nor is {folder} mine; {remedy}"
        )
    said = "%s: cannot be written to; weights are kept in %s, which may not last; %s"
    logger.warning(said, instead_of, folder, remedy)
    return folder / "weights"
