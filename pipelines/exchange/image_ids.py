"""How other formats name images: by number, by id or by the picture's name; and which image of a run a file means by it."""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.store.tables import Rows
from weaksam.errors import DataError
from weaksam.io.files import read_text

_LONG = 10**40  # whole numbers from here on are shown by their length


def image_ids(images: Rows, kind: str, split: str) -> list[str]:
    """Return the ids of a split in the order of the formats: ascending for COCO, else the data set's own."""
    rows = images.read(("image_id", "split")).to_pylist()
    ids = [row["image_id"] for row in rows if row["split"] == split]
    if not ids:
        raise DataError(
            f"{images.folder}: no image in split {split!r}; it has {', '.join(sorted({r['split'] for r in rows}))}"
        )
    if kind != "coco":
        return ids
    return [image_id for _, image_id in sorted(zip(numeric_ids(ids, kind), ids, strict=True))]


def numeric_ids(ids: Sequence[str], kind: str) -> list[int]:
    """Return the number of each image in ``indexes``; raise DataError for ids that have none or share one."""
    numbers = []
    for image_id in ids:
        number = number_of(image_id, kind)
        if number is None:
            raise DataError(
                f"image {image_id!r} of a {kind} data set has no number, by which this format knows images; export as coco"
            )
        numbers.append(number)
    if len(set(numbers)) < len(numbers):
        twice = next(i for i, n in zip(ids, numbers, strict=True) if numbers.count(n) > 1)
        raise DataError(
            f"image {twice!r} and another image have the same number, by which this format knows images; export as coco"
        )
    return numbers


def numbers_if_all(ids: Sequence[str], kind: str) -> list[int] | None:
    """Return the number of each image, or None unless every one has a number of its own."""
    numbers = {number for number in (number_of(image_id, kind) for image_id in ids) if number is not None}
    return numeric_ids(ids, kind) if len(numbers) == len(ids) else None


def number_of(image_id: str, kind: str) -> int | None:
    """Return the number in an image's id: all its digits for VOC, COCO's own for COCO (``139``, ``valid/139``); or None."""
    digits = {"voc": image_id.replace("_", ""), "coco": image_id.rpartition("/")[2]}.get(kind, "")
    return int(digits) if digits.isdecimal() else None


def narrow(ids: Sequence[str], only: str, kind: str = "coco") -> list[str]:
    """Return those of ``ids`` that a list of ids or a COCO instances file names, in their order.

    Raises:
        DataError: the file cannot be read, or names an image that the split does not have.
    """
    try:
        text = read_text(only)
    except DataError as error:
        raise DataError(f"--only: expected a text file of image ids or a COCO instances file: {error}") from error
    of_name: dict[str | int, str] = {image_id: image_id for image_id in ids}
    named: list[str | int] = [line.strip() for line in text.splitlines() if line.strip()]
    if only.endswith(".json"):
        named = _ids_of_instances(text, only)
        numbers = ((number_of(image_id, kind), image_id) for image_id in ids)
        of_name |= {number: image_id for number, image_id in numbers if number is not None}
    kept = {of_name[name] for name in named if name in of_name}
    unknown = [name for name in named if name not in of_name]
    if not kept:
        raise DataError(f"{only}: names none of the split's {len(ids):,} images, which are like {ids[0]!r}")
    if unknown:
        raise DataError(
            f"{only}: {len(unknown):,} of its {len(named):,} images are not in the split (such as {str(unknown[0])[:40]!a}); "
            "name the split that they are of, or take them out"
        )
    return [image_id for image_id in ids if image_id in kept]


def _ids_of_instances(text: str, only: str) -> list[str | int]:
    try:
        ids = [image["id"] for image in json.loads(text)["images"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{only}: expected COCO's instances with a list of images ({error!r})") from error
    wrong = next(
        (image_id for image_id in ids if not isinstance(image_id, (int, str)) or isinstance(image_id, bool)), None
    )
    if wrong is not None:
        raise DataError(f"{only}: expected numbers or text as ids of images, got {wrong!r:.40}")
    return ids


class KnownImages:
    """The images that a file may name.

    A number is an image's number (``number_of``). Text is an image's id, else such a number or the name of a picture,
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
