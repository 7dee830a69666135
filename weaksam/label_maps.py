"""Label maps: which class each pixel of an image belongs to, and their PNGs; without torch.

A label map is uint8 ``[H, W]``: 0 background, ``class_index + 1``, 255 for a pixel that nobody decides about.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam.errors import DataError, ImageError
from weaksam.io.images import decode_numbers, require_size_of

BACKGROUND, IGNORED = 0, 255
MOST_CLASSES = 254  # numbers of a byte, without those two


def encode_label_map(label_map: NDArray[np.uint8]) -> bytes:
    """Return a label map ``[H, W]`` as the content of a grey PNG of 8 bits."""
    file = io.BytesIO()
    Image.fromarray(label_map).save(file, "PNG")
    return file.getvalue()


def decode_label_map(data: bytes, where: str) -> NDArray[np.uint8]:
    """Return the label map ``[H, W]`` of a PNG of numbers, the inverse of ``encode_label_map``.

    Raises:
        DataError: it is no such picture; with ``where`` it is from.
    """
    try:
        return decode_numbers(data)
    except ImageError as error:
        raise DataError(f"{where}: expected a PNG of numbers, got {error}; restore or convert it") from error


def require_map_of(image: NDArray[np.uint8], label_map: NDArray[np.uint8]) -> None:
    """Raise ImageError unless a label map ``[H, W]`` has the size of its image ``[H, W, 3]``: it is of another picture."""
    require_size_of(image.shape[:2], label_map.shape, "label map")


def painting_order(level: Sequence[int], confidence: Sequence[float]) -> list[int]:
    """Return in which order superpixels are painted, the last one on top: by level, then by confidence (FMA method 5.2)."""
    return sorted(range(len(level)), key=lambda n: (level[n], confidence[n]))
