"""Which image of a run a file of proposals means: by the id, by the number in it, or by the picture's name."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipelines.exchange.export_proposals import number_of
from weaksam.errors import DataError

_LONG = 10**40  # whole numbers from here on are shown by their length


class KnownImages:
    """The images that a file may name.

    A number is an image's number (``export.number_of``). Text is an image's id, else such a number or the name of a picture,
    with or without its suffix.
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

    def __contains__(self, mark: str) -> bool:
        """Whether text is an image's id or a picture's name."""
        return mark in self._ids or mark in self._of_picture

    def find(self, mark: int | str, where: str) -> str:
        """Return the id of the image that ``mark`` means, or ``mark`` as text if no image is called so.

        Raises:
            DataError: several images are called so, or it is a number and the run's images have none.
        """
        if mark in self._ids:
            return str(mark)
        if isinstance(mark, int) and not self._of_number:
            raise DataError(
                f"{where}: image {shown(mark)}: the run's images have no numbers (such as {min(self._ids, default='none')!r}); "
                "write their ids"
            )
        number = mark if isinstance(mark, int) else number_of(mark, self._kind)
        found = set() if number is None else set(self._of_number.get(number, ()))
        found |= set(self._of_picture.get(str(mark), ())) if isinstance(mark, str) else set()
        if len(found) > 1:
            raise DataError(
                f"{where}: {shown(mark)} may be image {' or '.join(sorted(found)[:4])}; write ids in full, or name one split "
                "with --split"
            )
        return found.pop() if found else mark if isinstance(mark, str) else shown(mark)


def shown(value: Any) -> str:
    """Return a short text of anything that a stranger's file may hold; it never fails and never takes long."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value):,}"
    if isinstance(value, int) and abs(value) >= _LONG:  # Python refuses to print the longest
        return f"a number of {value.bit_length():,} bits"
    return repr(value[:60] if isinstance(value, (str, bytes)) else value)[:60]
