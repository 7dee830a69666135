"""Reading pickles of boxes from strangers: numpy arrays, lists, dicts, text and numbers come in, nothing else does.

A pickle is a program for a small stack machine that may import and call anything. Here the few callables that numpy's own
pickles name are replaced by ours, which check what they are given and build plain arrays; every other name is refused,
before anything of it is imported. Instructions that such files have no use for are refused as well.

The machine is the standard library's Python one: the C one allocates what a file of ten bytes asks for, and neither keeps
a key from being a tuple nested so deeply that hashing it exhausts the stack. It reads fifty thousand arrays a second.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from weaksam.errors import DataError

_NUMBER = re.compile(r"[biuf](1|2|4|8)|b|\?")  # the dtypes of numbers, as numpy's pickles spell them
_BYTE_ORDERS: dict[str, Any] = {order: order for order in "<>|="}


def load_plain(data: bytes, where: str) -> Any:
    """Return what a pickle holds, if that is numpy arrays, lists, tuples, dicts, text, bytes and numbers only.

    Arrays of objects become arrays of such things; Python 2's text is read as Latin-1, as numpy's files of that time need.

    Raises:
        DataError: the pickle names anything else (``os.system``), or is damaged; ``where`` says whose it is.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except _RefusedError as error:
        raise DataError(
            f"{where}: expected a pickle of arrays, lists, dicts and numbers; it {error}; refused: write such "
            "a file, with objects turned into these"
        ) from error
    except Exception as error:
        # The machine checks nothing: a damaged file surfaces as nearly any built-in exception.
        said = str(error)[:120]  # some repeat what they stumbled over, of any length
        raise DataError(
            f"{where}: not a readable pickle ({type(error).__name__}: {said}); it is cut short, or another kind of file"
        ) from error


class _RefusedError(Exception):
    pass


class _Number:
    """Stands for ``numpy.dtype``: a type of numbers, or of objects (then an array is only a list with a shape)."""

    def __init__(self, name: object, *_align_and_copy: object) -> None:
        if not isinstance(name, str):
            raise _RefusedError(f"has an array of a dtype named by a {type(name).__name__}")
        if name not in ("O", "O8") and not _NUMBER.fullmatch(name):
            raise _RefusedError(f"has an array of dtype {name[:40]!r}")
        self.dtype = np.dtype("O" if name in ("O", "O8") else name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if not isinstance(order, str) or order not in _BYTE_ORDERS:  # other things may not survive being hashed
            raise _RefusedError("has a dtype of an unknown byte order")
        self.dtype = self.dtype.newbyteorder(_BYTE_ORDERS[order])


class _Array(np.ndarray[Any, Any]):
    """Stands for an array between its creation, which is empty, and its state."""

    def __setstate__(self, state: Any) -> None:
        version, shape, number, is_fortran, content = state
        if isinstance(content, str):  # Python 2 wrote the bytes as text
            content = content.encode("latin1")
        unit = 1 if isinstance(content, list) else number.dtype.itemsize
        if not isinstance(shape, tuple) or not all(isinstance(side, int) for side in shape):
            raise ValueError("an array has a shape that is not of whole numbers")
        if math.prod(shape) * unit != len(content):  # before numpy makes room for what the shape promises
            raise ValueError(f"an array of another shape came with {len(content)} values or bytes")
        super().__setstate__((version, shape, number.dtype, is_fortran, content))


def _reconstruct(_kind: object, _shape: object, _typecode: object) -> _Array:
    return np.ndarray.__new__(_Array, (0,))


def _frombuffer(
    buffer: bytes, number: _Number, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
) -> Any:
    flat = np.frombuffer(buffer, dtype=number.dtype)
    if order == "K" and axes is not None:  # numpy 2.3 and later
        return flat.reshape(shape).transpose(axes)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(number: _Number, content: bytes | str) -> Any:
    raw = content.encode("latin1") if isinstance(content, str) else content
    (value,) = np.frombuffer(raw, dtype=number.dtype)
    return value


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, with which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise _RefusedError(f"encodes text as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for ``bytes()``, as which protocols 0 to 2 write the content of an empty array."""
    return b""


_ADMITTED: dict[tuple[str, str], object] = {
    ("numpy", "dtype"): _Number,
    ("numpy", "ndarray"): "ndarray",  # only ever handed to _reconstruct; text, so that it cannot be called
    ("_codecs", "encode"): _encode,
    **{(builtins, "bytes"): _no_bytes for builtins in ("builtins", "__builtin__")},
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in ("numpy.core", "numpy._core")},
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in ("numpy.core", "numpy._core")},
}


_Machine: Any = pickle._Unpickler


class _Dict(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, (str, int, float)):
            raise _RefusedError(f"has a dict key of type {type(key).__name__}")
        super().__setitem__(key, value)


class _Unpickler(_Machine):  # type: ignore[misc]
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _RefusedError(f"names {module[:60]}.{name[:60]}") from None

    def persistent_load(self, pid: object) -> Any:
        raise _RefusedError(f"names an outside object by a {type(pid).__name__}")

    def _load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        content = self.read(length)  # before there is room for what the length promises
        if len(content) < length:
            raise EOFError("a bytearray is cut short")
        self.append(bytearray(content))

    def _load_append(self) -> None:
        value = self.stack.pop()
        self._list().append(value)

    def _load_appends(self) -> None:
        items = self.pop_mark()
        self._list().extend(items)

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._dict()[key] = value

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._dict()[key] = value

    def _list(self) -> list[Any]:
        if type(self.stack[-1]) is not list:
            raise _RefusedError(f"appends to a {type(self.stack[-1]).__name__}")
        held: list[Any] = self.stack[-1]
        return held

    def _dict(self) -> _Dict:
        if not isinstance(self.stack[-1], _Dict):
            raise _RefusedError(f"sets items of a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _load_empty_dict(self) -> None:
        self.append(_Dict())

    def _load_dict(self) -> None:
        items = self.pop_mark()
        result = _Dict()
        for key, value in zip(items[::2], items[1::2], strict=True):
            result[key] = value
        self.append(result)

    def _load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Array, _Number)):
            raise _RefusedError(f"sets the state of a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is admitted for admitted in _ADMITTED.values() if callable(admitted)):
            raise _RefusedError(f"calls a {type(function).__name__}")
        self.stack[-1] = function(*arguments)


def _refuse(name: str) -> Callable[[_Unpickler], None]:
    def refuse(_: _Unpickler) -> None:
        raise _RefusedError(f"uses the instruction {name}")

    return refuse


_REFUSED_INSTRUCTIONS = (
    *("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),  # other ways to call
    *("EMPTY_SET", "ADDITEMS", "FROZENSET"),  # hash what they hold
    *("NEXT_BUFFER", "READONLY_BUFFER"),  # content outside the file
)

_Unpickler.dispatch = {
    **_Machine.dispatch,
    **{getattr(pickle, name)[0]: _refuse(name) for name in _REFUSED_INSTRUCTIONS},
    pickle.EMPTY_DICT[0]: _Unpickler._load_empty_dict,
    pickle.DICT[0]: _Unpickler._load_dict,
    pickle.BUILD[0]: _Unpickler._load_build,
    pickle.REDUCE[0]: _Unpickler._load_reduce,
    pickle.BYTEARRAY8[0]: _Unpickler._load_bytearray8,
    pickle.APPEND[0]: _Unpickler._load_append,
    pickle.APPENDS[0]: _Unpickler._load_appends,
    pickle.SETITEM[0]: _Unpickler._load_setitem,
    pickle.SETITEMS[0]: _Unpickler._load_setitems,
}
