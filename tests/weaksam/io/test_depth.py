from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from tests.support.broken_files import encode, png
from weaksam.io.depth import to_8_bits
from weaksam.io.images import decode_image

DISC_HW = (40, 60)


def disc() -> NDArray[np.uint16]:
    """A dark disc on a light ground, as 8 bits show it."""
    y, x = np.mgrid[: DISC_HW[0], : DISC_HW[1]]
    return np.where((y - 20) ** 2 + (x - 30) ** 2 < 100, 60, 200).astype(np.uint16)


# ------------------------------------------------------------------------------------------------------------- rule


@pytest.mark.parametrize(
    ("samples", "levels"),
    [
        pytest.param([0, 100, 255], [0, 100, 255], id="8 bits"),
        pytest.param([0, 256, 1023], [0, 64, 255], id="10 bits"),
        pytest.param([0, 1024, 4095], [0, 64, 255], id="12 bits"),
        pytest.param([0, 1024, 2100], [0, 64, 131], id="12 bits of which the top is not used"),
        pytest.param([0, 4096, 16383], [0, 64, 255], id="14 bits"),
        pytest.param([0, 0x40FF, 0xFFFF], [0, 0x40, 255], id="16 bits"),
        pytest.param([7000, 7200, 7400], [0, 127, 255], id="narrow, where 14 bits would leave 6 levels"),
        pytest.param([1000, 1004, 1008], [247, 251, 255], id="narrow: one step is no more than one level"),
        pytest.param([0xABCD] * 3, [0xAB] * 3, id="constant"),
        pytest.param([0, 0, 0], [0, 0, 0], id="black"),
    ],
)
def test_whole_numbers_are_scaled_by_what_they_hold(samples: list[int], levels: list[int]) -> None:
    for dtype in (np.uint16, ">u2", np.int32):
        np.testing.assert_allclose(to_8_bits(np.array(samples, dtype)), levels, atol=1)


@pytest.mark.parametrize(
    ("samples", "levels"),
    [
        pytest.param([0.0, 0.25, 1.0], [0, 64, 255], id="0 to 1"),
        pytest.param([0.0, 99.6, 255.0], [0, 100, 255], id="0 to 255"),
        pytest.param([290.0, 300.0, 310.0], [0, 128, 255], id="kelvin"),
        pytest.param([20.0, 28.5, 37.0], [0, 128, 255], id="degrees"),
        pytest.param([-100.0, 0.0, 200.0], [0, 85, 255], id="negative"),
        pytest.param([0.0, 1e30, 2e30], [0, 128, 255], id="huge"),
        pytest.param([0.5, 0.5, 0.5], [128, 128, 128], id="constant"),
        pytest.param([-5.0, -5.0, -5.0], [0, 0, 0], id="constant and negative"),
        pytest.param([0.5, 0.5, 0.500001], [128, 128, 128], id="noise is not made a picture"),
        pytest.param([np.nan, 290.0, 310.0, np.inf], [0, 0, 255, 0], id="not finite"),
        pytest.param([np.nan, np.nan], [0, 0], id="nothing finite"),
    ],
)
def test_floats_are_scaled_by_what_they_hold(samples: list[float], levels: list[int]) -> None:
    np.testing.assert_allclose(to_8_bits(np.array(samples, np.float32)), levels, atol=1)


def test_signed_numbers_are_stretched_between_their_extremes() -> None:
    assert to_8_bits(np.array([-1000, 0, 3080], np.int32)).tolist() == [0, 63, 255]


def test_full_scale_that_a_file_states_counts() -> None:
    assert to_8_bits(np.array([0, 100, 500], np.uint16), 1000).tolist() == [0, 26, 128]


@pytest.mark.parametrize("step", [16, 64, 257])
def test_hot_and_dead_pixels_decide_nothing(step: int) -> None:
    samples = disc() * step
    samples[0, 0], samples[-1, -1] = 65535, 0
    levels = to_8_bits(samples)
    assert (levels[0, 0], levels[20, 30], levels[1, 1]) == (255, 60, 200)


def test_size_of_nothing_is_nothing() -> None:
    assert to_8_bits(np.zeros((0, 3), np.uint16)).shape == (0, 3)


@settings(deadline=None)
@given(arrays.arrays(st.sampled_from([np.uint16, np.int32, np.float32]), st.integers(1, 40)))
def test_larger_sample_is_never_darker(samples: NDArray[Any]) -> None:
    samples = np.sort(samples[np.isfinite(samples)])
    assert (np.diff(to_8_bits(samples).astype(int)) >= 0).all()


# ---------------------------------------------------------------------------------------------------------- formats


def colours(samples: NDArray[np.uint16]) -> NDArray[np.uint16]:
    return np.stack([samples, samples, samples // 2], axis=-1)


def in_tiff_or_ppm(suffix: str, samples: NDArray[np.uint16], *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, samples[..., ::-1], options)[1])


def text_ppm(samples: NDArray[np.uint16]) -> bytes:
    height, width, _ = samples.shape
    return f"P3 # by hand\n{width} {height}\n65535\n{' '.join(map(str, samples.ravel()))}\n".encode()


WRITERS = {
    "grey PNG": lambda s: encode(Image.fromarray(s), "PNG"),
    "grey TIFF": lambda s: encode(Image.fromarray(s), "TIFF"),
    "grey TIFF, high byte first": lambda s: encode(Image.frombytes("I;16B", s.shape[::-1], s.astype(">u2")), "TIFF"),
    "grey TIFF of 32 bits": lambda s: encode(Image.fromarray(s.astype(np.int32)), "TIFF"),
    "grey PGM": lambda s: encode(Image.fromarray(s), "PPM"),
    "grey JPEG 2000": lambda s: encode(Image.fromarray(s), "JPEG2000"),
    "grey and alpha PNG": lambda s: png(np.stack([s, np.full_like(s, 65535)], axis=-1)),
    "colour PNG": lambda s: png(colours(s)),
    "colour and alpha PNG": lambda s: png(np.dstack([colours(s), np.full_like(s, 65535)])),
    "colour TIFF": lambda s: in_tiff_or_ppm(".tif", colours(s), cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "colour TIFF, LZW": lambda s: in_tiff_or_ppm(".tif", colours(s), cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "colour PPM": lambda s: in_tiff_or_ppm(".ppm", colours(s)),
    "colour PPM in letters": lambda s: text_ppm(colours(s)),
}


@pytest.mark.parametrize("step", [pytest.param(16, id="12 bits"), pytest.param(64, id="14 bits")])
@pytest.mark.parametrize("writer", WRITERS)
def test_fewer_bits_in_16_look_as_8_bits_do(writer: str, step: int) -> None:
    grey = disc()
    image = decode_image(WRITERS[writer](grey * step))
    blue = 2 if "colour" in writer else 1  # how often blue goes into red and green
    np.testing.assert_array_equal(image, np.stack([grey, grey, grey // blue], axis=-1))


def test_transparency_of_16_bit_colours_is_laid_over_white() -> None:
    half = np.array([[[3000, 1000, 0, 0x8080], [4000, 0, 0, 0xFFFF], [0, 0, 0, 0]]], np.uint16)
    np.testing.assert_allclose(decode_image(png(half))[0], [[221, 158, 127], [250, 0, 0], [255, 255, 255]], atol=1)
