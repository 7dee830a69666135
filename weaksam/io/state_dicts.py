"""Files of weights, ours and others', read whole and on the CPU, and loaded into networks: all of it, or an error.

Two containers: safetensors, and what ``torch.save`` writes. Pickled code is never run. ``read_state_dict`` reads the tensors
of either, ``load_strictly`` puts them into a network. What a file's metadata means is for the callers.
"""

from __future__ import annotations

import errno
import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from weaksam.errors import CheckpointError

_REMEDY = "copy or download it again; where a run made it, run the command that made it again"
_LONGEST_REASON = 300  # characters
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = ("model", "state_dict")  # keys under which training loops save the state dict itself
_SHOWN_KEYS = 5
# Scores that published training loops leave beside the weights; numbers, not code.
_numpy_scalar = np.float64().__reduce__()[0]
_HARMLESS: list[Any] = [
    _numpy_scalar,
    (_numpy_scalar, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


class StateDict(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]  # of a safetensors file; {} for PyTorch's, which have none


def read_state_dict(path: Path) -> StateDict:
    """Read the weights of a PyTorch or safetensors file, told apart by their content, on the CPU.

    A PyTorch file may hold the state dict under "model" or "state_dict".

    Raises:
        CheckpointError: neither format, no state dict inside, objects other than tensors and numbers, or a weight is NaN.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if is_safetensors(start):
        found = StateDict(*read_safetensors(path, str(path)))
    else:
        content = read_pickled(path, str(path))
        content = unwrapped(content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(
                f"{path}: expected a state dict (name -> tensor), got {_outline(content)}; save the inner state dict"
            )
        found = StateDict(content, {})
    refuse_nan(found.tensors, str(path))
    return found


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], *, where: str, keep: tuple[str, ...] = (), cause: str = ""
) -> None:
    """Load ``state`` into ``module`` if every key and shape fits.

    Args:
        module: gets the values; their type and device stay the module's own.
        state: tensors by name.
        where: the file and the network that it should be of, for messages.
        keep: beginnings of names of the module's own tensors that keep their values and must not be in ``state``.
        cause: what probably happened, and what to do, for messages.

    Raises:
        CheckpointError: keys are missing, surplus or of another shape, naming some of each; the module is as it was.
    """
    expected = {key: value for key, value in module.state_dict().items() if not key.startswith(keep)}
    missing = [key for key in expected if key not in state]
    surplus = [key for key in state if key not in expected]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    kinds = {"missing": missing, "surplus": surplus, "of another shape": reshaped}
    if any(kinds.values()):
        text = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds.items() if keys)
        raise CheckpointError(f"{where}: the weights belong to another model{f' ({cause})' if cause else ''}: {text}")
    module.load_state_dict(state, strict=not keep)


def unwrapped(content: dict[Any, Any]) -> dict[Any, Any]:
    """Return the state dict that a training loop saved among other things, or ``content`` itself."""
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper)
        content = inner if isinstance(inner, dict) else content
    return content


def is_safetensors(start: bytes) -> bool:
    """Whether a file with these first 9 bytes is one: 8 bytes of header length, then JSON."""
    return start[8:9] == b"{"


def read_safetensors(source: Path | bytes, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: tensors by name, and its metadata.

    Raises:
        CheckpointError: its header or its tensors are damaged.
    """
    with _refusing(f"{where}: expected a file of plain tensors, got a damaged safetensors file"):
        if isinstance(source, bytes):
            state = safetensors_torch.load(source)
            header = json.loads(source[8 : 8 + int.from_bytes(source[:8], "little")])
            metadata: dict[str, str] = header.get("__metadata__", {})
        else:
            with safe_open(source, framework="pt") as tensors:
                metadata = tensors.metadata() or {}
                state = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118  (not a mapping)
    return state, metadata


def read_pickled(
    source: Path | BinaryIO, where: str, *, expected: str = "a file of plain tensors", mapped: bool = False
) -> Any:
    """Read what ``torch.save`` wrote: tensors, NumPy's numbers and plain values, in whatever nesting.

    Args:
        source: a file, or one that is open for reading bytes.
        where: its name, for messages.
        expected: what it should be, for messages.
        mapped: leave the tensors in the file, which ``source`` names, until somebody reads them.

    Raises:
        CheckpointError: it is damaged, another format, or holds objects whose loading could run code.
    """
    if _holds_code(source):
        raise CheckpointError(
            f"{where}: expected {expected}, got a TorchScript archive, whose code is never run; take its weights as "
            "safetensors, or save its state dict (torch.jit.load(…).state_dict()) where you trust it"
        )
    with _refusing(
        f"{where}: expected {expected}, got a file that is damaged, of another format, or holds objects whose "
        "loading could run code"
    ):
        _check_sums(source)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: a file is read or it is not
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped or None)


def _holds_code(source: Path | BinaryIO) -> bool:
    """Return whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(source) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False  # or no archive at all, of which others say what it is
    finally:
        if not isinstance(source, Path):
            source.seek(0)


def described_bytes(state: Mapping[str, Tensor], key: str, description: Mapping[str, Any]) -> bytes:
    """Return one safetensors file of our own: weights, and under ``key`` of its metadata as JSON what they are."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return safetensors_torch.save(tensors, {key: json.dumps(description)})


def described(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    """Return what the metadata of one of our own files says under ``key``, or {} if it says nothing there.

    Raises:
        CheckpointError: it is not what we write.
    """
    with _refusing(f"{where}: a damaged safetensors file: metadata {key}"):
        value = json.loads(metadata.get(key, "{}"))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, and no text
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: metadata {key}: expected a JSON object, got {str(value)[:40]!r}; {_REMEDY}")
    return value


def other_options(of_file: Any, given: Any, option: str) -> str:
    """Say which options a file was made with that are given otherwise, for messages; "" if none, or if it does not say.

    Args:
        of_file: what its metadata say: a value of JSON, objects for sections of options.
        given: the same of who reads it; tuples stand for arrays.
        option: the name of both.
    """
    if isinstance(of_file, Mapping) and isinstance(given, Mapping):
        found = (other_options(of_file[name], given[name], f"{option}.{name}") for name in given if name in of_file)
        return "; ".join(filter(None, found))
    same = json.dumps(of_file, default=str) == json.dumps(given, default=str)
    return "" if same else f"{option} is {of_file} in the file, {given} here"


def refuse_nan(state: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError, naming the tensor, if a weight is NaN: nothing good comes of such a network."""
    bad = next((name for name, value in state.items() if value.dtype in _FLOATS and bool(value.isnan().any())), None)
    if bad is not None:
        raise CheckpointError(f"{where}: {bad} holds NaN: a training that failed, or a damaged file; {_REMEDY}")


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (
            None,
            errno.EINVAL,
        ):  # a file that points before its start is EINVAL; all else is the storage's
            raise
        raise CheckpointError(f"{what}: {error}; {_REMEDY}") from error
    except Exception as error:  # readers of damaged files surface whatever they stumble over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason.partition(". In PyTorch")[0]  # what follows advises to run whatever is in the file
        reason = reason[:_LONGEST_REASON].encode(errors="backslashreplace").decode()  # some repeat what is in the file
        raise CheckpointError(f"{what}: {reason}; {_REMEDY}") from error


def _some(keys: list[str]) -> str:
    return ", ".join(map(str, keys[:_SHOWN_KEYS])) + (", …" if len(keys) > _SHOWN_KEYS else "")


def _outline(content: object) -> str:
    if isinstance(content, dict):
        return f"a dict with {', '.join(f'{key}: {type(value).__name__}' for key, value in list(content.items())[:5])}"
    return type(content).__name__


def _check_sums(source: Path | BinaryIO) -> None:
    """Raise BadZipFile if a member of an archive is not what its checksum says; ``torch.load`` does not look."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(f"{bad} is not what its checksum says")
    if not isinstance(source, Path):
        source.seek(0, io.SEEK_SET)
