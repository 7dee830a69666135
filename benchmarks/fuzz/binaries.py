"""Files that programs write for programs: images, pickles, MATLAB files, checkpoints, parts of tables."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import scipy.io
import torch
from PIL import Image, features
from safetensors.torch import load_file

from benchmarks.fuzz.annotations import check_boxes
from benchmarks.fuzz.kind import Kind, alone
from benchmarks.fuzz.mutate import damage_bytes, damage_head, damage_tree, to_json, words_between
from pipelines.exchange.imports import read_boxes
from pipelines.store.schemas import IMAGES, PROPOSALS, proposals_from_row, proposals_to_row, with_class_names
from pipelines.store.tables import Table
from weaksam.clues.loading import classifier_to_bytes, load_classifier
from weaksam.clues.weaktr import WeakTr
from weaksam.config import MilConfig, OicrConfig, SamConfig, WeakTrConfig, Weights
from weaksam.detectors.loading import build_detector, detector_to_bytes, load_detector
from weaksam.errors import ImageError
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.io.images import decode_image, read_size
from weaksam.sam.load import load_sam
from weaksam.structures import Prompts, Proposals

_MAX_PIXELS = 2**18  # of a damaged header; the default allows 400 MB each
_LONGEST_REASON = 40  # characters
_HEADER = 2**14  # bytes of a checkpoint in which most accidents happen
_MIL = MilConfig(detector=OicrConfig(), backbone="small")
_IDS = ["000005", "000006", "000007"]


@cache
def _images() -> list[bytes]:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 33, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (24, 33), dtype=np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (picture, "JPEG", {"exif": turned, "comment": b"made by hand"}), (picture, "JPEG", {"progressive": True}),
        (picture.convert("CMYK"), "JPEG", {}), (picture, "PNG", {}), (deep, "PNG", {}),
        (picture.quantize(16), "PNG", {"transparency": bytes(range(16))}), (picture, "GIF", {}), (picture, "BMP", {}),
        (picture, "TIFF", {"compression": "tiff_lzw"}), (deep, "TIFF", {}), (picture, "PPM", {}), (picture, "WEBP", {}),
        (picture, "JPEG2000", {}),
    ]  # fmt: skip
    if features.check("avif"):
        kinds.append((picture, "AVIF", {}))
    return [_saved(image, kind, **options) for image, kind, options in kinds]


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _read_image(path: Path) -> None:
    size = read_size(str(path))
    try:
        pixels = decode_image(path.read_bytes(), max_pixels=_MAX_PIXELS)
    except ImageError as error:
        if len(error.reason) > _LONGEST_REASON:
            raise AssertionError(f"a reason that reports cannot count by: {error.reason}") from error
        raise
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    assert size == pixels.shape[:2], f"{size} by the header"


@cache
def _pickles() -> list[bytes]:
    boxes: list[Any] = [
        np.asarray([[0, 1, 5, 6], [2, 2, 9, 9]], np.float32),
        np.zeros((0, 4), np.uint16),
        np.ones((1, 5)),
    ]
    held: list[Any] = [
        boxes,
        [rows.tolist() for rows in boxes[:1]] + boxes[1:],
        {"boxes": [rows[:, :4].astype(np.uint16) for rows in boxes], "indexes": [5, 6, 7], "scores": [[1, 1], [], [1]]},
        {"boxes": boxes, "ids": np.asarray([5, 6, 7]), "bbox_mode": 0, "scores": [np.ones(2), [], np.ones(1)]},
        {"boxes": np.asarray([*boxes, None], object)[:3], "ids": ["000005", "000006", 7.0], "bbox_mode": [0, 1, 0]},
    ]  # fmt: skip
    return [pickle.dumps(value, protocol) for value in held for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


_OPCODES = tuple(
    getattr(pickle, name) for name in pickle.__all__ if name.isupper() and type(getattr(pickle, name)) is bytes
)


@cache
def _mats() -> list[bytes]:
    files = []
    for compressed in (False, True):
        boxes, names = np.empty((1, 2), object), np.empty((2, 1), object)
        boxes[0, :] = [np.asarray([[1, 1, 3, 4], [3, 2, 10, 20]], np.uint16), np.ones((1, 4))]
        names[:, 0] = ["000005", "000006"]
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"boxes": boxes, "images": names, "other": {"a": 1}}, do_compression=compressed)
        files.append(buffer.getvalue())
    return files


def _read_proposals(path: Path) -> None:
    check_boxes(read_boxes(path.read_bytes(), str(path), _IDS, "voc", in_split_order=True))


@cache
def _classifier() -> WeakTr:
    config = WeakTrConfig(patch_size=8, dim=64, depth=1, heads=1, position_grid=2, fusion="uniform", fusion_pool="avg")
    torch.manual_seed(0)
    return WeakTr(config, 2)


@cache
def _own_classifier() -> bytes:
    return classifier_to_bytes(_classifier(), ("cat", "dog"))


@cache
def _own_detector() -> bytes:
    torch.manual_seed(0)
    return detector_to_bytes(build_detector(_MIL, 2), ["cat", "dog"])


def _safetensors(rng: Random, data: bytes, _files: list[bytes]) -> bytes:
    """Damage the bytes of a header, or the values in it while its length stays right."""
    if rng.random() < 0.5:
        return damage_head(rng, data, _HEADER)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    described = header["__metadata__"]
    if rng.random() < 0.5:  # what it says of itself is JSON within JSON
        for key in described:
            described[key] = to_json(damage_tree(rng, json.loads(described[key]))).decode()
    else:
        header = damage_tree(rng, header)
    text = to_json(header)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@cache
def _torch_files(what: str) -> list[bytes]:
    """PyTorch files of either layout, bare and in the wrappers of training loops."""
    state = _states()[what]
    files = []
    for content in (
        state,
        {"model": state, "epoch": 3, "miou": np.float64(0.5)},
        {"state_dict": state, "meta": {"a": [1]}},
    ):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            files.append(buffer.getvalue())
    return files[:2] if what == "sam" else files


def _states() -> dict[str, dict[str, Any]]:
    return {"classifier": dict(_classifier().state_dict()), "sam": load_file(BUILTIN_WEIGHTS["sam"].path)}


def _torch_file(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    """Damage a file's bytes, or the pickle in it while the archive around it stays sound."""
    if rng.random() < 0.5 or not zipfile.is_zipfile(io.BytesIO(data)):
        return damage_bytes(rng, data, files, _OPCODES)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, damage_bytes(rng, content, [content], _OPCODES) if name.endswith(".pkl") else content)
    return buffer.getvalue()


