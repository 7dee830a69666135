"""The samples of more than 8 bits that a file holds and that Pillow cuts: the way to them through its own decoders.

Pillow keeps whole grey samples of PNG and TIFF, but only the upper byte of 16-bit colours, and clips what PNM scales.
"""

from __future__ import annotations

import io
import re
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Names of Pillow's unpackers: reading 16-bit samples in the wrong byte order gives the lower byte for the upper.
_NATIVE, _SWAPPED = ("16L", "16B") if sys.byteorder == "little" else ("16B", "16L")
_LOWER_BYTES = {
    f"{mode};{upper}": f"{mode};{lower}"
    for mode in ("RGB", "RGBA", "RGBX")
    for upper, lower in (("16B", "16L"), ("16L", "16B"), ("16N", _SWAPPED))
}
_GREY_AND_ALPHA = "LA;16B"  # four bytes a pixel: decoded as four samples, both bytes of grey come first

_PNM_HEADER = re.compile(rb"P([2356])" + 3 * rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)" + rb"\s")
_PNM_COMMENT = re.compile(rb"#[^\r\n]*")


class Wide(NamedTuple):
    """Samples, and the full scale that their file states, if any."""

    samples: NDArray[Any]  # [H, W] or [H, W, 3]
    full_scale: float | None = None


def wide_greys(image: Image.Image, data: bytes) -> Wide | None:
    """The samples of a grey image of more than 8 bits; None for others. ``image`` is loaded, ``data`` its file."""
    if image.format == "PPM" and image.mode == "I":
        return _pnm(data) or Wide(np.asarray(image))
    if image.mode.startswith("I") or image.mode == "F":
        return Wide(np.asarray(image))
    return None


def wide_colours(image: Image.Image, data: bytes) -> Wide | None:
    """The samples of a 16-bit colour image, or grey with alpha; None for others. ``image`` is loaded, ``data`` its file."""
    if image.format == "PPM":
        return _pnm(data)
    if image.format not in ("PNG", "TIFF"):
        return None
    with Image.open(io.BytesIO(data), formats=(image.format,)) as lower:
        raw_modes = {_raw_mode(tile) for tile in lower.tile}
        if raw_modes == {_GREY_AND_ALPHA}:
            lower.tile = [_with_raw_mode(tile, "RGBA") for tile in lower.tile]
            both = np.asarray(lower, np.uint16)
            return Wide((both[..., 0] << 8) | both[..., 1])
        if not raw_modes or not raw_modes <= _LOWER_BYTES.keys():
            return None
        lower.tile = [_with_raw_mode(tile, _LOWER_BYTES[_raw_mode(tile)]) for tile in lower.tile]
        upper_bytes, lower_bytes = (np.asarray(each, np.uint16)[..., :3] for each in (image, lower))
        return Wide((upper_bytes << 8) | lower_bytes)


def _pnm(data: bytes) -> Wide | None:
    """The samples of a PNM of more than 8 bits. A maxval of 65535 is the container's, any other one a statement."""
    header = _PNM_HEADER.match(data)
    if header is None or int(header[4]) <= 255:
        return None
    kind, (width, height, maxval) = header[1], map(int, header.groups()[1:])
    shape = (height, width, 3) if kind in b"36" else (height, width)
    count = int(np.prod(shape))
    if kind in b"56":
        samples = np.frombuffer(data, ">u2", count, header.end())
    else:
        samples = np.array(_PNM_COMMENT.sub(b"", data[header.end() :]).split()[:count], np.uint16)
    return Wide(samples.reshape(shape).astype(np.uint16), None if maxval == 65535 else maxval)


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    return tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
