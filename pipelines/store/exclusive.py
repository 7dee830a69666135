"""A file that only one of many can create, wherever they are: what a lock stands on."""

from __future__ import annotations

import os
import posixpath

from pipelines.store.explain import naming
from pipelines.store.files import is_local
from weaksam.io.files import open_fs


def create_exclusively(uri: str, data: bytes) -> bool:
    """Create a non-empty file that must not exist yet; return False when it does. Safe against a second caller anywhere.

    Raises:
        OSError: naming the file, of which nothing is left behind.
    """
    fs, path = open_fs(uri)
    if is_local(fs):
        os.makedirs(posixpath.dirname(path), exist_ok=True)
    try:
        file = fs.open(path, "xb")  # O_EXCL on a disk, a conditional put (If-None-Match) on S3
    except FileExistsError:
        return False
    try:
        with naming(path), file:
            file.write(data)
    except FileExistsError:  # S3 answers at the end
        return False
    except OSError:
        if is_local(fs):
            os.unlink(path)  # ours, and of no use
        raise
    return True
