"""Variables of a MATLAB file up to version 7 (MAT-file level 5): numbers, text, cells and structs, whatever else is in it.

Written because the common reader ends the process on some damaged files. Nothing is allocated that the file does not hold;
kinds of variables that are of no use here (arrays of structs, objects, sparse and complex arrays) come as their names.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

_HEADER = 128  # bytes: a text, the version and "IM" or "MI", which tells the order of bytes
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}  # how they are stored
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_OTHERS = {3: "an object", 5: "a sparse array", 16: "a function", 17: "an opaque object"}
_COMPLEX = 0x800  # flag of an array with an imaginary part
_DEEPEST = 8  # cells and structs in each other


@dataclass(frozen=True)
class Other:
    """Stands for a value that is neither numbers, text, a cell nor one struct."""

    kind: str

    def __repr__(self) -> str:
        return self.kind


class MatlabError(Exception):
    """The file is damaged, or of another version."""


def read_variables(data: bytes, names: Collection[str]) -> dict[str, Any]:
    """Return the variables of a file by name; those not in ``names`` as None.

    The others are arrays, text, lists for cells, dicts for structs, or ``Other``.

    Raises:
        MatlabError: the file is damaged.
        NotImplementedError: it is of version 7.3, which is HDF5.
    """
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise MatlabError("its header is not a MAT-file's")
    order = "<" if data[126:128] == b"IM" else ">"
    (version,) = struct.unpack(f"{order}H", data[124:126])
    if version == 0x0200:
        raise NotImplementedError("version 7.3")
    if version != 0x0100:
        raise MatlabError(f"expected version 0x0100, got {version:#06x}")
    reader = _Reader(data, _HEADER, order)
    found: dict[str, Any] = {}
    try:
        while reader.at < len(data):
            kind, content = reader.element()
            if kind == _COMPRESSED:
                kind, content = _Reader(_inflated(content), 0, order).element()
            if kind != _MATRIX:
                raise MatlabError(f"expected a variable at byte {reader.at:,}, got an element of type {kind}")
            name, value = _matrix(content, order, names)
            if name in found and name in names:
                raise MatlabError(f"the variable {name} stands in it twice")
            found[name] = value
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise MatlabError(str(error)[:100]) from error
    return found


class _Reader:
    """Walks the elements of a stretch of bytes."""

    def __init__(self, data: bytes, at: int, order: str) -> None:
        self.data, self.at, self.order = data, at, order

    def element(self) -> tuple[int, bytes]:
        """Return type and content of the next element, which is padded to 8 bytes unless it is compressed."""
        (first,) = struct.unpack_from(f"{self.order}I", self.data, self.at)
        if first >> 16:  # up to 4 bytes, within the tag itself
            kind, length, start = first & 0xFFFF, first >> 16, self.at + 4
            after = self.at + 8
            if length > 4:
                raise MatlabError(f"a short element of {length:,} bytes")
        else:
            (kind, length), start = struct.unpack_from(f"{self.order}II", self.data, self.at), self.at + 8
            after = start + length + (0 if kind == _COMPRESSED else -length % 8)
        if start + length > len(self.data):
            raise MatlabError(f"cut short: an element of {length:,} bytes at byte {self.at:,}")
        self.at = after
        return kind, self.data[start : start + length]


def _inflated(content: bytes) -> bytes:
    inflate = zlib.decompressobj()
    data = inflate.decompress(content)
    if not inflate.eof:
        raise MatlabError("cut short: a compressed variable")
    return data


def _matrix(content: bytes, order: str, names: Collection[str] | None, depth: int = 0) -> tuple[str, Any]:
    """Return the name of a variable, empty within cells, and its value, None unless it is among ``names`` or these are None."""
    if not content:
        return "", np.zeros((0, 0))  # MATLAB's way to write [] in a cell
    reader = _Reader(content, 0, order)
    _, flags = reader.element()
    kind_and_flags = struct.unpack_from(f"{order}I", flags)[0]
    kind = kind_and_flags & 0xFF
    if kind in (16, 17):  # no dimensions follow
        return "", Other(_OTHERS[kind])
    _, sides = reader.element()
    shape = struct.unpack(f"{order}{len(sides) // 4}i", sides[: len(sides) // 4 * 4])
    name = reader.element()[1].decode("latin-1")
    if names is not None and name not in names:
        return name, None
    if len(shape) < 2 or min(shape) < 0:
        raise MatlabError(f"an array of shape {shape}")
    if kind == _CELL:
        return name, _cells(reader, math.prod(shape), depth)
    if kind == _STRUCT:
        return name, _fields(reader, depth) if math.prod(shape) == 1 else Other("an array of structs")
    if kind in _OTHERS or kind_and_flags & _COMPLEX:
        return name, Other(_OTHERS.get(kind, "a complex array"))
    stored, values = reader.element() if math.prod(shape) else (2, b"")
    if kind == _CHAR:
        return name, _text(stored, values, shape, order)
    if stored not in _NUMBERS:
        raise MatlabError(f"numbers stored as type {stored}")
    flat = np.frombuffer(
        values[: len(values) // int(_NUMBERS[stored][1]) * int(_NUMBERS[stored][1])], order + _NUMBERS[stored]
    )
    if len(flat) != math.prod(shape):
        raise MatlabError(f"an array of shape {shape} with {len(flat):,} numbers")
    return name, flat.reshape(shape, order="F").astype(flat.dtype.newbyteorder("="))


def _cells(reader: _Reader, count: int, depth: int) -> list[Any]:
    if depth >= _DEEPEST:
        raise MatlabError(f"cells or structs in each other, more than {_DEEPEST} deep")
    if count > len(reader.data):  # each takes 8 bytes or more
        raise MatlabError(f"cut short: a cell array of {count:,}")
    values = []
    for _ in range(count):
        kind, content = reader.element()
        if kind != _MATRIX:
            raise MatlabError(f"expected an array in a cell, got an element of type {kind}")
        values.append(_matrix(content, reader.order, None, depth + 1)[1])
    return values


def _fields(reader: _Reader, depth: int) -> dict[str, Any]:
    """The fields of one struct by name: their names have one length, padded with zeros."""
    (length,) = struct.unpack(f"{reader.order}i", reader.element()[1])
    names = reader.element()[1]
    if length < 1 or len(names) % length:
        raise MatlabError(f"names of fields of {length:,} bytes each, {len(names):,} together")
    parts = [names[at : at + length].partition(b"\0")[0].decode("latin-1") for at in range(0, len(names), length)]
    if len(set(parts)) < len(parts):
        raise MatlabError("a field stands in a struct twice")
    return dict(zip(parts, _cells(reader, len(parts), depth), strict=True))


def _text(stored: int, values: bytes, shape: tuple[int, ...], order: str) -> Any:
    if stored not in _TEXTS:
        raise MatlabError(f"text stored as type {stored}")
    if shape[0] > 1 or len(shape) > 2:
        return Other("a table of letters")
    encoding = _TEXTS[stored]
    return values.decode(
        encoding if encoding in ("latin-1", "utf-8") else f"{encoding}-{'le' if order == '<' else 'be'}"
    )
