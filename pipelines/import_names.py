"""Which image of a run a file of proposals means: by the id, by the number in it, or by the picture's name."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping

from pipelines.export import number_of
from weaksam.errors import DataError


class KnownImages:
    """The images that a file may name.

    A number is an image's number (``export.number_of``). Text is an image's id, else such a number, or the name of one
    picture with or without its suffix.
    """

    def __init__(self, ids: Iterable[str], kind: str, uris: Mapping[str, str]) -> None:
        """Note what the images are called; ``uris``, by id, may lack any of them."""
        self._kind = kind
        self._ids: set[str] = set(ids)
        self._of_number: dict[int, list[str]] = defaultdict(list)
        self._of_picture: dict[str, list[str]] = defaultdict(list)
        for image_id in sorted(self._ids):
            number = number_of(image_id, kind)
            if number is not None:
                self._of_number[number].append(image_id)
            name = posixpath.basename(uris.get(image_id, ""))
            for called in {name, posixpath.splitext(name)[0]} - {""}:
                self._of_picture[called].append(image_id)

    def find(self, mark: int | str, where: str) -> str:
        """Return the id of the image that ``mark`` means, or ``mark`` as text if no image is called so.

        Raises:
            DataError: several images are called so.
        """
        if mark in self._ids:
            return str(mark)
        number = mark if isinstance(mark, int) else number_of(mark, self._kind)
        found = set() if number is None else set(self._of_number.get(number, ()))
        if isinstance(mark, str):
            found |= set(self._of_picture.get(mark, ()))
        if len(found) > 1:
            raise DataError(
                f"{where}: {mark!r} may be image {' or '.join(sorted(found))}; write the ids in full, or name one split with "
                "--split"
            )
        return found.pop() if found else f"{mark:x}" if isinstance(mark, int) and abs(mark) >= _LONG else str(mark)


_LONG = 10**100  # longer numbers are shown in base 16: Python refuses to print the longest in base 10