@cache
def _sam_file() -> bytes:
    return BUILTIN_WEIGHTS["sam"].path.read_bytes()


_TABLES = {"images": with_class_names(IMAGES, ("cat", "dog")), "proposals": PROPOSALS}


@cache
def _parts(name: str) -> list[bytes]:
    """Files of a table, of one row and of all."""
    images = [
        {
            "image_id": f"{n}",
            "uri": f"/data/{n}.jpg",
            "split": "train",
            "content": f"{n:032x}",
            "labels": [n % 2] if n else None,
        }
        | {"labels_difficult": []}
        for n in range(40)
    ]
    proposals = Proposals(
        size_hw=(6, 8),
        boxes_xyxy=np.asarray([[0, 0, 4, 4], [1, 1, 2, 2]], np.float32),
        source=["grid"] * 2,
        prompt_index=np.zeros(2, np.int32),
        mask_index=np.zeros(2, np.int8),
        predicted_iou=np.asarray([0.5, np.nan], np.float32),
        discarded={("grid", "no area"): 1},
        prompts=[Prompts(source="grid", points_xy=[np.ones((1, 2), np.float32)], kind=["grid"], class_index=[-1])],
    )
    rows = {"images": images, "proposals": [proposals_to_row(f"{n}", "train", proposals) for n in range(20)]}[name]
    files = []
    for count in (1, len(rows)):
        with tempfile.TemporaryDirectory() as folder:
            Table(folder, _TABLES[name]).write_rows(rows[:count], "part-0")
            files.append((Path(folder) / "part-0.parquet").read_bytes())
    return files


def _part(rng: Random, data: bytes, files: list[bytes]) -> bytes:
    if rng.random() < 0.5:
        return damage_bytes(rng, data, files)
    length = int.from_bytes(data[-8:-4], "little") + 8  # the footer, which is a small part of a real file
    return data[:-length] + damage_bytes(rng, data[-length:], files)


def _read_part(path: Path, name: str) -> None:
    table = Table(str(path.parent), _TABLES[name])
    table.count()
    table.ids()
    table.class_names()
    for row in table.iter_rows():
        if name == "proposals":
            proposals_from_row(row)


def _load_sam(path: Path) -> object:
    return load_sam(SamConfig(name="builtin", weights=Weights(str(path))))


BINARIES: dict[str, Kind] = {
    "image": Kind(alone("i.jpg"), _images, words_between(), _read_image),
    "pickle": Kind(alone("p.pkl"), _pickles, words_between(*_OPCODES), _read_proposals),
    "MATLAB file": Kind(alone("s.mat"), _mats, words_between(), _read_proposals),
    "safetensors, classifier": Kind(alone("c.safetensors"), lambda: [_own_classifier()], _safetensors, load_classifier),
    "safetensors, detector": Kind(
        alone("d.safetensors"), lambda: [_own_detector()], _safetensors, lambda path: load_detector(path, _MIL)
    ),
    "safetensors, SAM": Kind(alone("s.safetensors"), lambda: [_sam_file()], _safetensors, _load_sam),
    "PyTorch file, classifier": Kind(alone("c.pth"), lambda: _torch_files("classifier"), _torch_file, load_classifier),
    "PyTorch file, SAM": Kind(alone("s.pth"), lambda: _torch_files("sam"), _torch_file, _load_sam),
    "Parquet, images": Kind(
        alone("part-0.parquet"), lambda: _parts("images"), _part, lambda path: _read_part(path, "images")
    ),
    "Parquet, proposals": Kind(
        alone("part-0.parquet"), lambda: _parts("proposals"), _part, lambda path: _read_part(path, "proposals")
    ),
}
