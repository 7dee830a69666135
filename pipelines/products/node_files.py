"""What many processes of a node look up in a table: one Arrow file on the node's disk, mapped into memory.

Loaders of a training and actors of a stage share its pages, which are the operating system's, whichever process has read them
first. The first one that asks reads the table part by part and writes the file, while the others wait.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa

from pipelines.store.tables import Rows
from weaksam.io.node_cache import OF_THIS_DISK, cache_folder, ensure, trim, usual_folder

logger = logging.getLogger(__name__)

_LIMIT_BYTES = (
    32 * 2**30
)  # of the files of a kind on this node; of 118,287 images 200 boxes each are 380 MB, label maps 1 GB
_IN_USE_S = 3_600.0  # files used within it stay, for a process that is about to open one


def on_this_node(
    table: Rows, write: Callable[[IO[bytes]], None], *, kind: str, what: str, choice: Sequence[str] = ()
) -> pa.RecordBatchFileReader | None:
    """Open the node's file of a table, or make it.

    Args:
        table: whose rows it is of.
        write: writes it.
        kind: of files, the name of their folder.
        what: it holds, for messages.
        choice: what decides beside the table what is in it.

    Returns:
        its reader; None where the node's disk does not take the file, which is said in the log: each process then holds what it
        looks up in its own memory.
    """
    name = f"{_digest([table.folder, table.set, *choice])}-{_digest(table.stamps())}.arrow"
    try:
        path = cache_folder(kind) / name
        try:
            return _mapped(path, write)
        except pa.ArrowException as error:
            logger.warning("%s: damaged (%s); made again now", path, error)
            path.unlink(missing_ok=True)
            return _mapped(path, write)
    except OSError as error:
        if error.errno not in OF_THIS_DISK:
            raise
        logger.warning(
            "%s: cannot keep the %s of %s here (%s), so that each process holds them in its own memory; free some space, or "
            "set WEAKSAM_CACHE to a folder on another disk",
            error.filename or usual_folder(kind),
            what,
            table.folder,
            error.strerror,
        )
        return None


def _mapped(path: Path, write: Callable[[IO[bytes]], None]) -> pa.RecordBatchFileReader:
    if ensure(path, write):
        _remove_others(path)
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _digest(of: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(of).encode()).hexdigest()[:16]


def _remove_others(path: Path) -> None:
    """Remove files of what the table was before, and then those that were used least recently, if there are too many."""
    for other in path.parent.glob(f"{path.name.partition('-')[0]}-*"):
        if other != path:
            other.unlink(missing_ok=True)  # who has it mapped keeps it
    trim(path.parent, _LIMIT_BYTES, spare_used_after=time.time() - _IN_USE_S)
