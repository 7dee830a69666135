"""The one picture that a list's line or a table's cell means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from weaksam.datasets.picture_search import Pictures
from weaksam.errors import DataError


def find_named(pictures: Pictures, base: str, readings: Iterable[str], where: str) -> str | None:
    """Find the picture of a name.

    Args:
        pictures: Paths under a folder.
        base: The address of that folder; a relative name may begin with the end of it (``VOC2007/JPEGImages/a``).
        readings: The name as it stands, and other ways to read it; the first that means any picture counts.
        where: Where the name stands, for the message.

    Returns:
        A path of ``pictures``, or None.

    Raises:
        DataError: Several pictures are meant alike.
    """
    for reading in dict.fromkeys(readings):
        for name in _below(reading, base):
            found = pictures.search(name).paths
            if len(found) > 1:
                raise DataError(
                    f"{where}: {reading!r} may mean {' or '.join(found)}; write the one that is meant as it stands here"
                )
            if found:
                return found[0]
    return None


def _below(name: str, base: str) -> Iterator[str]:
    """The name, and what is left of it without a head that is an end of the folder's address."""
    yield name
    parts = name.replace("\\", "/").removeprefix("./").split("/")
    for first in range(1, len(parts)):
        if f"/{base.rstrip('/')}".endswith(f"/{'/'.join(parts[:first])}"):
            yield "/".join(parts[first:])
