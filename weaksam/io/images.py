"""Encoded bytes in, upright 8-bit RGB out, or an ``ImageError`` that says why not.

The content decides what a file is: there is no extension here. Animations give their first frame, EXIF orientation is
applied, transparency is laid over white (what a browser's empty page shows), samples of more than 8 bits are scaled by
``depth``'s rule. Damaged or oversized metadata cost no picture; what a damaged file lacks is never filled in.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from weaksam.errors import ImageError
from weaksam.io.depth import to_8_bits
from weaksam.io.files import read_bytes
from weaksam.io.metadata import without_metadata
from weaksam.io.wide_samples import wide_colours, wide_greys

# Pixels, height x width, read from the header before anything is decoded; more is a "decompression bomb". 128 Mi pixels
# are 400 MB as RGB; of common cameras only the full resolution of some phones (200 million) is more. Pillow's own limit
# (twice ``Image.MAX_IMAGE_PIXELS``) also holds, so that raising ours above it has no effect.
MAX_PIXELS = 2**27

# Decoders that only compute. EPS, WMF and their like start other programs; formats of games and desktops are left out.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")

# What data sets take for an image by its name, in lower case; whether it is one, the content decides.
IMAGE_SUFFIXES = (
    ".apng", ".avif", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg",
    ".jpx", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip

# First bytes that leave no doubt about what the file set out to be.
_JPEG = b"\xff\xd8\xff"
_JPEG_2000 = b"\xff\x4f\xff\x51"  # how its stream of pixels begins, with or without boxes around it
_SIGNATURES = (
    _JPEG, b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", _JPEG_2000,
)  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_ORIENTATION_TAG = 0x0112
_PNG_BITS = 24  # offset of the byte that tells how many bits a sample has
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 256, 257, 262, 0
_UPRIGHT = {  # EXIF orientation -> what undoes it (TIFF 6.0, tag 274)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Formats of turned images -> that in which they are written upright; options of these.
_SAVED_AS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "TIFF": "TIFF", "WEBP": "WEBP"}
_SAVED_WITH: dict[str, dict[str, int]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}

_Read = TypeVar("_Read")
_SIDEWAYS = (5, 6, 7, 8)  # orientations whose width and height change places


class _Quiet:
    """No warnings while images are read: Pillow warns of damaged metadata and large headers, which are harmless or judged here.

    The filters are the process's: of several threads the first mutes and the last restores, so that they read at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._muted = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._muted.enter_context(warnings.catch_warnings(action="ignore"))
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._muted.close()


_QUIET = _Quiet()


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, least_side: int = 0) -> NDArray[np.uint8]:
    """Decode the first frame of an image file of any common format.

    Args:
        data: The file's content: AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PNM, TIFF or WebP.
        max_pixels: Largest height x width to decode; lower is stricter.
        least_side: Pixels that the shorter side must keep. A JPEG of twice as many or more is decoded at a half, a quarter or
            an eighth of its size, in a fraction of the time. 0 = images are decoded as they are.

    Returns:
        uint8 ``[H, W, 3]`` RGB, upright, contiguous and writable.

    Raises:
        ImageError: With the reason "empty file", "not an image", "truncated", "decompression bomb" or "unreadable".
            Nothing else is raised, whatever the bytes.
    """
    return _judged(data, lambda kept: _decode(kept, max_pixels, least_side))


