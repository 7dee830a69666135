"""What lies in a data set's folder and its reader did not take, so that nothing is passed over in silence."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Pictures of other formats than ``images`` reads, and what holds pictures.
_REMEDIES = {
    "convert them to JPEG or PNG": (
        ".arw", ".avifs", ".cr2", ".cr3", ".dcm", ".dib", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heics", ".heif", ".hif",
        ".ico", ".jxl", ".jxr", ".nef", ".nii", ".npy", ".orf", ".pcx", ".pdf", ".psd", ".raf", ".raw", ".rw2", ".sgi",
        ".svg", ".svs", ".tga", ".wdp", ".xcf",
    ),
    "unpack them": (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"),
    "take pictures out of them": (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"),
}  # fmt: skip
_REMEDY_OF = {suffix: remedy for remedy, suffixes in _REMEDIES.items() for suffix in suffixes}


@dataclass(frozen=True)
class PassedOver:
    """Files of one sort that a data set did not read."""

    what: str  # a plural: "files .heic", "annotation files of an unknown layout", "empty split lists"
    count: int
    example: str  # path under the data set's root, or URI
    remedy: str = ""  # what makes them read; empty where nothing would

    def __str__(self) -> str:
        """``11 files .heic (e.g. IMG_0.HEIC; convert them to JPEG or PNG)``."""
        return f"{self.count:,} {self.what} (e.g. {self.example}{'; ' if self.remedy else ''}{self.remedy})"


def by_suffix(paths: Iterable[str], *, remedy: str = "") -> tuple[PassedOver, ...]:
    """Count files by their suffix in lower case, most frequent first, then by suffix; the first path is the example.

    Pictures of formats that are not read have their own remedy.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[posixpath.splitext(path)[1].lower()].append(path)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(
        PassedOver(
            f"files {suffix}" if suffix else "files without suffix",
            len(names),
            names[0],
            _REMEDY_OF.get(suffix, remedy),
        )
        for suffix, names in ordered
    )


def is_unread_format(path: str) -> bool:
    """Whether a file is, by its name, a picture of a format that is not read, or holds pictures."""
    return posixpath.splitext(path)[1].lower() in _REMEDY_OF


def some(what: str, paths: Sequence[str], remedy: str = "") -> tuple[PassedOver, ...]:
    """Files of one sort by their paths; nothing if there are none."""
    return (PassedOver(what, len(paths), paths[0], remedy),) if paths else ()
