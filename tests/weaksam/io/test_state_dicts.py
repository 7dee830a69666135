from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from weaksam.clues.loading import load_classifier
from weaksam.detectors.mil.checkpoint import read_checkpoint
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import (
    load_strictly,
    other_options,
    read_pickled,
    read_safetensors,
    read_state_dict,
    refuse_nan,
)

STATE = {"a": torch.arange(600.0).reshape(20, 30), "b": torch.ones(4)}
DETECTOR = {"detector": "mist", "backbone": "small", "class_names": ["cat"], "supervision": "image-labels"}


def pickled(state: Any = STATE, *, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def safetensors(header: Any, data: bytes = bytes(64)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


HEADERS: dict[str, bytes] = {
    "nothing but a length": struct.pack("<Q", 2) + b"{",
    "a length beyond every file": struct.pack("<Q", 2**63) + b"{}",
    "a length beyond this file": struct.pack("<Q", 2**20) + b"{}",
    "no JSON": safetensors(b"{nope"),
    "no text": safetensors(b'{"\xff":1}'),
    "nested without end": safetensors(b'{"a":' + b"[" * 100_000),
    "an unknown type": safetensors(one(dtype="F99")),
    "a negative side": safetensors(one(shape=[-2])),
    "a side beyond every memory": safetensors(one(shape=[2**40, 2**40])),
    "offsets that overlap": safetensors({**one(), "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}),
    "offsets behind the end": safetensors(one(data_offsets=[8, 16]), bytes(8)),
    "tensors that are cut": save(STATE)[:-8],
}


def readers(path: Path) -> dict[str, Callable[[], Any]]:
    return {
        "a state dict": lambda: read_state_dict(path),
        "a classifier": lambda: load_classifier(path),
        "a detector": lambda: read_checkpoint(io.BytesIO(path.read_bytes()), str(path)),
    }


@pytest.mark.parametrize("reader", ["a state dict", "a classifier", "a detector"])
@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS.keys())
def test_a_damaged_header_is_named_with_what_to_do(tmp_path: Path, content: bytes, reader: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        readers(path)[reader]()
    assert str(refused.value).startswith(f"{path}: expected a file of plain tensors, got a damaged safetensors file: ")
    assert "copy or download it again" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("reader", ["a state dict", "a classifier", "a detector"])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "old pth"])
def test_damage_anywhere_raises_nothing_but_checkpoint_errors(tmp_path: Path, kind: str, reader: str) -> None:
    whole = {
        "safetensors": save(STATE, {"detector": json.dumps(DETECTOR), "classifier": json.dumps({"architecture": "x"})}),
        "pth": pickled(),
        "old pth": pickled(old=True),
    }[kind]
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    dice = random.Random(0)
    for _ in range(150):
        content = bytearray(whole[: dice.choice((len(whole), dice.randrange(len(whole))))])
        for _ in range(dice.randrange(3) if content else 0):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
        with suppress(CheckpointError):
            readers(path)[reader]()


def test_a_flipped_bit_of_a_tensor_in_an_archive_is_found(tmp_path: Path) -> None:
    content = bytearray(pickled())
    content[content.find(STATE["a"].numpy().tobytes()) + 700] ^= 0x40
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what its checksum says"):
        read_pickled(path, str(path))


def test_whole_files_come_back(tmp_path: Path) -> None:
    for name, content in {"w.safetensors": save(STATE), "w.pth": pickled(), "old.pth": pickled(old=True)}.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert_equal(read_state_dict(path).tensors)
    for source in (tmp_path / "w.safetensors", save(STATE, {"x": "y"})):
        state, metadata = read_safetensors(source, "w")
        assert_equal(state)
        assert metadata == ({} if isinstance(source, Path) else {"x": "y"})
    assert_equal(read_pickled(io.BytesIO(pickled()), "w"))


def assert_equal(state: dict[str, Tensor]) -> None:
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], value) for key, value in STATE.items())


def test_no_message_advises_to_run_what_is_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"not weights")
    with pytest.raises(CheckpointError) as refused:
        read_state_dict(tmp_path / "w.pth")
    assert "weights_only" not in str(refused.value)


def test_a_weight_that_is_nan_is_named() -> None:
    refuse_nan({"a": torch.tensor([1.0, -torch.inf]), "n": torch.tensor([1])}, "w")
    with pytest.raises(CheckpointError, match=r"^w: b holds NaN"):
        refuse_nan({"a": torch.ones(1), "b": torch.tensor([0.0, torch.nan], dtype=torch.float16)}, "w")


METADATA: dict[str, str] = {
    "no JSON": "{nope",
    "a list": "[]",
    "of other types": '{"architecture": 1, "config": [], "class_names": 5}',
    "values out of range": '{"architecture": "weaktr", "config": {"depth": -1}, "class_names": ["a"]}',
}


