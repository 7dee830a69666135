"""PASCAL VOC: ``JPEGImages``, ``Annotations``, ``ImageSets/Main``, in the devkit's layout.

Image-level labels come from names and difficult flags alone; coordinates are parsed by ``ground_truth`` and nowhere
else. VOC counts pixels from 1 and includes both corners: ``xmin ymin xmax ymax`` becomes ``xmin-1 ymin-1 xmax ymax``.
The stem of a file is its image's id; the ``filename`` inside an XML is not looked at.
"""

from __future__ import annotations

import hashlib
import logging
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from weaksam.datasets.ground_truth import StatedSize, TrueObject, ground_truth_of
from weaksam.datasets.passed_over import PassedOver
from weaksam.errors import DataError
from weaksam.files import is_folder, join, list_files, list_folders, read_annotations, read_texts
from weaksam.images import IMAGE_SUFFIXES
from weaksam.structures import GroundTruth, ImageRecord

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

log = logging.getLogger(__name__)

# The official classes; a data set that uses only these has all twenty, in this order.
CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_MAIN = "ImageSets/Main"
_PREFERRED_SPLITS = ("trainval", "train", "val", "test")
_LINE_OF_CLASS_LIST = re.compile(r"\S.*\s(-1|0|1)")


class VocDataset:
    """One year of a devkit, or anything laid out like it."""

    kind: ClassVar[str] = "voc"

    def __init__(self, uri: str, *, splits: Sequence[str] = (), stated_size: StatedSize = "check") -> None:
        """Open a data set.

        Args:
            uri: The folder that holds ``ImageSets/Main``, or one above it (``VOCdevkit``, or the folder that holds this).
            splits: Split lists to use, which may overlap; empty = as many as are disjoint, in the order trainval, train,
                val, test, others.
            stated_size: What the ``<size>`` of an XML counts for.

        Raises:
            DataError: There is no such layout, several years of it, or no such split.
        """
        self._root = _only_root(uri)
        self._stated_size = stated_size
        self._lists = _read_split_lists(self._root)
        unknown = [name for name in splits if name not in self._lists]
        if unknown or not self._lists:
            raise DataError(
                f"{join(self._root, _MAIN)}: expected split lists {', '.join(splits) or 'like trainval.txt'}, "
                f"found {', '.join(self._lists) or 'none'}; set data.splits"
            )
        self.splits: tuple[str, ...] = tuple(splits) or _disjoint(self._lists)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The official twenty if no other name occurs in the annotations, else all names that occur, sorted."""
        names = {name for objects in self._objects.values() for name, _ in objects}
        return CLASS_NAMES if names <= set(CLASS_NAMES) else tuple(sorted(names))

    def records(self, split: str) -> list[ImageRecord]:
        """One record per line of the split list; labels are None where an image has no XML.

        An image without a file gets the address where it should be.

        Raises:
            DataError: Unknown split, malformed XML, or two files for one image.
        """
        index = {name: i for i, name in enumerate(self.class_names)}
        records = []
        for image_id in self._ids(split):
            objects = self._objects.get(image_id)
            records.append(
                ImageRecord(
                    image_id=image_id,
                    uri=join(self._root, "JPEGImages", self._image_files.get(image_id, f"{image_id}.jpg")),
                    split=split,
                    labels=None
                    if objects is None
                    else _labels(index[name] for name, difficult in objects if not difficult),
                    labels_difficult=None if objects is None else _labels(index[name] for name, _ in objects),
                )
            )
        unlabelled = sum(record.labels is None for record in records)
        if 0 < unlabelled < len(records):
            log.warning("%s: %d of %d images of %s have no XML file", self._root, unlabelled, len(records), split)
        return records

    def ground_truth(self, split: str) -> dict[str, GroundTruth]:
        """The objects of every image of ``split`` that has an XML, by image id; empty if none has.

        Boxes are cut to the ``<size>`` that the XML states; one that states none, or 0, cuts nothing at that side.

        Raises:
            DataError: Unknown split, malformed XML, or a box without four numbers.
        """
        index = {name: i for i, name in enumerate(self.class_names)}
        truth = {}
        for image_id, uri, root in self._parsed(self._ids(split)):
            objects = [
                TrueObject(_box_xyxy(element, uri), index[name], difficult=difficult)
                for element, (name, difficult) in zip(root.iterfind("object"), _names(root, uri), strict=True)
            ]
            truth[image_id] = ground_truth_of(objects, _size_hw(root, uri), self._stated_size)
        return truth

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """Nothing yet."""
        return ()

    def fingerprint(self) -> str:
        """Changes with the split lists and with the names and sizes of annotations and images."""
        listings = repr((self._lists, sorted(self._annotations.items()), list_files(join(self._root, "JPEGImages"))))
        return hashlib.sha256(f"voc {listings}".encode()).hexdigest()[:16]

    def _ids(self, split: str) -> list[str]:
        if split not in self._lists:
            raise DataError(f"{self._root}: expected a split of {', '.join(self._lists)}, got {split!r}")
        return self._lists[split]

    @cached_property
    def _annotations(self) -> dict[str, int]:
        """Size of each XML by image id."""
        files = list_files(join(self._root, "Annotations"))
        return {name.removesuffix(".xml"): size for name, size in files if name.endswith(".xml")}

    @cached_property
    def _image_files(self) -> dict[str, str]:
        """File name under ``JPEGImages`` by image id."""
        listed = {image_id for ids in self._lists.values() for image_id in ids}
        found: dict[str, str] = {}
        for name, _ in list_files(join(self._root, "JPEGImages")):
            stem, suffix = posixpath.splitext(name)
            if stem in listed and suffix.lower() in IMAGE_SUFFIXES:
                other = found.setdefault(stem, name)
                if other != name:
                    raise DataError(
                        f"{join(self._root, 'JPEGImages')}: image {stem!r} has two files, {other} and {name}; remove one"
                    )
        return found

    @cached_property
    def _objects(self) -> dict[str, list[tuple[str, bool]]]:
        """Names and difficult flags by image id, of every listed image that has an XML."""
        listed = dict.fromkeys(image_id for ids in self._lists.values() for image_id in ids)
        return {image_id: _names(root, uri) for image_id, uri, root in self._parsed(listed)}

    def _parsed(self, image_ids: Iterable[str]) -> Iterator[tuple[str, str, Element]]:
        ids = [image_id for image_id in image_ids if image_id in self._annotations]
        uris = [join(self._root, "Annotations", f"{image_id}.xml") for image_id in ids]
        for image_id, uri, data in zip(ids, uris, read_annotations(uris), strict=True):
            yield image_id, uri, _parse(data, uri)


def find_roots(uri: str, levels: int = 2) -> list[str]:
    """Folders of VOC's layout at ``uri`` or, in folders named ``VOC…``, at most ``levels`` below it."""
    if is_folder(join(uri, _MAIN)):
        return [uri]
    below = [join(uri, name) for name in list_folders(uri) if levels and name.upper().startswith("VOC")]
    return [root for folder in below for root in find_roots(folder, levels - 1)]


