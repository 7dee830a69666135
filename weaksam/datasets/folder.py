"""A plain folder of images, with or without labels.

``labels.csv`` has the header ``path,labels``: a path under the folder and class names separated by ``;``, see
``label_table``. An image without a row has unknown labels, an empty cell means none of the classes. ``classes.txt``, one
name a line, fixes the order of the classes, which otherwise are sorted. Nothing is known of boxes.

``masks/NAME.png`` is the true label map of the picture ``NAME.jpg`` or ``images/NAME.jpg``, whatever the picture's suffix and
however many folders NAME has: a PNG of numbers, 0 background, n the n-th class, 255 pixels that do not count.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Container, Iterable, Sequence
from typing import ClassVar

from weaksam.config import DataConfig
from weaksam.datasets.ground_truth import StatedSize
from weaksam.datasets.label_maps import MapFile, MapFiles, TrueLabelMaps
from weaksam.datasets.label_table import parse_classes, parse_labels
from weaksam.datasets.listing import list_data
from weaksam.datasets.passed_over import PassedOver, by_suffix, is_unread_format, some
from weaksam.datasets.split_folders import split_folders
from weaksam.errors import DataError
from weaksam.io.files import absolute, join, read_annotations, read_text
from weaksam.io.images import IMAGE_SUFFIXES
from weaksam.label_maps import decode_label_map
from weaksam.structures import GroundTruth, ImageRecord

_LABELS, _CLASSES = "labels.csv", "classes.txt"
_IMAGES, _MAPS = "images/", "masks/"
# Files that may say what the pictures show, in a layout or place that is not known.
_ANNOTATION_SUFFIXES = (".xml", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".tfrecord", ".mat")


class FolderDataset:
    """All images under one folder; image ids are their POSIX paths under it.

    The one split is "all", unless every image lies in a folder called like a split: then these folders are the splits.
    """

    kind: ClassVar[str] = "folder"

    def __init__(
        self, uri: str, *, splits: Sequence[str] = (), stated_size: StatedSize = "check", pictures_only: bool = False
    ) -> None:
        """List the images and read the labels.

        Args:
            uri: The folder.
            splits: Splits to use; empty = all there are.
            stated_size: What the sizes of true label maps count for.
            pictures_only: ``labels.csv`` and ``classes.txt`` are not read.

        Raises:
            DataError: No images, a malformed ``labels.csv`` or ``classes.txt``, or no such split.
        """
        self._root, self._stated_size = uri, stated_size
        files = dict(list_data(uri))
        names = {name: path for name in (_LABELS, _CLASSES) if (path := _one_called(name, files, uri))}
        texts = {} if pictures_only else {name: read_text(join(uri, path)) for name, path in names.items()}
        self._texts = texts
        classes = parse_classes(texts[_CLASSES], join(uri, names[_CLASSES])) if _CLASSES in texts else None
        rows = parse_labels(texts[_LABELS], join(uri, names[_LABELS]), files, classes) if _LABELS in texts else {}
        self.class_names: tuple[str, ...] = (
            tuple(sorted({name for labels in rows.values() for name in labels})) if classes is None else classes
        )
        index = {name: i for i, name in enumerate(self.class_names)}
        self._labels = {path: tuple(sorted({index[name] for name in labels})) for path, labels in rows.items()}

        pictures = [
            path
            for path in files
            if path.lower().endswith(IMAGE_SUFFIXES) or (path in rows and not is_unread_format(path))
        ]
        self._map_of = _maps_of(pictures, rows)
        maps = {path for path in pictures if _is_map(path, rows)} if self._map_of else set()
        self._images = {path: files[path] for path in pictures if path not in maps}
        self._maps = {path: files[path] for path in sorted(maps)}
        others = [path for path in files if path not in {*pictures, *names.values()}]
        told = (
            *some("empty tables of labels", [names[_LABELS]] if _LABELS in texts and not rows else []),
            *some("label maps of no picture", sorted(maps.difference(self._map_of.values()))),
            *_told(others),
        )
        if not self._images:
            among = f"none among {len(files):,} files" if files else "no file, or no such folder"
            found = among + (f" ({', '.join(map(str, told))})" if told else "")
            raise DataError(f"{uri}: expected images ({' '.join(IMAGE_SUFFIXES)}), found {found}; check the path")
        self._folders = split_folders(self._images)
        self.passed_over: tuple[PassedOver, ...] = (*self._folders.passed_over, *told)
        available = self._folders.splits
        missing = [split for split in splits if split not in available]
        if missing:
            raise DataError(f"{uri}: expected a split {missing[0]!r}, found {', '.join(available)}; set data.splits")
        self.splits: tuple[str, ...] = tuple(splits) or available

    @classmethod
    def from_config(cls, config: DataConfig) -> FolderDataset:
        """Open the data set that ``config`` means."""
        return cls(
            absolute(config.uri),
            splits=config.splits,
            stated_size=config.stated_size,
            pictures_only=config.pictures_only,
        )

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
            if self._folders.split_of(name) == split
        ]

    def ground_truth(self, split: str, *, masks: bool = False) -> dict[str, GroundTruth]:  # noqa: ARG002
        """Empty: a folder says nothing of boxes."""
        return {}

    def true_label_maps(self, split: str) -> TrueLabelMaps:
        """Those of the pictures that have a file under ``masks/``.

        Raises:
            DataError: Unknown split.
        """
        paths = {record.image_id: self._map_of.get(record.image_id) for record in self.records(split)}
        return MapFiles(
            files={
                image_id: MapFile(join(self._root, path), self._maps[path])
                for image_id, path in paths.items()
                if path is not None
            },
            read=lambda uri: decode_label_map(next(read_annotations([uri])), uri),
            num_classes=len(self.class_names),
            stated_size=self._stated_size,
        )

    def fingerprint(self) -> str:
        """Changes with ``labels.csv``, ``classes.txt`` and the names and stamps of the images and label maps."""
        return hashlib.sha256(repr((self.kind, self._texts, self._images, self._maps)).encode()).hexdigest()[:16]


def _is_map(path: str, labelled: Container[str]) -> bool:
    return path.startswith(_MAPS) and path.lower().endswith(".png") and path not in labelled


def _maps_of(pictures: Sequence[str], labelled: Container[str]) -> dict[str, str]:
    """The label map of each picture that has one, both by their paths; a picture that is labelled is no map."""
    maps = {posixpath.splitext(path)[0]: path for path in pictures if _is_map(path, labelled)}
    stems = {
        path: f"{_MAPS}{posixpath.splitext(path.removeprefix(_IMAGES))[0]}"
        for path in pictures
        if not _is_map(path, labelled)
    }
    return {path: maps[stem] for path, stem in stems.items() if stem in maps}


def _one_called(name: str, files: Iterable[str], uri: str) -> str | None:
    """The file of this name directly in the folder, whatever its capitals; None if there is none."""
    paths = [path for path in files if path.lower() == name]
    if len(paths) > 1:
        raise DataError(f"{uri}: expected one {name}, found {' and '.join(paths)}; remove one")
    return paths[0] if paths else None


def _told(others: Sequence[str]) -> tuple[PassedOver, ...]:
    """Files that are no images by their names, that ``labels.csv`` does not name, and that are not read themselves."""
    tables = [path for path in others if posixpath.basename(path).lower() == _LABELS]
    annotations = [path for path in others if path not in tables and path.lower().endswith(_ANNOTATION_SUFFIXES)]
    apart = {*tables, *annotations}
    return (
        *some("tables of labels below the data set's folder", tables, "put one there, its paths relative to it"),
        *some(
            "annotation files of an unknown layout or place", annotations, "see README for the layouts that are read"
        ),
        *by_suffix(path for path in others if path not in apart),
    )
