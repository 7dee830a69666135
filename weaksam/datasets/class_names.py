"""What class names from annotation files have in common: how they are written, and when two of them are suspect."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from weaksam.errors import DataError


def normal_name(text: str) -> str:
    """A class name in composed Unicode, each run of white space one blank, none at its ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def refuse_look_alikes(places: Mapping[str, str]) -> None:
    """Refuse names of several letters that differ in nothing but capitals: hardly ever are two classes meant.

    Args:
        places: where each name stands, by name.

    Raises:
        DataError: There are two such names.
    """
    first: dict[str, str] = {}
    for name in sorted(places):
        other = first.setdefault(name.casefold(), name)
        if other != name and len(name) > 1:  # single letters may be classes of their own: A and a
            raise DataError(
                f"{places[name]}: class {name!r} is {other!r} in {places[other]}; write the name alike everywhere, or, if "
                "they are two classes, give them names that differ in more than capitals"
            )
