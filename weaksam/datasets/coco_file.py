"""One of COCO's instances files: images, annotations and categories, read as what they must be or refused with their place.

Numbers as text or with a fraction of zero (``"7"``, ``7.0``) and flags as numbers, text or booleans are taken for what they
say; whatever has two readings is an error. Coordinates are not looked at before ``Annotation.box_xyxy`` is asked for.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from weaksam.datasets.class_names import normal_name
from weaksam.errors import DataError
from weaksam.io.files import read_annotations

MAX_COORDINATE = 2**24  # pixels; float32 holds whole numbers up to here

_WHOLE = re.compile(r"[+-]?\d{1,20}(\.0*)?", re.ASCII)
_FLAGS = {"0": False, "1": True, "false": False, "true": True}
_XYWH, _XYXY = ("1", "boxmode.xywh_abs", "xywh_abs"), ("0", "boxmode.xyxy_abs", "xyxy_abs")  # detectron2's BoxMode
# A field that tells an annotation of another of COCO's kinds of files.
_OTHER_KINDS = {"caption": "captions", "segments_info": "panoptic segments"}


@dataclass(frozen=True, slots=True)
class Image:
    """An entry of ``images``."""

    number: int  # COCO's id
    file_name: str
    size_hw: tuple[int, int]  # 0 where the file does not say
    where: str  # "images[3]"


@dataclass(frozen=True, slots=True)
class Annotation:
    """An entry of ``annotations``; what is of type Any stands as it does in the file, None where it does not."""

    image: int
    category: int
    crowd: bool
    place: int  # in the list, from 0
    own_id: Any
    has_box: bool
    bbox: Any
    bbox_mode: Any

    def box_xyxy(self, uri: str) -> tuple[float, float, float, float]:
        """Return the box with exclusive right and bottom, not cut to the image.

        Raises:
            DataError: It is not four finite numbers, or of a ``bbox_mode`` that is not in pixels of the image.
        """
        mode = str(self.bbox_mode).strip().lower()
        if mode not in _XYWH + _XYXY:
            raise DataError(
                f"{uri}: {self._name}: expected bbox_mode 1 (x, y, width, height) or 0 (x1, y1, x2, y2), got "
                f"{shown(self.bbox_mode)}; write boxes in pixels as [x, y, width, height] without bbox_mode"
            )
        values = [_coordinate(value) for value in self.bbox] if isinstance(self.bbox, list) else []
        if len(values) != 4 or not all(abs(value) <= MAX_COORDINATE for value in values):  # NaN is not
            raise DataError(
                f'{uri}: {self._name}: expected "bbox" [x, y, width, height] in pixels, got {shown(self.bbox)}; '
                "correct the annotation or remove it"
            )
        x, y, right, bottom = values
        return (x, y, right, bottom) if mode in _XYXY else (x, y, x + right, y + bottom)

    @property
    def _name(self) -> str:
        called = f"annotations[{self.place}]" if self.own_id is None else f"annotation {shown(self.own_id)}"
        return f"{called} of image {self.image}"


@dataclass(frozen=True, slots=True)
class CocoFile:
    """What weaksam takes from an instances file."""

    uri: str
    categories: tuple[tuple[int, str], ...]  # ascending ids
    images: list[Image]
    annotations: list[Annotation]


def read_coco_file(uri: str, *, annotated: bool = True) -> CocoFile:
    """Read and check an instances file. Raises ``DataError`` with the place of what is wrong.

    Args:
        uri: the file.
        annotated: whether it has annotations; without, it is a list of pictures, and annotations in it are not looked at.
    """
    document = parse_json(next(read_annotations([uri])), uri)
    if not isinstance(document, dict):
        raise DataError(f"{uri}: expected an object of images, annotations and categories, got {_kind(document)}")
    _refuse_other_kinds(document, uri)
    categories = _read_categories(document, uri)
    images = _read_images(document, uri)
    if not annotated:
        return CocoFile(uri, categories, images, [])
    annotations = _read_annotations(document, uri, {i for i, _ in categories}, {image.number for image in images})
    return CocoFile(uri, categories, images, annotations)


def parse_json(data: bytes, uri: str) -> Any:
    """Parse JSON in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark. Raises ``DataError`` for all else."""
    text = decode_json(data, uri)
    if not text.strip():
        raise DataError(f"{uri}:1:1: expected JSON, got an empty file; restore it or remove it")
    try:
        return json.loads(text, object_pairs_hook=_without_contradiction)
    except json.JSONDecodeError as error:
        raise DataError(f"{uri}:{error.lineno}:{error.colno}: expected JSON: {error.msg}; repair the file") from error
    except _TwiceError as error:
        raise DataError(f"{uri}: {error}; keep one of them") from None
    except RecursionError:
        raise DataError(f"{uri}: expected JSON of a few levels, got one nested too deeply; repair the file") from None
    except ValueError as error:  # Python refuses numbers of thousands of digits
        raise DataError(f"{uri}: expected JSON with numbers of ordinary length: {error}; repair the file") from error


def decode_json(data: bytes, uri: str) -> str:
    """Decode the text of a JSON file, whose first bytes tell which Unicode it is. Raises ``DataError`` for all else."""
    if data.startswith(b"\x1f\x8b"):
        raise DataError(f"{uri}: expected JSON, got a gzip file; unpack it (gunzip)")
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{uri}:{line}: expected JSON in UTF-8, got the byte {data[error.start]:#04x} at {error.start:,}; save the file as "
            "UTF-8 (if it is Latin-1: iconv -f latin1 -t utf-8)"
        ) from error


def shown(value: object) -> str:
    """Return a short ``repr`` for messages, whatever the value."""
    text = repr(value) if isinstance(value, str) and len(value) <= 60 else reprlib.repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


class _TwiceError(Exception):
    """An object has two different values under one key."""


def _without_contradiction(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        first: dict[str, Any] = {}
        for key, value in pairs:
            if first.setdefault(key, value) != value:
                of = f" of id {shown(found['id'])}" if "id" in found and key != "id" else ""
                raise _TwiceError(
                    f"expected each key once in an object, got {shown(key)} with {shown(first[key])} and with "
                    f"{shown(value)} in one{of}"
                )
    return found


def _refuse_other_kinds(document: dict[str, Any], uri: str) -> None:
    annotations = document.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    for key, what in _OTHER_KINDS.items():
        if isinstance(first, dict) and key in first and "category_id" not in first:
            raise DataError(
                f"{uri}: expected instances (annotations with category_id and bbox), got {what}; put the instances file in "
                "its place, or name the other splits in data.splits"
            )


class _Entry(NamedTuple):
    """One entry of one of the document's lists."""

    uri: str
    of: str
    place: int
    fields: Any

    @property
    def where(self) -> str:
        return f"{self.uri}: {self.of}[{self.place}]"

    def error(self, key: str, expected: str) -> DataError:
        if not isinstance(self.fields, dict):
            got = _kind(self.fields)
        else:
            got = shown(self.fields[key]) if key in self.fields else "nothing"
        return DataError(f'{self.where}: expected {expected} "{key}", got {got}; correct the file')

    def get(self, key: str) -> Any:
        return self.fields.get(key) if isinstance(self.fields, dict) else None

    def integer(self, key: str) -> int:
        value = _whole(self.get(key))
        if value is None:
            raise self.error(key, "an integer")
        return value

    def size(self, key: str) -> int:
        """A number of pixels; 0 where there is none."""
        if self.get(key) is None:
            return 0
        value = _whole(self.get(key))
        if value is None or not 0 <= value <= MAX_COORDINATE:
            raise self.error(key, "a whole number of pixels, or 0 where it is not known,")
        return value

    def flag(self, key: str) -> bool:
        """0 or 1, whatever its type; False where there is none."""
        value = self.get(key)
        if value is None or (type(value) is int and value == 0):  # nearly always
            return False
        text = str(int(value)) if isinstance(value, bool | int | float) and value in (0, 1) else value
        if not isinstance(text, str) or text.strip().lower() not in _FLAGS:
            raise self.error(key, "0 or 1 as")
        return _FLAGS[text.strip().lower()]

    def text(self, key: str) -> str:
        """A string that is not blank and that a file can hold."""
        value = self.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "a string")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.error(key, "a string of Unicode characters without lone surrogates") from None
        return value


