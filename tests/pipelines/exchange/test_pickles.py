import collections
import copyreg
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.exchange.pickles import load_plain
from weaksam.errors import DataError

FLOATS = np.arange(8, dtype=np.float32).reshape(2, 4)
WORDS = FLOATS.astype(np.uint16)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "held",
    [
        pytest.param([], id="empty list"),
        pytest.param({}, id="empty dict"),
        pytest.param([FLOATS, np.zeros((0, 4), np.float32)], id="arrays, one empty"),
        pytest.param({"boxes": [WORDS, WORDS], "indexes": [5, 2**40], "scores": [np.ones((2, 1))]}, id="nested"),
        pytest.param([np.asfortranarray(FLOATS), FLOATS[:, ::2], FLOATS.astype(">f4")], id="layouts"),
        pytest.param(
            [np.float32(0.5), np.int64(-3), np.bool_(True), 1.5, True, None, "é", b"\x00\xff", (1, 2)], id="scalars"
        ),
        pytest.param([np.array([True, False]), np.array(3.0)], id="booleans and a number of no dimension"),
    ],
)
def test_plain_things_come_back_equal(held: Any, protocol: int) -> None:
    loaded = load_plain(pickle.dumps(held, protocol), "f.pkl")
    assert pickle.dumps(_plain(loaded)) == pickle.dumps(_plain(held))


def test_arrays_of_objects_hold_what_they_held() -> None:
    held = np.empty(2, dtype=object)
    held[:] = [FLOATS, WORDS]
    loaded = load_plain(pickle.dumps(held), "f.pkl")
    assert [a.tolist() for a in loaded] == [FLOATS.tolist(), WORDS.tolist()]


def test_arrays_of_python_2_and_of_old_numpy_are_read() -> None:
    # what Python 2's protocol 2 wrote: text for bytes, numpy.core
    old = (
        b"\x80\x02]cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x04\x86cnumpy\ndtype\nU\x02u2K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08\x01\x00\x02\x00\x03\x00\xff\xfftba."
    )
    (array,) = load_plain(old, "f.pkl")
    assert array.dtype == np.uint16
    assert array.tolist() == [[1, 2, 3, 65535]]


