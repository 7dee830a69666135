"""A plain folder of images, with or without labels.

``labels.csv`` has the header ``path,labels``: a POSIX path under the folder and class names separated by ``;``. An image
without a row has unknown labels, an empty cell means none of the classes. ``classes.txt``, one name a line, fixes the
order of the classes, which otherwise are sorted. Nothing is known of boxes.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
from collections.abc import Container, Sequence
from typing import ClassVar

from weaksam.datasets.passed_over import PassedOver, by_suffix
from weaksam.errors import DataError
from weaksam.files import join, list_files, read_text
from weaksam.images import IMAGE_SUFFIXES
from weaksam.structures import GroundTruth, ImageRecord

_LABELS, _CLASSES = "labels.csv", "classes.txt"
_HEADER = ["path", "labels"]
_SPLIT_FOLDERS = ("train", "val", "test")


class FolderDataset:
    """All images under one folder; image ids are their POSIX paths under it.

    The one split is "all", unless every image lies in a folder ``train``, ``val`` or ``test``: then these are the splits.
    """

    kind: ClassVar[str] = "folder"

    def __init__(self, uri: str, *, splits: Sequence[str] = ()) -> None:
        """List the images and read the labels.

        Args:
            uri: The folder.
            splits: Splits to use; empty = all there are.

        Raises:
            DataError: No images, a malformed ``labels.csv`` or ``classes.txt``, or no such split.
        """
        self._root = uri
        files = dict(list_files(uri))
        self._texts = {name: read_text(join(uri, name)) for name in (_LABELS, _CLASSES) if name in files}
        classes = _parse_classes(self._texts[_CLASSES], join(uri, _CLASSES)) if _CLASSES in files else None
        rows = _parse_labels(self._texts[_LABELS], join(uri, _LABELS), files, classes) if _LABELS in files else {}
        self.class_names: tuple[str, ...] = (
            tuple(sorted({name for names in rows.values() for name in names})) if classes is None else classes
        )
        index = {name: i for i, name in enumerate(self.class_names)}
        self._labels = {path: tuple(sorted({index[name] for name in names})) for path, names in rows.items()}

        self._images = {name: files[name] for name in files if name in rows or name.lower().endswith(IMAGE_SUFFIXES)}
        self._ignored = [name for name in files if name not in self._images and name not in self._texts]
        if not self._images:
            raise DataError(
                f"{uri}: expected images ({' '.join(IMAGE_SUFFIXES)}), found none among {len(files):,} files; check the path"
            )
        top_folders = {name.partition("/")[0] for name in self._images}
        self._split_by_folder = top_folders <= set(_SPLIT_FOLDERS)
        available = tuple(s for s in _SPLIT_FOLDERS if s in top_folders) if self._split_by_folder else ("all",)
        missing = [split for split in splits if split not in available]
        if missing:
            raise DataError(f"{uri}: expected a split {missing[0]!r}, found {', '.join(available)}; set data.splits")
        self.splits: tuple[str, ...] = tuple(splits) or available

    def records(self, split: str) -> list[ImageRecord]:
        """One record per image of ``split``, sorted by path. Both kinds of labels are the same: nothing is difficult.

        Raises:
            DataError: Unknown split.
        """
        if split not in self.splits:
            raise DataError(f"{self._root}: expected a split of {', '.join(self.splits)}, got {split!r}")
        return [
            ImageRecord(
                image_id=name,
                uri=join(self._root, name),
                split=split,
                labels=self._labels.get(name),
                labels_difficult=self._labels.get(name),
            )
            for name in self._images
            if not self._split_by_folder or name.startswith(f"{split}/")
        ]

    def ground_truth(self, split: str) -> dict[str, GroundTruth]:  # noqa: ARG002
        """Empty: a folder says nothing of boxes."""
        return {}

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """Files that are no images by their names, and that ``labels.csv`` does not name."""
        return by_suffix(self._ignored)

    def fingerprint(self) -> str:
        """Changes with ``labels.csv``, ``classes.txt`` and the names and sizes of the images."""
        return hashlib.sha256(repr((self.kind, self._texts, self._images)).encode()).hexdigest()[:16]


def _parse_classes(text: str, uri: str) -> tuple[str, ...]:
    first: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if name and first.setdefault(name, number) != number:
            raise DataError(f"{uri}:{number}: class {name!r} stands already in line {first[name]}; remove one of them")
    return tuple(first)


def _parse_labels(text: str, uri: str, files: Container[str], classes: tuple[str, ...] | None) -> dict[str, list[str]]:
    """Class names by path. ``classes``, unless None, are the only names allowed."""
    rows: dict[str, list[str]] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if header != _HEADER:
            raise DataError(
                f"{uri}:1: expected the header {','.join(_HEADER)}, got {','.join(header)!r}; add or correct it"
            )
        for cells in reader:
            where = f"{uri}:{reader.line_num}"
            if cells:
                path, names = _parse_row(cells, where)
                _check_row(path, names, where, rows, files, classes)
                rows[path] = names
    except csv.Error as error:
        raise DataError(
            f"{uri}:{reader.line_num}: expected comma-separated cells: {error}; correct the line"
        ) from error
    return rows


def _parse_row(cells: list[str], where: str) -> tuple[str, list[str]]:
    if len(cells) != len(_HEADER):
        raise DataError(
            f"{where}: expected 2 cells, path and labels, got {len(cells)}; separate labels by ';' and put a path that "
            "holds a comma in double quotes"
        )
    path, labels = cells
    return path, [name.strip() for name in labels.split(";") if name.strip()]


def _check_row(
    path: str,
    names: list[str],
    where: str,
    rows: Container[str],
    files: Container[str],
    classes: tuple[str, ...] | None,
) -> None:
    if path in rows:
        raise DataError(f"{where}: {path!r} has a row already; keep one")
    if path not in files:
        raise DataError(
            f"{where}: there is no file {path!r} in this folder; write paths relative to it, with '/', or remove the row"
        )
    for name in names:
        if classes is not None and name not in classes:
            close = difflib.get_close_matches(name, classes, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise DataError(f"{where}: label {name!r} is not in {_CLASSES}; {hint}correct the row or add the class")
