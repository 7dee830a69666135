"""``labels.csv``: which classes a picture shows, as spreadsheets and people write it.

The header is ``path,labels``, whatever its capitals; cells are separated by commas, or by what the header shows: semicolons
or tabs. Empty cells at the end of a line count for nothing. A path finds its file as it stands; else as a file that ends so,
with backslashes or absolute, in either Unicode form and whatever its capitals, as long as one file only is meant.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Collection, Iterator

from weaksam.datasets.class_names import normal_name, refuse_look_alikes
from weaksam.datasets.named_pictures import find_named
from weaksam.datasets.picture_search import Pictures
from weaksam.errors import DataError
from weaksam.io.files import split_lines

_HEADER = ["path", "labels"]
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_OTHER_SEPARATORS = {",": "comma", "|": "vertical bar"}  # which some put between labels


def parse_labels(text: str, uri: str, files: Collection[str], classes: tuple[str, ...] | None) -> dict[str, list[str]]:
    """Read a table of labels.

    Args:
        text: The file's content.
        uri: Its address.
        files: Paths of the files that rows may name.
        classes: The only names allowed; None = any.

    Returns:
        Class names by path.

    Raises:
        DataError: A malformed line, a path that means no file, several files or one that has a row already, or a class
            that is not allowed, or differs from another in capitals only.
    """
    rows: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    search = Pictures(uri.rpartition("/")[0], files)
    for path, names, where in _rows(text, uri):
        found = _find(path, where, uri, files, search)
        if found in rows:
            raise DataError(
                f"{where}: {found!r} has a row already; write all of a picture's labels in one row, separated by ';'"
            )
        for name in names:
            _check_class(name, where, classes)
            places.setdefault(name, where)
        rows[found] = names
    refuse_look_alikes(places)
    return rows


def parse_classes(text: str, uri: str) -> tuple[str, ...]:
    """Read class names, one a line, in their order.

    Raises:
        DataError: A name stands there twice.
    """
    first: dict[str, int] = {}
    for number, line in enumerate(split_lines(text), start=1):
        name = normal_name(line)
        if name and first.setdefault(name, number) != number:
            raise DataError(f"{uri}:{number}: class {name!r} stands already in line {first[name]}; remove one of them")
    return tuple(first)


def _rows(text: str, uri: str) -> Iterator[tuple[str, list[str], str]]:
    """Path, class names and place of each row."""
    first_line = split_lines(text)[0]
    separator = max(_SEPARATORS, key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        if header[:2] != _HEADER or any(header[2:]):
            raise DataError(f"{uri}:1: expected the header {','.join(_HEADER)}, got {first_line!r}; add or correct it")
        for cells in reader:
            where = f"{uri}:{reader.line_num}"
            if any(cell.strip() for cell in cells):
                yield *_parse_row(cells, where, separator), where
    except csv.Error as error:
        raise DataError(
            f"{uri}:{reader.line_num}: expected {_SEPARATORS[separator]}-separated cells: {error}; correct the line"
        ) from error


def _parse_row(cells: list[str], where: str, separator: str) -> tuple[str, list[str]]:
    while len(cells) > len(_HEADER) and not cells[-1].strip():  # spreadsheets pad all rows to the longest one
        cells = cells[:-1]
    # Where semicolons separate cells too, each cell behind the path is a label.
    if len(cells) != len(_HEADER) and (separator != ";" or len(cells) < len(_HEADER)):
        raise DataError(
            f"{where}: expected 2 cells, path and labels, got {len(cells)}; separate labels by ';' and put a path that "
            f"holds a {_SEPARATORS[separator]} in double quotes"
        )
    path, *labels = cells
    names = [name.strip() for cell in labels for name in cell.split(";") if name.strip()]
    broken = [name for name in names if len(split_lines(name)) > 1]
    if broken:
        raise DataError(f"{where}: label {broken[0]!r} holds a line break; separate labels by ';'")
    return path, list(map(normal_name, names))


def _find(path: str, where: str, uri: str, files: Collection[str], search: Pictures) -> str:
    found = path if path in files else find_named(search, uri.rpartition("/")[0], (path, path.strip()), where)
    if found is not None:
        return found
    raise DataError(
        f"{where}: there is no file {path!r} in this folder; write paths relative to it, with '/', or remove the row"
    )


def _check_class(name: str, where: str, classes: tuple[str, ...] | None) -> None:
    held = [what for character, what in _OTHER_SEPARATORS.items() if character in name]
    if classes is None and held:
        raise DataError(
            f"{where}: label {name!r} holds a {held[0]}; separate labels by ';', or name it in classes.txt if it is one class"
        )
    if classes is not None and name not in classes:
        close = difflib.get_close_matches(name, classes, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise DataError(f"{where}: label {name!r} is not in classes.txt; {hint}correct the row or add the class")
