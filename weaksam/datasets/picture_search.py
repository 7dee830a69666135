"""Find the pictures that annotations name, wherever they lie under a data set's root.

A name is searched as it stands, then with backslashes as separators, then with its percent signs decoded; each of these
exactly, in either Unicode form, and at last whatever its capitals. A relative name must agree with the end of a path as a
whole; of an absolute one, which another machine wrote, the longest end that agrees with some path counts, unless another name
of the split agrees with more of that path.

Where several pictures have the name, evidence decides, in this order: the path that the name spells from the root or from the
annotation file's folder; a folder that is called like the split, and none that is called like another split; the one folder
that holds every picture of the split. Where it does not, that is an error: order never decides.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from weaksam.errors import DataError

_FROM_ELSEWHERE = re.compile(r"/|\.\./|[A-Za-z]:/|[A-Za-z][A-Za-z0-9+.-]*://")
_SYNONYMS = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
_EXACTLY, _AS_A_WORD, _LIKE_IT, _NOT = 3, 2, 1, 0  # how surely a folder's name names a split


@dataclass(frozen=True, slots=True)
class Found:
    """The pictures that a name may mean."""

    paths: tuple[str, ...]  # relative to the root; none, one or several
    tail: str  # the part of the name that agrees with all of them; of a picture that is missing, where to look for it
    whole: str  # the longest part that might agree: all of a relative name


class Pictures:
    """The files under a root, by name."""

    def __init__(self, root: str, paths: Iterable[str]) -> None:
        """Keep the ``paths``, which are relative to ``root``."""
        self._root = root.rstrip("/")
        self._paths = list(paths)
        self._by_name: dict[Callable[[str], str], dict[str, list[str]]] = {}

    def search(self, name: str) -> Found:
        """Return the pictures of a name."""
        for reading in _readings(name.removeprefix(f"{self._root}/")):
            tails = list(_tails(reading))
            for tail in tails:
                for spelled in (str, _composed, _folded):
                    paths = self._ending(tail, spelled)
                    if paths:
                        return Found(tuple(paths), tail, tails[0])
        *_, last = _readings(name)
        tails = list(_tails(last))
        return Found((), tails[-1] if _FROM_ELSEWHERE.match(last) else tails[0], tails[0])

    def _ending(self, tail: str, spelled: Callable[[str], str]) -> list[str]:
        if spelled not in self._by_name:
            index = defaultdict(list)
            for path in self._paths:
                index[spelled(posixpath.basename(path))].append(path)
            self._by_name[spelled] = dict(index)
        wanted = spelled(tail)
        same_name = self._by_name[spelled].get(posixpath.basename(wanted), ())
        return [path for path in same_name if f"/{spelled(path)}".endswith(f"/{wanted}")]


def choose(
    found: Sequence[Found], *, split: str, other_splits: Collection[str], beside: str, where: Callable[[int], str]
) -> list[str]:
    """Decide which picture each name of a split means.

    Args:
        found: what each of the split's names may mean.
        split: its name.
        other_splits: names of the data set's other splits, in use or not.
        beside: the folder of the annotation file, relative to the root.
        where: says where the name of this place stands, for messages.

    Returns:
        a path relative to the root for each name; of one that is missing, the path where most of the others suggest it.

    Raises:
        DataError: Several pictures have a name, and nothing tells which is meant.
    """
    found = _left_to_fuller_names(found)
    holds = Counter(_folder(path, one.tail) for one in found for path in one.paths)
    every = sum(bool(one.paths) for one in found)

    def decide(one: Found) -> tuple[str, ...]:
        paths = one.paths
        spelt = {posixpath.normpath(posixpath.join(beside, one.tail)), one.tail if "/" in one.tail else ""}
        kinds_of_evidence: tuple[Callable[[str], int], ...] = (
            lambda path: path in spelt,
            lambda path: names_split(posixpath.dirname(path), split, other_splits),
            lambda path: holds[_folder(path, one.tail)] == every,
        )
        for evidence in kinds_of_evidence:
            if len(paths) > 1:
                weights = [evidence(path) for path in paths]
                paths = tuple(path for path, weight in zip(paths, weights, strict=True) if weight == max(weights))
        return paths

    decided = [decide(one) for one in found]
    undecided = [n for n, paths in enumerate(decided) if len(paths) > 1]
    if undecided:
        first = undecided[0]
        paths = decided[first]
        raise DataError(
            f"{where(first)}: {found[first].tail!r} is the name of {len(paths)} pictures, {', '.join(paths[:4])}"
            f"{', …' if len(paths) > 4 else ''}, and nothing tells which is of split {split} ({len(undecided):,} of its "
            f"{len(found):,} names are alike); call the split's folder {split}, write the folder into the names "
            f"({paths[0]}), or move the other pictures out of the data set's folder"
        )
    usual = Counter(_folder(paths[0], one.tail) for one, paths in zip(found, decided, strict=True) if paths)
    expected = min(usual, key=lambda folder: (-usual[folder], folder), default=split)
    places = [
        paths[0] if paths else posixpath.join(expected, one.tail) for one, paths in zip(found, decided, strict=True)
    ]
    names_of = Counter(places)
    return [
        posixpath.join(expected, one.whole) if not paths and names_of[place] > 1 else place
        for one, paths, place in zip(found, decided, places, strict=True)
    ]


def _left_to_fuller_names(found: Sequence[Found]) -> list[Found]:
    """Take from shortened names the pictures that other names spell more of: theirs lie elsewhere, or nowhere."""
    agreed: dict[str, int] = defaultdict(int)  # characters, by path
    for one in found:
        for path in one.paths:
            agreed[path] = max(agreed[path], len(one.tail))
    return [
        one
        if one.tail == one.whole
        else replace(one, paths=tuple(path for path in one.paths if agreed[path] == len(one.tail)))
        for one in found
    ]


def names_split(folder: str, split: str, other_splits: Collection[str]) -> int:
    """Say how a folder's path speaks for a split: above 0 it names it, 0 it names none, below 0 it names another."""
    parts = folder.split("/")
    own = max(_likeness(part, split) for part in parts)
    other = max((_likeness(part, name) for name in other_splits for part in parts), default=_NOT)
    return own if own > other else 0 if own == other else -1


def _likeness(part: str, split: str) -> int:
    part, split = part.lower(), split.lower()
    words = re.split(r"[^a-z0-9]+", part)
    if part == split:
        return _EXACTLY
    if split in words:
        return _AS_A_WORD
    return _LIKE_IT if _stem(split) in map(_stem, words) else _NOT


def _stem(word: str) -> str:
    letters = re.sub(r"[^a-z]+", "", word)
    return _SYNONYMS.get(letters, letters) or word


def _folder(path: str, tail: str) -> str:
    """Return what stands before the ``tail`` of a path, which has as many characters in every spelling of its parts."""
    return "/".join(path.split("/")[: -len(tail.split("/"))])


def _readings(name: str) -> Iterator[str]:
    """Yield a name as it stands and the other ways to read it."""
    separated = name.replace("\\", "/")
    yield from dict.fromkeys((name, separated, unquote(separated)))


def _tails(reading: str) -> Iterator[str]:
    """Yield the ends of a name that a path may have: all of it, and of an absolute one ever less."""
    whole = posixpath.normpath(reading)
    parts = [part for part in whole.split("/") if part not in ("", ".", "..")] or [reading]
    shorter = range(len(parts)) if _FROM_ELSEWHERE.match(reading) or whole.startswith("../") else range(1)
    return ("/".join(parts[first:]) for first in shorter)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
