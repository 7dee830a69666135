"""Image files without what does not decide their pixels: the way to a picture whose metadata a decoder stumbles over.

Text chunks larger than Pillow accepts, damaged colour profiles, EXIF, XMP, thumbnails and multi-picture tables.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Container, Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_PNG_EXIF = b"eXIf"

_JPEG_PIXELS = frozenset((0xE0, 0xEE))  # of APP0 to APP15 and comments: JFIF, and Adobe's, which tells the colour space
_JPEG_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE)) - _JPEG_PIXELS
_JPEG_EXIF, _START_OF_SCAN = 0xE1, 0xDA

# Names, texts, dates, XMP, IPTC, Photoshop's blocks and the colour profile; pointers to EXIF and GPS.
_TIFF_METADATA = frozenset((269, 270, 271, 272, 285, 305, 306, 315, 316, 700, 33432, 33723, 34377, 34675))
_TIFF_EXIF = frozenset((34665, 34853))


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yield the file without its metadata but for EXIF, which says what is up, then without EXIF too.

    Only where something is left out, so that a file without metadata, or of another format than AVIF, JPEG, PNG and TIFF,
    yields nothing. Past a place where the file's structure breaks off everything is kept.
    """
    last = data
    for marks, strip in _STRIPPERS:
        if data.startswith(marks) or data[4:8] in marks:
            for keep_exif in (True, False):
                kept = strip(data, keep_exif)
                if kept != last:
                    yield kept
                last = kept


def _strip_png(data: bytes, keep_exif: bool) -> bytes:
    kept, offset = [data[: len(_PNG)]], len(_PNG)
    names: Container[bytes] = {*_PNG_PIXELS, _PNG_EXIF} if keep_exif else _PNG_PIXELS
    while offset + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            break
        intact = (
            name != _PNG_EXIF or zlib.crc32(data[offset + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]
        )
        if name in names and intact:
            kept.append(data[offset:end])
        offset = end
    return b"".join((*kept, data[offset:]))


def _strip_jpeg(data: bytes, keep_exif: bool) -> bytes:
    kept, offset = [data[:2]], 2
    while offset + 4 <= len(data) and data[offset] == 0xFF and data[offset + 1] != _START_OF_SCAN:
        if data[offset + 1] == 0xFF:  # fill byte
            offset += 1
            continue
        end = offset + 2 + int(struct.unpack_from(">H", data, offset + 2)[0])
        exif = data[offset + 1] == _JPEG_EXIF and data[offset + 4 : offset + 10] == b"Exif\0\0"
        if data[offset + 1] not in _JPEG_METADATA or (exif and keep_exif):
            kept.append(data[offset:end])
        offset = end
    return b"".join((*kept, data[offset:]))


def _strip_tiff(data: bytes, keep_exif: bool) -> bytes:
    """Entries cannot be cut out, as offsets count from the file's start: what they hold becomes one zero."""
    order = "<" if data.startswith(b"II") else ">"
    kept = bytearray(data)
    (first,) = struct.unpack_from(f"{order}I", data, 4) if len(data) >= 8 else (0,)
    (entries,) = struct.unpack_from(f"{order}H", data, first) if first + 2 <= len(data) else (0,)
    for offset in range(first + 2, min(first + 2 + 12 * entries, len(data) - 11), 12):
        (tag,) = struct.unpack_from(f"{order}H", data, offset)
        if tag in _TIFF_METADATA or (tag in _TIFF_EXIF and not keep_exif):
            struct.pack_into(f"{order}HIxxxx", kept, offset + 2, 1, 1)
    return bytes(kept)


def _strip_avif(data: bytes, keep_exif: bool) -> bytes:
    """An item of a type that nobody knows is passed over; AVIF says what is up without EXIF."""
    return data if keep_exif else re.sub(rb"(infe.{8,12}?)Exif", rb"\1skip", data, flags=re.DOTALL)


_STRIPPERS: tuple[tuple[tuple[bytes, ...], Callable[[bytes, bool], bytes]], ...] = (
    ((_PNG,), _strip_png),
    ((b"\xff\xd8",), _strip_jpeg),
    ((b"II*\0", b"MM\0*"), _strip_tiff),
    ((b"ftyp",), _strip_avif),
)
