"""Files of weights, ours and others', read whole and on the CPU, or refused with what is wrong with them.

Two containers: safetensors, and what ``torch.save`` writes. Pickled code is never run. What a file means, and whether its
tensors fit a network, is for the callers.
"""

from __future__ import annotations

import errno
import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor

from weaksam.errors import CheckpointError

_REMEDY = "copy or download it again; where a run made it, run the command that made it again"
_LONGEST_REASON = 300  # characters
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
    source: Path | BinaryIO, where: str, *, expected: str = "a file of plain tensors", harmless: Sequence[Any] = ()
) -> Any:
    """Read what ``torch.save`` wrote: tensors and plain values, in whatever nesting.

    Args:
        source: a file, or one that is open for reading bytes.
        where: its name, for messages.
        expected: what it should be, for messages.
        harmless: types that may be in it besides.

    Raises:
        CheckpointError: it is damaged, another format, or holds objects whose loading could run code.
    """
    with _refusing(
        f"{where}: expected {expected}, got a file that is damaged, of another format, or holds objects whose "
        "loading could run code"
    ):
        _check_sums(source)
        with torch.serialization.safe_globals(list(harmless)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: a file is read or it is not
            return torch.load(source, map_location="cpu", weights_only=True)


def described(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    """Return what the metadata of one of our own files says under ``key``, or {} if it says nothing there.

    Raises:
        CheckpointError: it is not what we write.
    """
    with _refusing(f"{where}: a damaged safetensors file: metadata {key}"):
        value = json.loads(metadata.get(key, "{}"))
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: metadata {key}: expected a JSON object, got {str(value)[:40]!r}; {_REMEDY}")
    return value


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
        ):  # the storage's trouble; a file that points before its start is EINVAL
            raise
        raise CheckpointError(f"{what}: {error}; {_REMEDY}") from error
    except Exception as error:  # readers of damaged files surface whatever they stumble over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason.partition(". In PyTorch")[0]  # what follows advises to run whatever is in the file
        reason = reason[:_LONGEST_REASON].encode(errors="backslashreplace").decode()  # some repeat what is in the file
        raise CheckpointError(f"{what}: {reason}; {_REMEDY}") from error


def _check_sums(source: Path | BinaryIO) -> None:
    """Raise BadZipFile if a member of an archive is not what its checksum says; ``torch.load`` does not look."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(f"{bad} is not what its checksum says")
    if not isinstance(source, Path):
        source.seek(0, io.SEEK_SET)
