"""Folders directly in a data set that are called like splits: where all pictures lie in such, the folders are the splits."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from weaksam.datasets.passed_over import PassedOver

_ORDER = ("trainval", "train", "training", "val", "valid", "validation", "dev", "test", "testing")
_ALL = "all"


class SplitFolders(NamedTuple):
    """The splits that folders' names tell."""

    splits: tuple[str, ...]  # folders as they are called, in the customary order; or "all" alone
    passed_over: tuple[PassedOver, ...]  # folders called like splits that are none, since pictures lie beside them

    def split_of(self, path: str) -> str:
        """The split of a picture by its path under the data set's folder."""
        return _ALL if self.splits == (_ALL,) else path.partition("/")[0]


def split_folders(paths: Collection[str]) -> SplitFolders:
    """Tell the splits of pictures by their paths under the data set's folder. Capitals of the folders do not matter."""
    tops: dict[str, str] = {}
    for path in paths:
        top, slash, _ = path.partition("/")
        tops.setdefault(top if slash else "", path)
    named = sorted((top for top in tops if top.lower() in _ORDER), key=lambda top: (_ORDER.index(top.lower()), top))
    beside = [path for top, path in tops.items() if top not in named]
    if named and not beside:
        return SplitFolders(tuple(named), ())
    if len(named) < 2:  # one such folder among others may be of a class: train
        return SplitFolders((_ALL,), ())
    remedy = f"move what lies beside them, such as {beside[0]}, out of the data set to have splits"
    told = PassedOver("folders called like splits that are read as one split", len(named), ", ".join(named), remedy)
    return SplitFolders((_ALL,), (told,))
