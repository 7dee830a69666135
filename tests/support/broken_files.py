"""A folder of unusual and broken image files, each with what must become of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

SIZE_HW = (30, 40)

# ("kept", size_hw of the upright image) or ("dropped", the ImageError's reason)
Expected = tuple[str, Any]


def write_broken_files(folder: Path) -> dict[str, Expected]:
    """Write every file below into ``folder``; returns what is expected of each by file name.

    Nothing can be forbidden to root, so that "permission denied" occurs for other users only.
    """
    kept, dropped = unusual_files(), broken_files()
    for name, (data, _) in (kept | dropped).items():
        (folder / name).write_bytes(data)
    expected: dict[str, Expected] = {name: ("kept", size_hw) for name, (_, size_hw) in kept.items()}
    expected |= {name: ("dropped", reason) for name, (_, reason) in dropped.items()}

    (folder / "dangling link.jpg").symlink_to("nowhere.jpg")
    expected["dangling link.jpg"] = ("dropped", "missing")
    if os.geteuid() != 0:
        (folder / "denied.jpg").write_bytes(encode(picture(), "JPEG"))
        (folder / "denied.jpg").chmod(0)
        expected["denied.jpg"] = ("dropped", "permission denied")
    return expected


def unusual_files() -> dict[str, tuple[bytes, tuple[int, int]]]:
    """Files that must be read right: name -> (content, size_hw of the upright image)."""
    image = picture()
    rgba = image.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(image.size))
    others = [Image.new("RGB", image.size, colour) for colour in ("red", "blue")]
    rotated = Image.Exif()
    rotated[0x0112] = 6
    rng = np.random.default_rng(1)
    grey16 = rng.integers(0, 65536, SIZE_HW, dtype=np.uint16)
    rgba16 = rng.integers(0, 65536, (*SIZE_HW, 4), dtype=np.uint16)
    files = {
        "plain.jpg": encode(image, "JPEG"),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "grey.jpg": encode(image.convert("L"), "JPEG"),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "trailing garbage.jpg": encode(image, "JPEG") + b"\xff\xda garbage" * 9,
        "grey.png": encode(image.convert("L"), "PNG"),
        "bilevel.png": encode(image.convert("1"), "PNG"),
        "palette.png": encode(image.quantize(16), "PNG"),
        "palette with transparency.png": encode(image.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
        "rgba.png": encode(rgba, "PNG"),
        "grey and alpha.png": encode(rgba.convert("LA"), "PNG"),
        "grey 16 bit.png": png(grey16[..., None]),
        "rgb 16 bit.png": png(rgba16[..., :3]),
        "rgba 16 bit.png": png(rgba16),
        "grey 16 bit.tiff": encode(Image.fromarray(grey16), "TIFF"),
        "float.tiff": encode(Image.fromarray(rng.random(SIZE_HW, dtype=np.float32)), "TIFF"),
        "integers of 32 bit.tif": encode(Image.fromarray(grey16.astype(np.int32)), "TIFF"),
        "lzw.tiff": encode(image, "TIFF", compression="tiff_lzw"),
        "animated.gif": encode(image, "GIF", save_all=True, append_images=others),
        "animated.webp": encode(image, "WEBP", save_all=True, append_images=others),
        "animated.png": encode(image, "PNG", save_all=True, append_images=others),
        "plain.bmp": encode(image, "BMP"),
        "plain.ppm": encode(image, "PPM"),
        "plain.jp2": encode(image, "JPEG2000"),
        "bare.j2k": encode(image, "JPEG2000", no_jp2=True),
        "a jpeg.png": encode(image, "JPEG"),
        "a png.JPG": encode(image, "PNG"),
        "blank # 100% [ü] ..x.png": encode(image, "PNG"),
    }
    if features.check("avif"):
        files["plain.avif"] = encode(image, "AVIF")
    return {name: (data, SIZE_HW) for name, data in files.items()} | {
        "rotated by exif.jpg": (encode(image, "JPEG", exif=rotated), SIZE_HW[::-1]),
        "rotated by its own tag.tiff": (encode(image, "TIFF", exif=rotated), SIZE_HW[::-1]),
        "one pixel.png": (encode(image.resize((1, 1)), "PNG"), (1, 1)),
        "one row.png": (encode(image.resize((40, 1)), "PNG"), (1, 40)),
    }


def broken_files() -> dict[str, tuple[bytes, str]]:
    """Files that must be dropped: name -> (content, reason)."""
    image = picture()
    jpeg, whole_png, webp = encode(image, "JPEG"), encode(image, "PNG"), encode(image, "WEBP")
    damaged = bytearray(whole_png)
    damaged[60:] = bytes(byte ^ 0x55 for byte in whole_png[60:-12]) + whole_png[-12:]
    return {
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"404 Not Found\n", "not an image"),
        "page.png": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "not an image"),
        "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image"),
        "cut in half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut in its last block.jpg": (jpeg[:-3], "truncated"),
        "cut in its header.jpg": (jpeg[:10], "truncated"),
        "tail of zeros.jpg": (jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2), "truncated"),
        "cut in half.png": (whole_png[: len(whole_png) // 2], "truncated"),
        "without its end.png": (whole_png[:-12], "truncated"),
        "cut in half.webp": (webp[: len(webp) // 2], "truncated"),
        "damaged stream.png": (bytes(damaged), "unreadable"),
        "bomb.png": (png(np.zeros((1, 1, 1), np.uint8), claimed_hw=(60_000, 60_000)), "decompression bomb"),
        "hair.png": (encode(Image.new("L", (6000, 1)), "PNG"), "too thin"),
    }


def picture(size_hw: tuple[int, int] = SIZE_HW) -> Image.Image:
    """A smooth RGB gradient with noise, the same every time."""
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1)
    noise = np.random.default_rng(0).normal(0, 12, ramp.shape)
    return Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """The image as a file of the format."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def png(samples: NDArray[Any], claimed_hw: tuple[int, int] | None = None) -> bytes:
    """A PNG of ``[H, W, 1..4]`` uint8 or uint16 samples, which Pillow cannot write all; the header may lie."""
    height, width, channels = samples.shape
    claimed_height, claimed_width = claimed_hw or (height, width)
    header = struct.pack(
        ">IIBBBBB", claimed_width, claimed_height, 8 * samples.itemsize, (0, 4, 2, 6)[channels - 1], 0, 0, 0
    )
    big_endian = samples.astype(samples.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big_endian)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
