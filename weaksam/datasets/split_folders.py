"""Folders that are called like splits: where all pictures lie in such, side by side, the folders are the splits."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from weaksam.datasets.passed_over import PassedOver

_ORDER = ("trainval", "train", "training", "val", "valid", "validation", "dev", "test", "testing")
_ALL = "all"


class SplitFolders(NamedTuple):
    """The splits that folders' names tell."""

    splits: tuple[str, ...]  # folders as they are called, in the customary order; or "all" alone
    above: str  # the folder that holds them, with its slash; empty for the data set's own
    passed_over: tuple[PassedOver, ...]  # folders called like splits that are none, since pictures lie beside them

    def split_of(self, path: str) -> str:
        """The split of a picture by its path under the data set's folder."""
        return _ALL if self.splits == (_ALL,) else path.removeprefix(self.above).partition("/")[0]


def split_folders(paths: Collection[str]) -> SplitFolders:
    """Tell the splits of pictures by their paths under the data set's folder, or under the one folder that holds them all.

    Capitals of the folders' names do not matter.
    """
    above = ""
    tops = _tops(paths, above)
    while len(tops) == 1 and not _named(tops) and "" not in tops:
        above += f"{next(iter(tops))}/"
        tops = _tops(paths, above)
    named = _named(tops)
    beside = [path for top, path in tops.items() if top not in named]
    if named and not beside:
        return SplitFolders(tuple(named), above, ())
    if len(named) < 2:  # one such folder among others may be of a class: train
        return SplitFolders((_ALL,), "", ())
    remedy = f"move what lies beside them, such as {beside[0]}, out of the data set to have splits"
    told = PassedOver("folders called like splits that are read as one split", len(named), ", ".join(named), remedy)
    return SplitFolders((_ALL,), "", (told,))


def _tops(paths: Collection[str], above: str) -> dict[str, str]:
    """A picture of each folder directly below another, by the folder's name; empty for the other itself."""
    tops: dict[str, str] = {}
    for path in paths:
        top, slash, _ = path.removeprefix(above).partition("/")
        tops.setdefault(top if slash else "", path)
    return tops


def _named(tops: Collection[str]) -> list[str]:
    return sorted((top for top in tops if top.lower() in _ORDER), key=lambda top: (_ORDER.index(top.lower()), top))