def _read_categories(document: dict[str, Any], uri: str) -> tuple[tuple[int, str], ...]:
    categories = []
    for place, item in enumerate(_list(document, "categories", uri)):
        entry = _Entry(uri, "categories", place, item)
        name = entry.get("name")
        is_number = isinstance(name, int) and not isinstance(name, bool)
        categories.append((entry.integer("id"), shown(name) if is_number else normal_name(entry.text("name"))))
    for key, values in (("id", [i for i, _ in categories]), ("name", [name for _, name in categories])):
        for value, count in Counter(values).items():
            if count > 1:
                raise DataError(
                    f"{uri}: categories: {key} {value!r} occurs {count} times; remove or rename all but one"
                )
    return tuple(sorted(categories))


def _read_images(document: dict[str, Any], uri: str) -> list[Image]:
    images: dict[int, Image] = {}
    for place, item in enumerate(_list(document, "images", uri)):
        entry = _Entry(uri, "images", place, item)
        number = entry.integer("id")
        if number in images:
            raise DataError(f"{entry.where}: id {number} occurs a second time; remove or renumber one")
        size_hw = entry.size("height"), entry.size("width")
        images[number] = Image(number, entry.text("file_name"), size_hw, f"images[{place}]")
    return list(images.values())


def _read_annotations(
    document: dict[str, Any], uri: str, categories: set[int], image_numbers: set[int]
) -> list[Annotation]:
    annotations = []
    for place, item in enumerate(_list(document, "annotations", uri)):
        entry = _Entry(uri, "annotations", place, item)
        image, category = entry.integer("image_id"), entry.integer("category_id")
        if image not in image_numbers:
            raise DataError(f"{entry.where}: image_id {image} is not among the images; correct or add it")
        if category not in categories:
            known = ", ".join(map(str, sorted(categories)[:100]))
            raise DataError(
                f"{entry.where}: category_id {category} is not among the categories ({known}); correct or add it"
            )
        annotations.append(
            Annotation(
                image=image,
                category=category,
                crowd=entry.flag("iscrowd"),
                place=place,
                own_id=item.get("id"),
                has_box="bbox" in item,
                bbox=item.get("bbox"),
                bbox_mode=item.get("bbox_mode", _XYWH[0]),
            )
        )
    return annotations


def _list(document: dict[str, Any], key: str, uri: str) -> list[Any]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise DataError(
            f'{uri}: expected a list "{key}", got {_kind(entries)}; is this an instances file? Correct it, or name the other '
            "splits in data.splits"
        )
    return entries


def _whole(value: object) -> int | None:
    """The whole number of 64 bits that ``value`` is or spells, else None."""
    if type(value) is int and 0 <= value < 2**63:  # nearly always, and there are millions
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value.partition(".")[0])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and -(2**63) <= value < 2**63 else None  # type: ignore[operator,return-value]


def _coordinate(value: object) -> float:
    """The number that ``value`` is or spells; NaN for everything else, numbers too large for a float included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "nothing", bool: "a boolean"}
    return names.get(type(value), "a number")
