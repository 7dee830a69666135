"""One annotation file of PASCAL VOC: its bytes to objects' names and flags, and, apart from these, to boxes.

Strict where reading on would lose an object or invent one; lenient about what has one meaning only: any encoding that the
file declares, a declared UTF-16 that is none, namespaces, flags as words.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from weaksam.datasets.class_names import normal_name
from weaksam.errors import DataError
from weaksam.io.files import decode_text

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_DECLARATION = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([^"']*)["']""")
_DIFFICULT = {"": False, "0": False, "false": False, "1": True, "true": True}
_MOST_PIXELS = 2.0**31  # a coordinate beyond it is none


class VocObject(NamedTuple):
    """What is known of an object without looking at its box."""

    name: str
    difficult: bool
    boxed: bool  # whether there is a box at all


def parse_annotation(data: bytes, uri: str) -> Element:
    """Parse an annotation file.

    Returns:
        The element ``annotation``; tags are without namespaces.

    Raises:
        DataError: The file is not well-formed, has entities or an encoding that cannot be read, or is of another layout.
    """
    text = _decode(data, uri)
    try:
        root: Element = defusedxml.ElementTree.fromstring(text)
    except defusedxml.ElementTree.ParseError as error:
        line = error.position[0]
        raise DataError(f"{uri}:{line}: expected well-formed XML: {error}; repair or remove the file") from error
    except (DefusedXmlException, ValueError) as error:  # entities
        line = text.count("\n", 0, max(text.find("<!ENTITY"), 0)) + 1
        raise DataError(
            f"{uri}:{line}: expected plain XML without entities: {error}; remove the declaration"
        ) from error
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
    _require_layout(root, uri)
    return root


def sets_out_to_be_voc(data: bytes) -> bool:
    """Whether a file, which may be malformed, has VOC's outermost element."""
    return re.search(rb"<(\w+:)?annotation[\s>]", data.replace(b"\0", b"")[:10_000]) is not None


def objects_of(root: Element, uri: str) -> list[VocObject]:
    """Class name and flags of every object; nothing else of it is looked at.

    Raises:
        DataError: No name, several of them, or a flag of another kind.
    """
    objects = []
    for number, element in enumerate(root.iterfind("object"), start=1):
        names = [normal_name(name.text or "") for name in element.iterfind("name")]
        flags = [(flag.text or "").strip().lower() for flag in element.iterfind("difficult")] or ["0"]
        if len(names) != 1 or not names[0] or len(flags) != 1 or flags[0] not in _DIFFICULT:
            raise DataError(
                f"{uri}: object {number}: expected a <name> and, if any, a <difficult> 0 or 1, "
                f"got {_told(names)} and {_told(flags)}; correct the file"
            )
        objects.append(VocObject(names[0], _DIFFICULT[flags[0]], element.find("bndbox") is not None))
    return objects


def boxes_xyxy_of(root: Element, uri: str) -> list[tuple[float, float, float, float]]:
    """The box of every object, from 1 and inclusive as VOC counts to from 0 and exclusive.

    Raises:
        DataError: An object without a box, or a box without four numbers.
    """
    return [_box_xyxy(element, uri) for element in root.iterfind("object")]


def size_hw_of(root: Element, uri: str) -> tuple[int, int]:
    """Height and width that the file states; 0 where it states none.

    Raises:
        DataError: A side that is no whole number of pixels, or two sizes.
    """
    sizes = root.findall("size")
    if not sizes:
        return 0, 0
    if len(sizes) > 1:
        raise DataError(f"{uri}: expected one <size>, found {len(sizes)}; keep that of the picture")
    (size,) = sizes
    sides = []
    for name in ("height", "width"):
        value = 0.0 if size.find(name) is None else _number(size, name, uri)
        if value < 0 or value != int(value):
            raise DataError(
                f"{uri}: <size>: expected whole pixels in <{name}>, got {size.findtext(name)!r}; correct the file"
            )
        sides.append(int(value))
    return sides[0], sides[1]


def _decode(data: bytes, uri: str) -> str:
    """The file as text. What is readable as ASCII up to its declaration is not in UTF-16, whatever it declares."""
    if data.startswith((b"<\0", b"\0<")):
        return decode_text(data, uri, "utf-16-le" if data.startswith(b"<\0") else "utf-16-be")
    declared = _DECLARATION.match(data.removeprefix(b"\xef\xbb\xbf").lstrip())
    encoding = "utf-8" if declared is None else declared[1].decode("ascii", "replace").strip()
    if re.match(r"(?i)(utf|ucs|iso-10646-ucs)[-_]?(16|32|2|4)", encoding):
        encoding = "utf-8"
    try:
        return decode_text(data, uri, encoding)
    except DataError as error:
        raise DataError(f"{error}, or declare the encoding that it is in") from error
    except (LookupError, ValueError) as error:  # a name that Python does not know, that is no text encoding, or no name
        raise DataError(f"{uri}:1: expected an encoding of text, got {encoding!r}; save the file as UTF-8") from error


def _require_layout(root: Element, uri: str) -> None:
    """Refuse objects that lie where they would be passed over."""
    if root.tag != "annotation":
        raise DataError(f"{uri}: expected <annotation>, as in VOC, got <{root.tag}>; convert or remove the file")
    taken = {id(element) for element in root.iterfind("object")}
    for element in root.iter():
        if str(element.tag).lower() in ("object", "objects") and id(element) not in taken:
            raise DataError(
                f"{uri}: expected every object as <object> directly in <annotation>, got <{element.tag}> "
                "of other letters or elsewhere; correct the file"
            )


def _told(values: list[str]) -> str:
    return " and ".join(map(repr, values)) or "''"


def _box_xyxy(element: Element, uri: str) -> tuple[float, float, float, float]:
    boxes = element.findall("bndbox")
    if len(boxes) != 1:
        found = "none" if not boxes else str(len(boxes))
        raise DataError(
            f"{uri}: object {element.findtext('name')}: expected a <bndbox>, found {found}; correct the file"
        )
    x1, y1, x2, y2 = (_number(boxes[0], name, uri) for name in ("xmin", "ymin", "xmax", "ymax"))
    return x1 - 1, y1 - 1, x2, y2


def _number(parent: Element, name: str, uri: str) -> float:
    texts = [child.text or "" for child in parent.iterfind(name)]
    try:
        value = float(texts[0]) if len(texts) == 1 and "_" not in texts[0] else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) < _MOST_PIXELS:
        got = repr(texts[0][:40]) if len(texts) == 1 else f"{len(texts)} of them"
        raise DataError(f"{uri}: <{parent.tag}>: expected a number in <{name}>, got {got}; correct the file")
    return value