@pytest.mark.parametrize("text", METADATA.values(), ids=METADATA.keys())
def test_a_classifier_of_damaged_metadata_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(save(STATE, {"classifier": text}))
    with pytest.raises(CheckpointError, match=str(path)):
        load_classifier(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"detector": 1}, "detector"),
        ({"backbone": None}, "backbone"),
        ({"class_names": "cat"}, "class_names"),
        ({"class_names": [1]}, "class_names"),
    ],
)
def test_a_detector_of_damaged_metadata_is_refused(changes: dict[str, Any], named: str) -> None:
    content = save(STATE, {"detector": json.dumps({**DETECTOR, **changes})})
    with pytest.raises(CheckpointError, match=f"w: expected a detector .* has no '{named}'"):
        read_checkpoint(io.BytesIO(content), "w")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"a": None}, r"1 missing: a$", id="missing"),
        pytest.param({"c": torch.zeros(1)}, r"1 surplus: c$", id="surplus"),
        pytest.param({"b": torch.zeros(3)}, r"1 of another shape: b \(3,\) instead of \(2,\)", id="shape"),
        pytest.param({"a": None, "b": None, "c": torch.zeros(1)}, "2 missing: a, b; 1 surplus: c", id="all at once"),
    ],
)
def test_every_kind_of_difference_is_named(change: dict[str, Tensor | None], message: str) -> None:
    module = nn.Module()
    module.a, module.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))
    state = {"a": torch.ones(1), "b": torch.ones(2)} | change
    with pytest.raises(CheckpointError, match=message):
        load_strictly(module, {k: v for k, v in state.items() if v is not None}, where="here")
    assert module.a.item() == 0


def test_what_a_module_keeps_is_neither_wanted_nor_accepted() -> None:
    module = nn.Module()
    module.a, module.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.full((2,), 7.0))
    load_strictly(module, {"a": torch.ones(1)}, where="here", keep=("b",))
    assert (module.a.tolist(), module.b.tolist()) == ([1.0], [7.0, 7.0])
    with pytest.raises(CheckpointError, match=r"1 surplus: b$"):
        load_strictly(module, {"a": torch.ones(1), "b": torch.ones(2)}, where="here", keep=("b",))


def test_only_some_of_many_keys_are_named_and_the_likely_cause_comes_first() -> None:
    with pytest.raises(CheckpointError) as refused:
        load_strictly(nn.Module(), {f"k{n}": torch.ones(1) for n in range(7)}, where="w as x", cause="set y")
    expected = "w as x: the weights belong to another model (set y): 7 surplus: k0, k1, k2, k3, k4, …"
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    ("of_file", "given", "said"),
    [
        ({"dim": 8, "sides": [1, 2]}, {"dim": 8, "sides": (1, 2)}, ""),
        (
            {"dim": 8, "drop": {"on": True}},
            {"dim": 4, "drop": {"on": False}},
            "net.dim is 8 in the file, 4 here; net.drop.on is True in the file, False here",
        ),
        ({}, {"dim": 4}, ""),
        ({"gone": 1}, {}, ""),
        ({"drop": 1}, {"drop": {"on": False}}, "net.drop is 1 in the file, {'on': False} here"),
    ],
)
def test_options_that_differ_from_those_of_a_file_are_named(of_file: Any, given: Any, said: str) -> None:
    assert other_options(of_file, given, "net") == said


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 torn"], ids=["empty", "text", "torn"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"w\{suffix}: expected a file of plain tensors"):
        read_state_dict(path)


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_a_state_dict_is_found_beside_what_a_training_loop_saved_with_it(tmp_path: Path, wrapper: str) -> None:
    (tmp_path / "w.pth").write_bytes(pickled({wrapper: STATE, "epoch": 3, "miou": torch.tensor(0.5).numpy()[()]}))
    assert_equal(read_state_dict(tmp_path / "w.pth").tensors)


@pytest.mark.parametrize(
    ("held", "described"),
    [([torch.zeros(1)], "list"), ({"a": 3}, "a dict with a: int"), ({"a": {"b": 3}}, "a dict with a: dict")],
    ids=["a list", "a number", "nested"],
)
def test_what_is_no_state_dict_is_described(tmp_path: Path, held: object, described: str) -> None:
    (tmp_path / "w.pth").write_bytes(pickled(held))
    with pytest.raises(CheckpointError, match=rf"w\.pth: expected a state dict .* got {described}; save the inner"):
        read_state_dict(tmp_path / "w.pth")


def test_half_a_surrogate_pair_in_what_a_file_says_of_itself_is_refused_in_words_that_can_be_printed() -> None:
    metadata = {"detector": json.dumps({**DETECTOR, "detector": "\ud800"})}
    with pytest.raises(
        CheckpointError, match=r"d\.safetensors: a damaged safetensors file: metadata detector"
    ) as refused:
        read_checkpoint(io.BytesIO(save(STATE, metadata)), "d.safetensors")
    assert str(refused.value).isascii()