def decode_at_least(data: bytes, least_side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Decode an image as small as may be, see ``least_side`` of ``decode_image``, for what scales it down anyway.

    Returns:
        The image, and height and width of the whole one, which boxes are of.

    Raises:
        ImageError: As ``decode_image``.
    """
    image = decode_image(data, least_side=least_side)
    return image, (image_size(data) if data.startswith(_JPEG) else (image.shape[0], image.shape[1]))


def decode_numbers(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a PNG whose pixels are numbers of things and not colours: indices of a palette, or grey.

    Args:
        data: The file's content.
        max_pixels: Largest height x width to decode; lower is stricter.

    Returns:
        uint8 ``[H, W]``, as stored: not turned, not scaled.

    Raises:
        ImageError: With the reason "not a picture of numbers", or as ``decode_image``.
    """
    return _judged(data, lambda kept: _numbers(kept, max_pixels))


def image_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) of an image file's first frame, upright, from its header alone.

    Raises:
        ImageError: As ``decode_image``; of a file that is damaged behind its header nothing is noticed.
    """
    return _judged(data, _size_hw)


def read_size(uri: str) -> tuple[int, int] | ImageError:
    """Return (height, width) of an image upright, from its header alone, or why it cannot be read."""
    try:
        return image_size(read_bytes(uri))
    except ImageError as error:
        return error


def is_turned(path: str) -> bool:
    """Whether a local image is stored turned or mirrored, as its EXIF orientation says; False of what cannot be read."""
    with _QUIET:
        try:
            with Image.open(path, formats=_available_formats()) as image:
                return _orientation(image) in _UPRIGHT
        except Exception:
            return False


def upright_file(data: bytes) -> bytes | None:
    """Return the file of a turned image anew, its pixels upright: for readers that do not know the EXIF orientation.

    The format stays; JPEG and WebP lose a little (quality 95). None where nothing is to be done: it is upright, or cannot be
    read, or is of a format in which turned images are hardly ever met (AVIF, JPEG 2000).
    """
    try:
        return _judged(data, _turned_upright)
    except ImageError:
        return None


def _turned_upright(data: bytes) -> bytes | None:
    with Image.open(io.BytesIO(data), formats=_available_formats()) as image:
        kind = _SAVED_AS.get(image.format or "")
        if kind is None or _orientation(image) not in _UPRIGHT:
            return None
        _load_whole(image, data, MAX_PIXELS)
        left_to_do = _UPRIGHT.get(_orientation(image))  # Pillow turns some formats while it loads them
        upright = image.copy() if left_to_do is None else image.transpose(left_to_do)
        profile = image.info.get("icc_profile")
        upright.info = {"icc_profile": profile} if profile else {}
        file = io.BytesIO()
        upright.save(file, format=kind, icc_profile=profile, **_SAVED_WITH.get(kind, {}))
        return file.getvalue()


def require_size_of(image_hw: Sequence[int], found_hw: Sequence[int], what: str) -> None:
    """Raise ImageError unless masks or a map, ``what`` by name, have the height and width of their image."""
    if tuple(found_hw) != tuple(image_hw):
        found, wanted = (f"{height} x {width}" for height, width in (found_hw, image_hw))
        raise ImageError(f"{what} of another size", f"{found} pixels (height x width), the picture has {wanted}")


def _judged(data: bytes, read: Callable[[bytes], _Read]) -> _Read:
    """Read a file; whatever goes wrong is an ImageError with one of few reasons."""
    if not data:
        raise ImageError("empty file")
    with _QUIET:
        try:
            return _read_any(data, read)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError("decompression bomb", f"more than {MAX_PIXELS:,} pixels; shrink it") from error
        except UnidentifiedImageError as error:
            raise _unidentified(data) from error
        except Exception as error:  # decoders raise whatever their parsing stumbles over, MemoryError included
            cut = _is_cut_short(data) or "truncated" in str(error).lower()
            raise ImageError("truncated" if cut else "unreadable", f"{type(error).__name__}: {error}") from error


def check_resized(size_hw: tuple[int, int], longest_side: int) -> None:
    """Refuse an image whose short side vanishes when its long side is resized to ``longest_side`` pixels.

    The resized side is ``int(side * longest_side / longest + 0.5)``, segment-anything's rule.

    Raises:
        ImageError: With the reason "too thin".
    """
    height, width = size_hw
    scale = longest_side / max(height, width)
    if int(min(height, width) * scale + 0.5) < 1:
        raise ImageError("too thin", f"{width} x {height} pixels leave no pixel at a longest side of {longest_side}")


def _read_any(data: bytes, read: Callable[[bytes], _Read]) -> _Read:
    """Read; where that fails, read what is left without the metadata. The first failure is the one to tell of."""
    try:
        return read(data)
    except ImageError:
        raise
    except Exception:
        for kept in without_metadata(data):
            with contextlib.suppress(Exception):
                return read(kept)
        raise


def _size_hw(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=_available_formats()) as image:
        width, height = image.size
        if width * height == 0:
            raise ImageError("unreadable", f"{width} x {height} pixels")
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose size some versions of Pillow turn upright already
            width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
        return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def _decode(data: bytes, max_pixels: int, least_side: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=_available_formats()) as image:
        _load_whole(image, data, max_pixels, least_side)
        upright = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image, data)
        return np.array(rgb if upright is None else rgb.transpose(upright))


def _numbers(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        few_greys = image.mode == "L" and data[_PNG_BITS] < 8  # which Pillow stretches to 0..255
        if image.mode not in ("P", "L") or few_greys:
            what = f"grey of {data[_PNG_BITS]} bits" if few_greys else f"mode {image.mode}"
            raise ImageError("not a picture of numbers", f"expected a palette, or grey of 8 bits, got {what}")
        _load_whole(image, data, max_pixels)
        return np.array(image)


def _load_whole(image: Image.Image, data: bytes, max_pixels: int, least_side: int = 0) -> None:
    width, height = image.size
    if width * height == 0:
        raise ImageError("unreadable", f"{width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError("decompression bomb", f"{width} x {height} pixels, more than {max_pixels:,}; shrink it")
    if least_side:
        image.draft(None, (least_side, least_side))  # None: the colours stay as they are
    image.load()
    # Zeros in place of a lost tail decode without complaint, and a lost last chunk is not missed.
    if _is_cut_short(data):
        raise ImageError("truncated", f"the file's {len(data):,} bytes hold no end of the image")


@functools.cache
def _available_formats() -> tuple[str, ...]:
    """Those of ``_FORMATS`` that the installed Pillow knows."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata does not make the pixels unusable; Pillow raises a dozen types on it
        return 1


