from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from tests.support.broken_files import encode, picture
from weaksam.errors import ImageError
from weaksam.io.images import decode_image
from weaksam.io.metadata import without_metadata

LARGE = zlib.compress(bytes(5 << 20))  # more than Pillow unpacks of a text or a profile
EXIF_UPSIDE_DOWN = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"
BROKEN_MULTI_PICTURE = b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\xff\xff\xff\x7f\0\0\0\0"


def with_chunk(
    name: bytes, body: bytes, *, crc: int | None = None, behind: bool = False, data: bytes | None = None
) -> bytes:
    """A PNG with one more chunk before or behind its pixels."""
    data = data or encode(picture(), "PNG")
    at = data.index(b"IEND" if behind else b"IDAT") - 4
    crc = zlib.crc32(name + body) if crc is None else crc
    return data[:at] + struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc) + data[at:]


def with_segment(marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment at its start."""
    data = encode(picture(), "JPEG")
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_chunk(b"zTXt", b"Comment\0\0" + LARGE), id="large text"),
        pytest.param(with_chunk(b"zTXt", b"Comment\0\0" + LARGE, behind=True), id="large text behind the pixels"),
        pytest.param(with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE), id="large XMP"),
        pytest.param(with_chunk(b"iCCP", b"profile\0\0" + LARGE), id="large colour profile"),
        pytest.param(with_chunk(b"iCCP", b"profile\0\x09nonsense"), id="damaged colour profile"),
        pytest.param(with_chunk(b"eXIf", b"nonsense"), id="damaged EXIF"),
        pytest.param(with_chunk(b"eXIf", b"nonsense", crc=0), id="EXIF with a wrong checksum"),
        pytest.param(with_chunk(b"tEXt", b"Comment\0text", crc=0), id="text with a wrong checksum"),
        pytest.param(with_chunk(b"tIME", b"", behind=True), id="time without a time"),
        pytest.param(with_chunk(b"pHYs", b"\0"), id="short resolution"),
        pytest.param(with_chunk(b"gAMA", b""), id="empty gamma"),
    ],
)
def test_metadata_costs_no_png(data: bytes) -> None:
    np.testing.assert_array_equal(decode_image(data), np.asarray(picture()))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_segment(0xE2, BROKEN_MULTI_PICTURE), id="damaged multi-picture table"),
        pytest.param(with_segment(0xE2, b"ICC_PROFILE\0"), id="cut colour profile"),
        pytest.param(with_segment(0xE2, b"ICC_PROFILE\0\x09\x01nonsense"), id="part 9 of 1 of a colour profile"),
        pytest.param(with_segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10"), id="damaged Photoshop block"),
        pytest.param(with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"), id="damaged XMP"),
        pytest.param(with_segment(0xE1, b"Exif\0\0" + EXIF_UPSIDE_DOWN[:9]), id="cut EXIF"),
        pytest.param(with_segment(0xFE, bytes(65_000)), id="large comment"),
    ],
)
def test_metadata_costs_no_jpeg(data: bytes) -> None:
    np.testing.assert_array_equal(decode_image(data), decode_image(encode(picture(), "JPEG")))


@pytest.mark.parametrize("tag", [269, 270, 271, 272, 305, 700, 34665, 34675])
def test_metadata_costs_no_tiff(tag: int) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[tag] = 8 if tag == 34665 else b"x" * 60 if tag in (700, 34675) else "x" * 60
    data = bytearray(encode(picture(), "TIFF", tiffinfo=info))
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    (at,) = (o for o in range(first + 2, first + 2 + 12 * entries, 12) if struct.unpack_from("<H", data, o)[0] == tag)
    struct.pack_into("<II", data, at + 4, 500, 2**31)  # 500 values, far behind the end of the file
    np.testing.assert_array_equal(decode_image(bytes(data)), np.asarray(picture()))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow does not read AVIF")
def test_damaged_exif_costs_no_avif() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker" * 20
    data = encode(picture(), "AVIF", exif=exif.tobytes())
    at = data.index(exif.tobytes()[6:])
    np.testing.assert_array_equal(decode_image(data[:at] + bytes(60) + data[at + 60 :]), decode_image(data))


def test_orientation_outlives_what_is_damaged_beside_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    damaged = with_chunk(b"zTXt", b"Comment\0\0" + LARGE, data=encode(picture(), "PNG", exif=exif))
    np.testing.assert_array_equal(decode_image(damaged), np.asarray(picture())[::-1, ::-1])


def test_nothing_is_left_out_of_other_formats_nor_of_files_without_metadata() -> None:
    assert list(without_metadata(encode(picture(), "PNG"))) == []
    assert list(without_metadata(encode(picture(), "BMP"))) == []
    assert list(without_metadata(b"II*\0")) == []
    assert list(without_metadata(b"")) == []


def test_damaged_pixels_are_not_made_good() -> None:
    data = with_chunk(b"zTXt", b"Comment\0\0" + LARGE)
    at = data.index(b"IDAT") + 20
    with pytest.raises(ImageError, match="Decompressed data too large"):
        decode_image(data[:at] + b"\x55\x55\x55\x55" + data[at + 4 :])
