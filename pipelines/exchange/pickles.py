"""Pickles of arrays: read from strangers without running what they ask for, and written so that every numpy reads them.

A pickle is a program that may import and call anything. ``find_class`` decides what: here the few names that numpy's own
pickles use stand for functions of ours, which check what they are given and build plain arrays; every other name is refused,
before anything of it is imported. numpy's own ``dtype`` is not among them: its state can be set so that bytes count as objects.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from weaksam.errors import DataError

_NUMBER = re.compile(r"[<>|=]?([biuf](1|2|4|8)|b|\?)")  # the dtypes of numbers, as numpy's pickles spell them
_PROTOCOL = 4  # Python 3.4 and later


def load_plain(data: bytes, where: str) -> Any:
    """Return what a pickle holds, if that is numpy arrays, Python's own containers, text, bytes and numbers only.

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
    except Exception as error:  # a damaged file surfaces as nearly any built-in exception
        said = str(error)[:120]  # some repeat what they stumbled over, of any length
        raise DataError(
            f"{where}: not a readable pickle ({type(error).__name__}: {said}); it is cut short, or another kind of file"
        ) from error


def write_pickle(value: Mapping[str, Any] | Sequence[Any], file: IO[bytes]) -> None:
    """Pickle arrays, lists, dicts and numbers; arrays by their constructor, which numpy 1 and 2 have under one name."""
    _Pickler(file, _PROTOCOL).dump(value)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.ndarray:
            return NotImplemented
        return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))  # not bytes: it can be written to


class _RefusedError(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _RefusedError(f"names {module[:60]}.{name[:60]}") from None


class _Admitted:
    """A function that pickles may call, and nothing else: its attributes cannot be set, as a function's could."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise _RefusedError(f"sets the state of the function {self._function.__name__}")


class _Number:
    """Stands for a ``numpy.dtype``: a type of numbers, or of objects (then an array is only a list with a shape)."""

    def __init__(self, name: object, *_align_and_copy: object) -> None:
        if not isinstance(name, str) or not (name in ("O", "O8") or _NUMBER.fullmatch(name)):
            raise _RefusedError(f"has an array of dtype {name[:40] if isinstance(name, str) else type(name)!r}")
        self.dtype = np.dtype("O" if name == "O8" else name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise _RefusedError("has a dtype of an unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """Stands for an array between its creation, which is empty, and its state."""

    def __setstate__(self, state: Any) -> None:
        version, shape, number, is_fortran, content = state
        if isinstance(content, str):  # Python 2 wrote the bytes as text
            content = content.encode("latin1")
        unit = 1 if isinstance(content, list) else number.dtype.itemsize
        if math.prod(shape) * unit != len(content):  # before numpy makes room for what the shape promises
            raise ValueError(f"an array of another shape came with {len(content)} values or bytes")
        super().__setstate__((version, shape, number.dtype, is_fortran, content))


def _reconstruct(_kind: object, _shape: object, _typecode: object) -> _Array:
    return np.ndarray.__new__(_Array, (0,))


def _ndarray(shape: tuple[int, ...], name: str, content: bytes | bytearray) -> NDArray[Any]:
    return np.frombuffer(content, _Number(name).dtype).reshape(shape)


def _frombuffer(
    content: bytes, number: _Number, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
) -> NDArray[Any]:
    flat = np.frombuffer(content, number.dtype)
    if order == "K" and axes is not None:  # numpy 2.3 and later
        return flat.reshape(shape).transpose(axes)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(number: _Number, content: bytes | str) -> Any:
    (value,) = np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, number.dtype)
    return value


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, with which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise _RefusedError(f"encodes text as {encoding!r}")
    return text.encode("latin1")


def _bytes() -> bytes:
    """Stands for ``bytes()``, as which protocols 0 to 2 write the content of an empty array."""
    return b""


def _bytearray(content: bytes = b"") -> bytearray:
    """Stands for ``bytearray(bytes)``, as which protocols before 5 write one; of a number it would make room."""
    if not isinstance(content, bytes):
        raise _RefusedError(f"makes a bytearray of a {type(content).__name__}")
    return bytearray(content)


_NUMPY = ("numpy.core", "numpy._core")  # before and since numpy 2
_BUILTINS = ("builtins", "__builtin__")  # of Python 3 and 2
_ADMITTED: dict[tuple[str, str], _Admitted] = {
    ("numpy", "dtype"): _Admitted(_Number),
    ("numpy", "ndarray"): _Admitted(_ndarray),
    ("_codecs", "encode"): _Admitted(_encode),
    **{(builtins, "bytes"): _Admitted(_bytes) for builtins in _BUILTINS},
    **{(builtins, "bytearray"): _Admitted(_bytearray) for builtins in _BUILTINS},
    **{(f"{core}.multiarray", "_reconstruct"): _Admitted(_reconstruct) for core in _NUMPY},
    **{(f"{core}.multiarray", "scalar"): _Admitted(_scalar) for core in _NUMPY},
    **{(f"{core}.numeric", "_frombuffer"): _Admitted(_frombuffer) for core in _NUMPY},
}