class _Reduce:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class _Stateful:
    def __init__(self) -> None:
        self.a = 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("held", "named"),
    [
        pytest.param(_Reduce(os.system, "touch ran"), rf"names {os.system.__module__}\.system", id="system"),
        pytest.param(_Reduce(eval, "open('ran', 'w')"), r"names \w+\.eval", id="eval"),
        pytest.param(_Reduce(exec, "open('ran', 'w')"), r"names \w+\.exec", id="exec"),
        pytest.param([FLOATS, {"a": [_Reduce(os.system, "touch ran")]}], r"\.system", id="nested in data"),
        pytest.param(_Reduce(getattr, [], "append"), r"names \w+\.getattr", id="getattr"),
        pytest.param(_Reduce(np.fromfile, "/etc/passwd"), r"names numpy[.\w]*\.fromfile", id="another numpy function"),
        pytest.param(os.system, r"\.system", id="a function alone"),
        pytest.param(
            _Reduce(copyreg._reconstructor, list, object, None), r"names copy_?reg\._reconstructor", id="copyreg"
        ),
        pytest.param(_Stateful(), r"names .*(_Stateful|copy_?reg\._reconstructor)", id="an object"),
        pytest.param(collections.OrderedDict(a=1), r"names collections\.OrderedDict", id="another container"),
        pytest.param(np.array(["a"]), r"dtype 'U1'", id="text array"),
        pytest.param(np.zeros(1, [("a", "f4")]), r"dtype 'V4'", id="structured array"),
        pytest.param(np.zeros(1, "M8[s]"), r"dtype 'M8'", id="dates"),
    ],
)
def test_everything_else_is_refused_by_name(
    held: Any, named: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"f\.pkl: expected a pickle of arrays.*{named}.*refused"):
        load_plain(pickle.dumps(held, protocol), "f.pkl")
    assert not Path("ran").exists()


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param(b"(S'touch ran'\nios\nsystem\n.", r"names os\.system", id="inst"),
        pytest.param(b"(cos\nsystem\nS'touch ran'\no.", r"names os\.system", id="obj"),
        pytest.param(_global("numpy.dtype") + b"U\x02f4\x85\x81.", "must be a type", id="newobj"),
        pytest.param(b"\x82\x01.", "extension", id="extension registry"),
        pytest.param(b"P1\n.", "persistent", id="persistent id"),
        pytest.param(_global("numpy.dtype") + b"}U\x05dtypeK\x01sb.", "sets the state of .*_Number", id="state"),
        pytest.param(
            _global("numpy.core.multiarray._reconstruct") + b"N}U\x0c__defaults__K\x01s\x86b.",
            "sets the state of .*_reconstruct",
            id="state of a function",
        ),
        pytest.param(_global("_codecs.encode") + b"V9\nVhex\n\x86R.", "encodes text as 'hex'", id="another codec"),
        pytest.param(b"}]K\x01s.", "unhashable", id="unhashable key"),
        pytest.param(
            _global("numpy.core.multiarray._reconstruct")
            + _global("numpy.ndarray") + b"K\x00\x85U\x01b\x87R"
            + b"(K\x01K\x01\x85" + _global("numpy.dtype") + b"U\x02O8\x85R(K\x03U\x01|NNNI-1\nI-1\nK\x00tb\x89U\x0812345678tb.",
            "object pickle not returning list",
            id="addresses for objects",
        ),
    ],
)  # fmt: skip
def test_tricks_on_the_machine_itself_are_refused(code: bytes, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load_plain(code, "f.pkl")
    assert not Path("ran").exists()


_RECONSTRUCTED = _global("numpy.core.multiarray._reconstruct") + _global("numpy.ndarray") + b"K\x00\x85U\x01b\x87R"
_OBJECTS = _global("numpy.dtype") + b"U\x02O8\x85R"
_FLOATS = _global("numpy.dtype") + b"U\x02f4\x85R"
_HUGE = b"\x8a\x05\x00\x00\x00\x00\x10\x85"  # (2**36,)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a pickle", id="text"),
        pytest.param(pickle.dumps([FLOATS])[:-9], id="cut short"),
        pytest.param(pickle.dumps([FLOATS])[9:], id="without its head"),
        pytest.param(b"\x8e" + b"\xff" * 8 + b".", id="a string of 2**64 bytes"),
        pytest.param(b"\x96" + b"\x00" * 5 + b"\x10\x00\x00.", id="a bytearray of 2**44 bytes"),
        pytest.param(_RECONSTRUCTED + b"(K\x01" + _HUGE + _OBJECTS + b"\x89]tb.", id="2**36 objects"),
        pytest.param(_RECONSTRUCTED + b"(K\x01" + _HUGE + _FLOATS + b"\x89U\x00tb.", id="2**36 numbers"),
        pytest.param(pickle.dumps(_Reduce(bytes, 2**40)), id="2**40 zero bytes"),
        pytest.param(b"V" + b"9" * 10 + b"\n" + b"I" + b"9" * 100_000 + b"\n.", id="a number of 100,000 digits"),
    ],
)
def test_a_damaged_file_is_an_error_and_not_a_crash(code: bytes) -> None:
    with pytest.raises(DataError, match=r"f\.pkl: not a readable pickle"):
        load_plain(code, "f.pkl")


def test_deep_nesting_and_cycles_are_read_without_recursion() -> None:
    depth = 100 * sys.getrecursionlimit()
    nested = load_plain(b"]" * depth + b"a" * (depth - 1) + b".", "f.pkl")
    assert isinstance(nested, list)
    cycle = load_plain(b"]q\x00h\x00a.", "f.pkl")
    assert cycle[0] is cycle


def _plain(value: Any) -> Any:
    """Arrays as (dtype, nested lists), so that equality covers both."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.newbyteorder("=").str, np.asarray(value).tolist()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value