def _only_root(uri: str) -> str:
    roots = find_roots(uri)
    if len(roots) != 1:
        found = f"several: {', '.join(roots)}; give one of them" if roots else "none; check the path"
        raise DataError(f"{uri}: expected one folder that holds {_MAIN}, found {found}")
    return roots[0]


def _read_split_lists(root: str) -> dict[str, list[str]]:
    """Image ids by split name, of every list but the per-class ones (``dog_train.txt``: an id and -1, 0 or 1 a line)."""
    folder = join(root, _MAIN)
    names = [name for name, _ in list_files(folder) if name.endswith(".txt") and "/" not in name]
    lists = {}
    for name, text in zip(names, read_texts([join(folder, name) for name in names]), strict=True):
        lines = [line.strip() for line in text.splitlines()]
        per_class = "_" in name and all(_LINE_OF_CLASS_LIST.fullmatch(line) for line in lines if line)
        if not per_class:
            lists[name.removesuffix(".txt")] = _unique(lines, join(folder, name))
    return lists


def _unique(lines: Sequence[str], uri: str) -> list[str]:
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line and first.setdefault(line, number) != number:
            raise DataError(
                f"{uri}:{number}: image {line!r} is listed already in line {first[line]}; remove one of them"
            )
    return list(first)


def _disjoint(lists: dict[str, list[str]]) -> tuple[str, ...]:
    order = [name for name in _PREFERRED_SPLITS if name in lists]
    order += sorted(lists.keys() - set(order))
    chosen: list[str] = []
    taken: set[str] = set()
    for name in order:
        if taken.isdisjoint(lists[name]):
            chosen.append(name)
            taken.update(lists[name])
    return tuple(chosen)


def _parse(data: bytes, uri: str) -> Element:
    try:
        root: Element = defusedxml.ElementTree.fromstring(data)
    except defusedxml.ElementTree.ParseError as error:
        line = error.position[0]
        raise DataError(f"{uri}:{line}: expected well-formed XML: {error}; repair or remove the file") from error
    except (DefusedXmlException, ValueError, LookupError) as error:  # entities; an encoding that Python does not know
        line = data.count(b"\n", 0, max(data.find(b"<!ENTITY"), 0)) + 1
        raise DataError(
            f"{uri}:{line}: expected plain XML without entities: {error}; remove the declaration"
        ) from error
    return root


def _names(root: Element, uri: str) -> list[tuple[str, bool]]:
    """Class name and difficult flag of every object; nothing else of it is looked at."""
    names = []
    for number, element in enumerate(root.iterfind("object"), start=1):
        name = (element.findtext("name") or "").strip()
        difficult = (element.findtext("difficult") or "0").strip()
        if not name or difficult not in ("0", "1"):
            raise DataError(
                f"{uri}: object {number}: expected a <name> and, if any, <difficult> 0 or 1, "
                f"got {name!r} and {difficult!r}; correct the file"
            )
        names.append((name, difficult == "1"))
    return names


def _box_xyxy(element: Element, uri: str) -> tuple[float, float, float, float]:
    box = element.find("bndbox")
    if box is None:
        raise DataError(f"{uri}: object {element.findtext('name')}: expected a <bndbox>, found none; correct the file")
    x1, y1, x2, y2 = (_number(box, name, uri) for name in ("xmin", "ymin", "xmax", "ymax"))
    return x1 - 1, y1 - 1, x2, y2


def _size_hw(root: Element, uri: str) -> tuple[int, int]:
    size = root.find("size")
    if size is None:
        return 0, 0
    height, width = (0 if size.find(name) is None else int(_number(size, name, uri)) for name in ("height", "width"))
    return height, width


def _number(parent: Element, name: str, uri: str) -> float:
    text = parent.findtext(name)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{uri}: <{parent.tag}>: expected a number in <{name}>, got {text!r}; correct the file")
    return value


def _labels(class_indices: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(class_indices)))