def _to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    wide = wide_greys(image, data)
    if wide is not None:
        levels = to_8_bits(*wide)
        return Image.fromarray(255 - levels if _is_negative(image) else levels).convert("RGB")
    wide = wide_colours(image, data)
    rgb = None if wide is None else Image.fromarray(to_8_bits(*wide)).convert("RGB")
    if not image.has_transparency_data:
        return rgb or image.convert("RGB")
    rgba = image.convert("RGBA")
    if rgb is not None:
        rgb.putalpha(rgba.getchannel("A"))
        rgba = rgb
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 stands for white, as in TIFFs of films; Pillow turns samples of up to 8 bits over, but no wider ones."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO


def _unidentified(data: bytes) -> ImageError:
    """Tell a photograph of a format that is not read, and a text file, from an image whose header is damaged."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return ImageError("not an image", "a HEIC photograph, which is not read; convert it to JPEG or PNG")
    if not (data.startswith(_SIGNATURES) or _is_webp(data)):
        return ImageError("not an image", f"starts with {data[:8]!r}")
    return ImageError("truncated" if _is_cut_short(data) else "unreadable", "its header cannot be parsed")


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def _is_cut_short(data: bytes) -> bool:
    """Whether a JPEG, JPEG 2000, PNG or WebP file lacks the end that its format prescribes; False for other formats."""
    if data.startswith(_JPEG):
        return data.find(b"\xff\xd9", _first_scan_of_jpeg(data)) < 0
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if data.startswith((b"\0\0\0\x0cjP  ", _JPEG_2000)):
        return data.find(b"\xff\xd9", max(data.find(_JPEG_2000), 0)) < 0
    return _is_webp(data) and len(data) < 8 + int(struct.unpack_from("<I", data, 4)[0])


def _first_scan_of_jpeg(data: bytes) -> int:
    """Offset of the first scan of pixels, behind the metadata, which may hold a whole thumbnail JPEG with its own end.

    Where the chain of segments breaks off, the offset reached until then.
    """
    offset = 2
    while data[offset : offset + 1] == b"\xff" and offset + 4 <= len(data):
        if data[offset + 1] == 0xDA:
            return offset
        if data[offset + 1] == 0xFF:  # fill byte
            offset += 1
        else:
            offset += 2 + int(struct.unpack_from(">H", data, offset + 2)[0])
    return offset
