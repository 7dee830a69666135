"""COCO: ``annotations/instances_<split>.json`` and folders of images.

Image-level labels come from ``category_id`` and ``iscrowd`` alone; ``bbox`` is looked at by ``ground_truth`` and nowhere
else. XYWH becomes XYXY with exclusive right and bottom. Classes are ordered by ascending category id. A crowd, whose box
says little about single objects, is to labels what VOC's difficult objects are: it counts for ``labels_difficult`` only.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from weaksam.datasets.ground_truth import TrueObject, ground_truth_of
from weaksam.datasets.passed_over import PassedOver
from weaksam.errors import DataError
from weaksam.files import join, list_files, read_annotations
from weaksam.images import IMAGE_SUFFIXES
from weaksam.structures import GroundTruth, ImageRecord

_FOLDER = "annotations"
_PREFIX = "instances_"


class CocoDataset:
    """A folder of images with instances JSON files of any year or name; a file's name gives its split's."""

    kind: ClassVar[str] = "coco"

    def __init__(self, uri: str, *, splits: Sequence[str] = ()) -> None:
        """Open a data set; the JSON files are parsed when first asked for.

        Args:
            uri: The folder that holds ``annotations``.
            splits: Splits to use; empty = all. Only their files are read.

        Raises:
            DataError: There are no instances files, or not of these splits.
        """
        self._root = uri
        available = find_splits(uri)
        missing = [split for split in splits if split not in available]
        if missing or not available:
            raise DataError(
                f"{join(uri, _FOLDER)}: expected {_PREFIX}{missing[0] if missing else 'train2017'}.json or the like, "
                f"found splits {', '.join(available) or 'none'}; set data.splits or check the path"
            )
        self.splits: tuple[str, ...] = tuple(splits) or available
        self._loaded: dict[str, _Split] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by ascending category id, of the first split's file; the others must have the same."""
        return tuple(name for _, name in self._categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO's own id of every class, ascending."""
        return tuple(category_id for category_id, _ in self._categories)

    def records(self, split: str) -> list[ImageRecord]:
        """One record per image of the file, in its order; an image without objects has empty labels.

        An image without a file gets the address where it should be.

        Raises:
            DataError: Unknown split, malformed file, duplicate ids, or none of its images found.
        """
        loaded = self._load(split)
        folder = self._image_folder(split)
        index = {category_id: i for i, category_id in enumerate(self.category_ids)}
        labels: dict[int, set[int]] = defaultdict(set)
        labels_difficult: dict[int, set[int]] = defaultdict(set)
        for item in loaded.objects:
            labels_difficult[item.image_id].add(index[item.category_id])
            if not item.crowd:
                labels[item.image_id].add(index[item.category_id])
        return [
            ImageRecord(
                image_id=str(image.image_id),
                uri=join(self._root, folder, image.file_name),
                split=split,
                labels=tuple(sorted(labels[image.image_id])),
                labels_difficult=tuple(sorted(labels_difficult[image.image_id])),
            )
            for image in loaded.images
        ]

    def ground_truth(self, split: str) -> dict[str, GroundTruth]:
        """The objects of every image of ``split`` by image id.

        Boxes are cut to the image's stated size; degenerate ones are left out, and both are counted.

        Raises:
            DataError: Unknown split, malformed file, or a box that is not four numbers.
        """
        loaded = self._load(split)
        index = {category_id: i for i, category_id in enumerate(self.category_ids)}
        objects: dict[int, list[TrueObject]] = defaultdict(list)
        for item in loaded.objects:
            box_xyxy = _box_xyxy(item, loaded.uri)
            objects[item.image_id].append(TrueObject(box_xyxy, index[item.category_id], crowd=item.crowd))
        return {str(image.image_id): ground_truth_of(objects[image.image_id], image.size_hw) for image in loaded.images}

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """Nothing yet."""
        return ()

    def fingerprint(self) -> str:
        """Changes with the content of the annotation files in use and with the names and sizes of all images."""
        digest = hashlib.sha256(b"coco")
        for split in self.splits:
            (data,) = read_annotations([self._uri(split)])
            digest.update(f"{split} {hashlib.sha256(data).hexdigest()}".encode())
        digest.update(repr(sorted(self._image_sizes.items())).encode())
        return digest.hexdigest()[:16]

    def _uri(self, split: str) -> str:
        return join(self._root, _FOLDER, f"{_PREFIX}{split}.json")

    @property
    def _categories(self) -> tuple[tuple[int, str], ...]:
        return self._load(self.splits[0]).categories

    @cached_property
    def _image_sizes(self) -> dict[str, int]:
        """Bytes of every image file under the root, by path."""
        return {name: size for name, size in list_files(self._root) if name.lower().endswith(IMAGE_SUFFIXES)}

    def _load(self, split: str) -> _Split:
        if split not in self.splits:
            raise DataError(f"{self._root}: expected a split of {', '.join(self.splits)}, got {split!r}")
        if split not in self._loaded:
            self._loaded[split] = _read_split(self._uri(split))
            if self._loaded[split].categories != self._categories:
                raise DataError(
                    f"{self._uri(split)}: expected the categories of {self._uri(self.splits[0])}, got other ids or names; "
                    "name splits of one data set in data.splits"
                )
        return self._loaded[split]

    def _image_folder(self, split: str) -> str:
        """The folder, relative to the root, under which most of the split's images lie; usual ones win a tie."""
        names = {image.file_name for image in self._load(split).images}
        by_basename = defaultdict(list)
        for name in names:
            by_basename[posixpath.basename(name)].append(name)
        hits = Counter({split: 0, f"images/{split}": 0, "images": 0, "": 0})
        for path in self._image_sizes:
            for name in by_basename.get(posixpath.basename(path), ()):
                if f"/{path}".endswith(f"/{name}"):
                    hits[path.removesuffix(name).rstrip("/")] += 1
        folder, found = hits.most_common(1)[0]
        if names and not found:
            raise DataError(
                f"{self._root}: expected the {len(names):,} images of {self._uri(split)} in {split}/, images/{split}/ or "
                f"another folder, found none (e.g. {min(names)}); put them there or leave the split out of data.splits"
            )
        return folder


class _Image(NamedTuple):
    image_id: int
    file_name: str
    size_hw: tuple[int, int]  # 0 where the file does not say


class _Object(NamedTuple):
    annotation_id: Any
    image_id: int
    category_id: int
    crowd: bool
    bbox: Any  # as it stands in the file


class _Split(NamedTuple):
    uri: str
    categories: tuple[tuple[int, str], ...]  # ascending ids
    images: list[_Image]
    objects: list[_Object]


def find_splits(uri: str) -> tuple[str, ...]:
    """Names of the splits that have a file ``annotations/instances_<split>.json``, sorted."""
    names = [name for name, _ in list_files(join(uri, _FOLDER)) if "/" not in name]
    return tuple(
        name.removeprefix(_PREFIX).removesuffix(".json")
        for name in names
        if name.startswith(_PREFIX) and name.endswith(".json")
    )


def _read_split(uri: str) -> _Split:
    (data,) = read_annotations([uri])
    try:
        document = json.loads(data)
    except json.JSONDecodeError as error:
        raise DataError(f"{uri}:{error.lineno}:{error.colno}: expected JSON: {error.msg}; repair the file") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{uri}: expected JSON in UTF-8: {error}; repair the file") from error
    if not isinstance(document, dict):
        raise DataError(f"{uri}: expected an object of images, annotations and categories, got {_kind(document)}")
    categories = _read_categories(document, uri)
    images = _read_images(document, uri)
    objects = _read_objects(document, uri, {i for i, _ in categories}, {image.image_id for image in images})
    return _Split(uri, categories, images, objects)


def _read_categories(document: dict[str, Any], uri: str) -> tuple[tuple[int, str], ...]:
    categories = []
    for number, item in enumerate(_list(document, "categories", uri)):
        where = ("categories", number)
        categories.append((_get(item, "id", int, where, uri), _get(item, "name", str, where, uri)))
    for key, values in (("id", [i for i, _ in categories]), ("name", [name for _, name in categories])):
        for value, count in Counter(values).items():
            if count > 1:
                raise DataError(
                    f"{uri}: categories: {key} {value!r} occurs {count} times; remove or rename all but one"
                )
    return tuple(sorted(categories))


def _read_images(document: dict[str, Any], uri: str) -> list[_Image]:
    images: dict[int, _Image] = {}
    for number, item in enumerate(_list(document, "images", uri)):
        where = ("images", number)
        image_id = _get(item, "id", int, where, uri)
        if image_id in images:
            raise DataError(f"{uri}: images[{number}]: id {image_id} occurs a second time; remove or renumber one")
        height, width = (_get(item, side, int, where, uri) if side in item else 0 for side in ("height", "width"))
        images[image_id] = _Image(image_id, _get(item, "file_name", str, where, uri), (height, width))
    return list(images.values())


def _read_objects(document: dict[str, Any], uri: str, category_ids: set[int], image_ids: set[int]) -> list[_Object]:
    objects = []
    for number, item in enumerate(_list(document, "annotations", uri)):
        where = ("annotations", number)
        image_id = _get(item, "image_id", int, where, uri)
        category_id = _get(item, "category_id", int, where, uri)
        if image_id not in image_ids:
            raise DataError(
                f"{uri}: annotations[{number}]: image_id {image_id} is not among the images; correct or add it"
            )
        if category_id not in category_ids:
            known = ", ".join(map(str, sorted(category_ids)))
            raise DataError(
                f"{uri}: annotations[{number}]: category_id {category_id} is not among the categories ({known}); "
                "correct or add it"
            )
        objects.append(_Object(item.get("id"), image_id, category_id, bool(item.get("iscrowd", 0)), item.get("bbox")))
    return objects


def _list(document: dict[str, Any], key: str, uri: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise DataError(f'{uri}: expected a list "{key}", got {_kind(entries)}; is this an instances file?')
    return entries


def _get(item: object, key: str, kind: type, where: tuple[str, int], uri: str) -> Any:
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        name = {int: "an integer", str: "a string"}[kind]
        got = _kind(item) if not isinstance(item, dict) else repr(value) if key in item else "nothing"
        raise DataError(f'{uri}: {where[0]}[{where[1]}]: expected {name} "{key}", got {got}; correct the file')
    return value


def _box_xyxy(item: _Object, uri: str) -> tuple[float, float, float, float]:
    box = item.bbox
    numbers = isinstance(box, list) and all(isinstance(value, int | float) and math.isfinite(value) for value in box)
    if not numbers or len(box) != 4:
        raise DataError(
            f'{uri}: annotation {item.annotation_id} of image {item.image_id}: expected "bbox" [x, y, width, height], '
            f"got {box!r}; correct the file"
        )
    x, y, width, height = (float(value) for value in box)
    return x, y, x + width, y + height


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "nothing"}.get(type(value), "a number")
