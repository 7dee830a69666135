from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests.support.broken_files import Expected, broken_files, encode, picture, png, unusual_files, write_broken_files
from weaksam.errors import ImageError
from weaksam.io.files import read_bytes
from weaksam.io.images import check_resized, decode_at_least, decode_image, decode_numbers, is_turned, upright_file

UNUSUAL, BROKEN = unusual_files(), broken_files()
UPRIGHT = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
# How a file of each EXIF orientation stores the image above: where the visual top row and left column lie (TIFF 6.0).
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_file_is_kept_upright_and_in_rgb(name: str) -> None:
    data, size_hw = UNUSUAL[name]
    image = decode_image(data)
    assert image.shape == (*size_hw, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_dropped_with_its_reason(name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(ImageError) as caught:
        check_resized(decode_image(data).shape[:2], 1024)
    assert caught.value.reason == reason


def test_every_file_of_the_folder_meets_its_expectation_when_read_back(tmp_path: Path) -> None:
    expected = write_broken_files(tmp_path)
    assert {name: outcome(tmp_path / name) for name in expected} == expected


def outcome(path: Path) -> Expected:
    try:
        size_hw = decode_image(read_bytes(str(path))).shape[:2]
        check_resized(size_hw, 1024)
    except ImageError as error:
        return "dropped", error.reason
    return "kept", size_hw


@pytest.mark.parametrize(
    "name",
    [
        "plain.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "lzw.tiff",
        "animated.png",
        "animated.webp",
        "plain.bmp",
        "a jpeg.png",
    ],
)
def test_colours_survive(name: str) -> None:
    difference = decode_image(UNUSUAL[name][0]).astype(int) - np.asarray(picture(), dtype=int)
    assert np.abs(difference).mean() < 12  # JPEG's loss on noise; an inverted or shifted image is beyond 60


RED, WHITE, HALF = (255, 0, 0), (255, 255, 255), (255, 127, 127)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(encode(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "PNG"), HALF, id="half transparent red"),
        pytest.param(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "PNG"), WHITE, id="transparent"),
        pytest.param(encode(Image.new("LA", (1, 1), (0, 0)), "PNG"), WHITE, id="transparent grey"),
        pytest.param(encode(Image.new("RGB", (1, 1), RED), "PNG", transparency=RED), WHITE, id="colour key"),
        pytest.param(encode(Image.new("P", (1, 1)), "PNG", transparency=0), WHITE, id="transparent palette entry"),
        pytest.param(encode(Image.new("1", (1, 1), 1), "PNG"), WHITE, id="bilevel"),
        pytest.param(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), RED, id="CMYK JPEG"),
        pytest.param(encode(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), RED, id="CMYK TIFF"),
        pytest.param(encode(Image.fromarray(np.array([[0xABCD]], np.uint16)), "PNG"), (0xAB,) * 3, id="16-bit grey"),
        pytest.param(png(np.array([[[0xAB00, 0x12FF, 0]]], np.uint16)), (0xAB, 0x12, 0), id="16-bit RGB"),
        pytest.param(png(np.array([[[0xFFFF, 0, 0, 0x8080]]], np.uint16)), HALF, id="16-bit RGBA"),
        pytest.param(b"P5 1 1 65535\n\xab\xcd", (0xAB,) * 3, id="16-bit PGM"),
        pytest.param(b"P5 1 1 65535\n\x00\xcd", (0xCD,) * 3, id="8 bits in a 16-bit PGM"),
        pytest.param(b"P5 1 1 4095\n\x00\xcd", (13,) * 3, id="dark PGM that states 12 bits"),
        pytest.param(encode(Image.fromarray(np.array([[0.5]], np.float32)), "TIFF"), (128,) * 3, id="float of 0..1"),
        pytest.param(encode(Image.fromarray(np.array([[99.6]], np.float32)), "TIFF"), (100,) * 3, id="float of 0..255"),
        pytest.param(encode(Image.fromarray(np.array([[7]], np.int32)), "TIFF"), (7,) * 3, id="integers of 0..255"),
        pytest.param(encode(Image.fromarray(np.array([[65535]], np.int32)), "TIFF"), WHITE, id="integers of 0..65535"),
        pytest.param(encode(Image.fromarray(np.array([[np.nan]], np.float32)), "TIFF"), (0,) * 3, id="not a number"),
    ],
)
def test_first_pixel_is(data: bytes, colour: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(decode_image(data)[0, 0], colour, atol=1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_wide_samples_of_which_0_is_white_are_turned_over(dtype: type[np.generic]) -> None:
    samples = np.array([[0, 1023, 4095]]).astype(dtype)
    film = encode(Image.fromarray(samples), "TIFF").replace(b"\x06\x01\x03\0\1\0\0\0\1", b"\x06\x01\x03\0\1\0\0\0\0")
    np.testing.assert_allclose(decode_image(film)[0, :, 0], [255, 192, 0], atol=1)


def test_values_of_no_customary_scale_are_stretched() -> None:
    values = np.array([[-100.0, 0.0, 200.0]], np.float32)
    assert decode_image(encode(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 85, 255]


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    for format_name in ("PNG", "TIFF"):  # Pillow turns TIFF by itself; it must not be turned twice
        np.testing.assert_array_equal(decode_image(encode(stored, format_name, exif=exif)), UPRIGHT)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_turned_file_is_written_anew_upright_in_its_format(
    tmp_path: Path, orientation: int, format_name: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = np.repeat(np.repeat(STORED[orientation], 16, 0), 16, 1)  # whole blocks, of which JPEG loses little
    data = encode(Image.fromarray(np.ascontiguousarray(large)), format_name, exif=exif)
    (tmp_path / "a").write_bytes(data)
    assert is_turned(str(tmp_path / "a")) == (orientation != 1)
    upright = upright_file(data)
    if orientation == 1:
        assert upright is None
        return
    assert upright is not None
    assert upright_file(upright) is None
    with Image.open(io.BytesIO(upright)) as stored:  # by a reader that turns nothing
        assert stored.format == format_name
        assert stored.getexif().get(0x0112, 1) == 1
        assert stored.size == (3 * 16, 2 * 16)
    difference = decode_image(upright).astype(int) - decode_image(data)
    assert np.abs(difference).max() <= (0 if format_name in ("PNG", "TIFF") else 40)
    assert np.abs(difference).mean() <= (0 if format_name in ("PNG", "TIFF") else 6)


@pytest.mark.parametrize(
    ("least_side", "size_hw"),
    [
        (0, (240, 322)),
        (121, (240, 322)),
        (120, (120, 161)),
        (61, (120, 161)),
        (60, (60, 81)),
        (1, (30, 41)),
        (300, (240, 322)),
    ],
)
def test_a_jpeg_is_decoded_as_small_as_its_shorter_side_may_be(least_side: int, size_hw: tuple[int, int]) -> None:
    rows, columns = np.mgrid[:240, :322]
    smooth = np.stack([rows, columns * 240 // 322, 255 - rows], axis=-1).astype(np.uint8)
    data = encode(Image.fromarray(smooth), "JPEG", quality=95)
    image, whole_hw = decode_at_least(data, least_side)
    assert (image.shape, whole_hw) == ((*size_hw, 3), (240, 322))
    expected = np.asarray(Image.fromarray(smooth).resize(size_hw[::-1], Image.Resampling.BOX), int)
    assert np.abs(image - expected)[:-1, :-1].max() <= 6  # the last column of a half is of half a block


def test_what_is_decoded_small_is_upright_whole_and_complete() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture((160, 320)), "JPEG", exif=exif)
    image, whole_hw = decode_at_least(data, 80)
    assert (image.shape, whole_hw) == ((160, 80, 3), (320, 160))
    with pytest.raises(ImageError, match="truncated"):
        decode_at_least(data[: len(data) // 2], 1)
    with pytest.raises(ImageError, match="decompression bomb"):
        decode_image(data, max_pixels=160 * 320 - 1, least_side=1)
    png = encode(picture((160, 320)), "PNG")
    np.testing.assert_array_equal(decode_at_least(png, 1)[0], decode_image(png))
    assert decode_at_least(png, 1)[1] == (160, 320)


def test_what_is_no_turned_image_is_not_written_anew(tmp_path: Path) -> None:
    assert upright_file(b"") is None
    assert upright_file(b"text") is None
    assert not is_turned(str(tmp_path / "gone.jpg"))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(UPRIGHT), "PNG", exif=exif)), UPRIGHT)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_exif_does_not_cost_the_image(exif: bytes) -> None:
    jpeg = encode(picture(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    np.testing.assert_array_equal(decode_image(jpeg[:2] + segment + jpeg[2:]), decode_image(jpeg))


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp", "animated.png"])
def test_animation_gives_its_first_frame(name: str) -> None:
    first = decode_image(UNUSUAL[name][0]).astype(int)
    assert np.abs(first - np.asarray(picture(), dtype=int)).mean() < 12


@pytest.mark.parametrize(
    ("format_name", "options", "tail"),
    [
        ("JPEG", {}, 0),
        ("JPEG", {"progressive": True}, 0),
        ("PNG", {}, 4),  # the checksum of nothing
        ("WEBP", {}, 0),
        ("JPEG2000", {}, 0),
        ("JPEG2000", {"no_jp2": True}, 0),
    ],
)
def test_file_cut_anywhere_is_truncated(format_name: str, options: dict[str, bool], tail: int) -> None:
    data = encode(picture((9, 12)), format_name, **options)
    for length in range(16, len(data) - tail):
        with pytest.raises(ImageError) as caught:
            decode_image(data[:length])
        assert (length, caught.value.reason) == (length, "truncated")


def test_end_of_an_embedded_thumbnail_is_not_taken_for_the_end_of_the_image() -> None:
    jpeg, thumbnail = encode(picture(), "JPEG"), encode(picture((8, 8)), "JPEG")
    segment = b"\xff\xed" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = jpeg[:2] + segment + jpeg[2:]
    np.testing.assert_array_equal(decode_image(data), decode_image(jpeg))
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[: -len(jpeg) // 2] + bytes(len(jpeg) // 2))


def test_truncation_is_noticed_where_a_library_told_pillow_to_ignore_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for name in ("cut in half.jpg", "cut in half.png", "cut in its last block.jpg"):
        with pytest.raises(ImageError, match="truncated"):
            decode_image(BROKEN[name][0])


def test_bomb_is_refused_before_anything_is_decoded() -> None:
    data = encode(Image.new("1", (100, 101)), "PNG")
    assert decode_image(data, max_pixels=10_100).shape == (101, 100, 3)
    with pytest.raises(ImageError, match="decompression bomb: 100 x 101 pixels, more than 10,099"):
        decode_image(data, max_pixels=10_099)


def numbers_file(mode: str, values: Any, format_name: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.array(values, np.uint8))
    if mode == "P":
        picture.putpalette([7] * 768)  # colours that tell nothing apart
    else:
        picture = picture.convert(mode)
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "values", "options"),
    [
        ("P", [[0, 1, 255], [20, 128, 3]], {}),
        ("P", [[0, 1], [3, 2]], {"bits": 2}),
        ("P", [[0, 1], [1, 0]], {"transparency": 0}),
        ("L", [[0, 1, 255], [20, 128, 3]], {}),
    ],
    ids=["palette", "palette of 2 bits", "palette with transparency", "grey"],
)
def test_numbers_of_a_png_are_those_stored(mode: str, values: list[list[int]], options: dict[str, Any]) -> None:
    found = decode_numbers(numbers_file(mode, values, **options))
    assert found.dtype == np.uint8
    assert found.tolist() == values


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (numbers_file("RGB", [[1]]), "not a picture of numbers", "mode RGB"),
        (numbers_file("1", [[1]]), "not a picture of numbers", "mode 1"),
        (numbers_file("LA", [[1]]), "not a picture of numbers", "mode LA"),
        (numbers_file("L", [[1]], "TIFF"), "unreadable", "its header cannot be parsed"),
        (numbers_file("P", [[1]])[:-9], "truncated", "truncated"),
        (b"", "empty file", "empty file"),
    ],
)
def test_a_file_without_numbers_says_why(data: bytes, reason: str, detail: str) -> None:
    with pytest.raises(ImageError, match=detail) as caught:
        decode_numbers(data)
    assert caught.value.reason == reason


def test_greys_of_fewer_than_8_bits_are_no_numbers() -> None:
    data = bytearray(numbers_file("L", [[1, 2]]))
    data[24] = 4  # bits; the checksum of the header follows
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ImageError, match="grey of 4 bits"):
        decode_numbers(bytes(data))


def test_a_bomb_of_numbers_is_refused() -> None:
    with pytest.raises(ImageError, match="decompression bomb: 2 x 2 pixels, more than 3"):
        decode_numbers(numbers_file("P", [[1, 2], [3, 4]]), max_pixels=3)


@pytest.mark.parametrize("format_name", ["ICO", "TGA", "PCX", "SGI"])
def test_format_off_the_list_is_not_an_image(format_name: str) -> None:
    with pytest.raises(ImageError, match="not an image"):
        decode_image(encode(picture(), format_name))


def test_a_heic_photograph_is_told_whatever_its_name() -> None:
    with pytest.raises(
        ImageError, match="not an image: a HEIC photograph, which is not read; convert it to JPEG or PNG"
    ):
        decode_image(b"\x00\x00\x00$ftypheic\x00\x00\x00\x00mif1heic" + bytes(64))


def test_warnings_of_pillow_are_swallowed_and_the_filters_put_back() -> None:
    large = io.BytesIO(png(np.zeros((1, 1, 1), np.uint8), claimed_hw=(10_000, 10_000)))
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(large)
    before = list(warnings.filters)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(large.getvalue())
    assert warnings.filters == before


def test_threads_read_at_once_and_the_last_puts_the_filters_back(monkeypatch: pytest.MonkeyPatch) -> None:
    both_are_reading = threading.Barrier(2, timeout=60)
    of_pillow = Image.Image.load

    def load(image: Image.Image) -> object:
        both_are_reading.wait()
        warnings.warn("of no interest", UserWarning, stacklevel=1)
        return of_pillow(image)

    monkeypatch.setattr(Image.Image, "load", load)
    data = png(np.zeros((2, 3, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(2) as threads:
            images = list(threads.map(decode_image, [data, data]))
        assert warnings.filters == before
    assert [image.shape for image in images] == [(2, 3, 3)] * 2


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_image_errors(data: bytes) -> None:
    assert_decodes_or_says_why(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_but_image_errors(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from([file for file, _ in UNUSUAL.values()])))
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6)):
        damaged[position] = data.draw(st.integers(0, 255))
    assert_decodes_or_says_why(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def assert_decodes_or_says_why(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        assert decode_image(data, max_pixels=100_000).shape[2] == 3


@pytest.mark.parametrize(
    ("size_hw", "longest_side", "fits"),
    [
        ((1, 1), 1024, True),
        ((1, 2048), 1024, True),  # int(0.5 + 0.5) = 1
        ((1, 2049), 1024, False),
        ((2049, 1), 1024, False),
        ((2, 4098), 1024, False),
        ((375, 500), 1024, True),
    ],
)
def test_short_side_must_keep_a_pixel(size_hw: tuple[int, int], longest_side: int, fits: bool) -> None:
    if fits:
        check_resized(size_hw, longest_side)
    else:
        with pytest.raises(ImageError) as caught:
            check_resized(size_hw, longest_side)
        assert caught.value.reason == "too thin"


def test_images_files_and_datasets_import_without_torch() -> None:
    code = "import sys, weaksam.io.images, weaksam.io.files, weaksam.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
