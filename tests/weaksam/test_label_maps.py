"""Label maps read back as they were written, whatever numbers they hold."""

from __future__ import annotations

import numpy as np
import pytest

from weaksam.errors import DataError
from weaksam.label_maps import BACKGROUND, IGNORED, MOST_CLASSES, decode_label_map, encode_label_map


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (5, 1), (16, 16)])
def test_a_label_map_reads_back_as_it_was_written(size_hw: tuple[int, int]) -> None:
    label_map = (np.arange(size_hw[0] * size_hw[1]).reshape(size_hw) % 256).astype(np.uint8)
    label_map.flat[0] = IGNORED
    assert (decode_label_map(encode_label_map(label_map), "here") == label_map).all()


def test_background_classes_and_the_undecided_fill_a_byte() -> None:
    assert [BACKGROUND, *range(1, MOST_CLASSES + 1), IGNORED] == list(range(256))


def test_what_is_no_label_map_is_told_with_its_place() -> None:
    with pytest.raises(DataError, match=r"image 7: expected a PNG of numbers, got .*; restore or convert it"):
        decode_label_map(b"GIF89a", "image 7")
