"""The heat maps of the few images that the report shows: small grey PNG files beside the proposals.

Activation maps are far larger than everything else that a run keeps, so only these are kept, and only for looking at.
"""

from __future__ import annotations

import hashlib
import io
import posixpath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.store.files import write_bytes
from pipelines.store.instances import Instance
from weaksam.io.files import open_fs

_LONGEST_SIDE = 320  # pixels


def write_heat_map(
    instance: Instance, image_id: str, class_index: int, source: str, heat_map: NDArray[np.float32]
) -> None:
    """Keep one map ``[H, W]`` in [0, 1] of one class and source ("fine", "coarse", "cross") of one image."""
    picture = Image.fromarray((heat_map.clip(0, 1) * 255).astype(np.uint8))
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_bytes(instance.file("_gallery", f"{_stem(image_id)}.{class_index}.{source}.png"), buffer.getvalue())


def read_heat_maps(instance: Instance, image_id: str) -> dict[tuple[int, str], NDArray[np.float32]]:
    """Return the kept maps of one image by (class index, source); empty when none were kept."""
    fs, folder = open_fs(instance.file("_gallery"))
    maps: dict[tuple[int, str], NDArray[np.float32]] = {}
    for path in sorted(fs.glob(posixpath.join(folder, f"{_stem(image_id)}.*.png"))):
        _, class_index, source, _ = posixpath.basename(path).split(".")
        with fs.open(path, "rb") as file:
            maps[int(class_index), source] = np.asarray(Image.open(file).convert("L"), np.float32) / np.float32(255)
    return maps


def _stem(image_id: str) -> str:
    return hashlib.sha1(image_id.encode()).hexdigest()
