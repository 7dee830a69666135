"""Names that are safe in every file system and list."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from weaksam.errors import DataError
from weaksam.io.images import IMAGE_SUFFIXES

_UNSAFE = re.compile(r'^\.|[%/\\:*?"<>|\x00-\x1f]')  # in file names; a leading dot hides them


def file_stems(names: Sequence[str]) -> list[str]:
    """Return a file name without suffix for each image; raise DataError if two names differ in their suffix alone."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(file_stem(name), name)
        if other != name:
            raise DataError(
                f"images {other!r} and {name!r} would share one file; rename one of them, or export to coco"
            )
    if len(first) < len(names):
        raise DataError(f"{len(names) - len(first):,} images are the same picture as another one; export to coco")
    return list(first)


def file_stem(name: str) -> str:
    """Return a name without the suffix of an image file, unsafe characters as %XX: ``cam1/0001.jpg`` is ``cam1%2F0001``."""
    stem, suffix = posixpath.splitext(name)
    return safe_name(stem if suffix.lower() in IMAGE_SUFFIXES else name)


def suffixed(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Return a file name with one of some suffixes for each name, all different.

    Args:
        names: different ones; those that end in one of the suffixes stay as they are.
        suffixes: in lower case. To other names the first is added, and again as long as a file has that name.
    """
    files = [name if posixpath.splitext(name)[1].lower() in suffixes else "" for name in names]
    taken = set(files)
    for n, name in enumerate(names):
        if not files[n]:
            files[n] = f"{name}{suffixes[0]}"
            while files[n] in taken:
                files[n] += suffixes[0]
            taken.add(files[n])
    return files


def safe_name(name: str) -> str:
    """Return a name with the characters that a file's may not hold as %XX."""
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", name)


def without_blanks(stem: str) -> str:
    """Return a stem with blanks as %XX, for VOC's lists and result files, whose readers split lines at them."""
    return "".join(f"%{ord(c):02X}" if c.isspace() else c for c in stem)
