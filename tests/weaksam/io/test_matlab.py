"""What SciPy writes comes back; what is damaged is an error, and never the end of the process."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import scipy.io

from weaksam.io.matlab import MatlabError, Other, read_variables


def written(*, compressed: bool = False, **variables: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def cells(*values: Any) -> Any:
    array = np.empty((1, len(values)), object)
    array[0, :] = values
    return array


ARRAYS = [
    np.asarray([[1, 2, 3], [4, 5, 6]], kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
]  # fmt: skip


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize(
    "array", [*ARRAYS, np.zeros((0, 4)), np.ones((2, 3, 2)), np.ones((1, 1))], ids=lambda a: f"{a.dtype}{a.shape}"
)
def test_numbers_of_every_type_and_shape_come_back(array: Any, compressed: bool) -> None:
    held = read_variables(written(a=array, compressed=compressed), ("a",))
    np.testing.assert_array_equal(held["a"], array)


def test_text_and_cells_come_back_and_other_variables_are_only_named() -> None:
    held = read_variables(
        written(n=cells("000005", "käfer", cells(np.ones((1, 2)), "")), other={"f": 1}, x=1.0), ("n",)
    )
    assert held["n"][:2] == ["000005", "käfer"]
    np.testing.assert_array_equal(held["n"][2][0], [[1, 1]])
    assert (set(held), held["other"], held["x"]) == ({"n", "other", "x"}, None, None)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.array([(1,), (2,)], [("f", object)]), "an array of structs"),
        (np.asarray([[1j]]), "a complex array"),
        (scipy.sparse.csc_array(np.eye(2)), "a sparse array"),
        (np.asarray(["ab", "cd"]), "a table of letters"),
    ],
    ids=["structs", "complex", "sparse", "letters"],
)
def test_what_is_of_no_use_comes_as_its_name(value: Any, kind: str) -> None:
    assert read_variables(written(a=value), ("a",))["a"] == Other(kind)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_the_fields_of_a_struct_come_back(compressed: bool) -> None:
    value = {
        "Segmentation": np.array([[0, 7]], np.uint8),
        "a": "käfer",
        "in": {"b": cells(1.0)},
        "none": np.zeros((0, 0)),
    }
    held = read_variables(written(s=value, compressed=compressed), ("s",))["s"]
    assert list(held) == ["Segmentation", "a", "in", "none"]
    np.testing.assert_array_equal(held["Segmentation"], [[0, 7]])
    assert (held["a"], held["in"], held["none"].size) == ("käfer", {"b": [np.array([[1.0]])]}, 0)


def test_structs_in_structs_end_somewhere() -> None:
    value: Any = 1
    for _ in range(20):
        value = {"f": value}
    with pytest.raises(MatlabError, match="more than 8 deep"):
        read_variables(written(s=value), ("s",))


def element(order: str, kind: int, content: bytes) -> bytes:
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


@pytest.mark.parametrize(("order", "mark"), [("<", b"IM"), (">", b"MI")], ids=["little", "big"])
def test_files_of_either_byte_order_are_read(order: str, mark: bytes) -> None:
    # A row of two numbers, 258 and 1, of class double (6), stored as 16 bits: as MATLAB shortens whole numbers.
    parts = struct.pack(f"{order}II", 6, 0), struct.pack(f"{order}ii", 1, 2), b"a", struct.pack(f"{order}HH", 258, 1)
    matrix = b"".join(element(order, kind, part) for kind, part in zip((6, 5, 1, 4), parts, strict=True))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100) + mark
    np.testing.assert_array_equal(read_variables(header + element(order, 14, matrix), ("a",))["a"], [[258, 1]])
    compressed = zlib.compress(element(order, 14, matrix))
    data = header + struct.pack(f"{order}II", 15, len(compressed)) + compressed
    np.testing.assert_array_equal(read_variables(data, ("a",))["a"], [[258, 1]])
    with pytest.raises(MatlabError, match="cut short"):
        read_variables(header + struct.pack(f"{order}II", 15, len(compressed) - 9) + compressed[:-9], ("a",))


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_no_cut_and_no_flipped_bit_ends_in_anything_but_an_answer_or_an_error(compressed: bool) -> None:
    held = {"boxes": cells(np.ones((2, 4)), np.zeros((0, 4))), "images": cells("a", "b"), "s": {"f": 1, "long": "a"}}
    data = written(**held, compressed=compressed)
    refused = 0
    for at in range(len(data)):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]):
            try:
                read_variables(changed, ("boxes", "images", "s"))
            except (MatlabError, NotImplementedError):
                refused += 1
    assert refused > len(data) / 2


def test_a_promise_of_more_than_the_file_holds_is_refused_before_room_is_made() -> None:
    data = bytearray(written(a=cells("x")))
    shape = data.index(struct.pack("<ii", 1, 1))
    data[shape : shape + 8] = struct.pack("<ii", 2**30, 2**30)
    with pytest.raises(MatlabError, match="cut short: a cell array"):
        read_variables(bytes(data), ("a",))
