"""Pseudo masks in files of others: what the reader of a format offers to ``import-masks``.

To add a format: a class like ``MaskFile``, and where ``open_masks`` looks for what tells it from others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from weaksam.errors import ImageError
from weaksam.masks_np import Rle, encode_rle

ANOTHER_SIZE = "annotated in another size"  # why an image is dropped


class MaskedObject(NamedTuple):
    """One object of an image."""

    class_name: str
    mask_rle: Rle  # empty where the file draws none
    score: float = 1.0
    box_xyxy: Sequence[float] | None = None  # that the file states, exclusive; None where it states none
    crowd: bool = False  # COCO's iscrowd


class MaskFile(Protocol):
    """A file, or a folder of files, with pseudo masks. Malformed ones raise ``DataError`` with place and remedy."""

    @property
    def supervision(self) -> str:
        """What the file says that its masks are owed to; "" where it does not say."""

    @property
    def marks(self) -> Collection[str]:
        """What it calls the images that it has."""

    def mark_of(self, picture: str) -> str:
        """What it would call a picture of this name (``pictures``)."""

    def objects(self, mark: str, size_hw: tuple[int, int]) -> list[MaskedObject]:
        """The objects of one of its images.

        Args:
            mark: what the file calls it.
            size_hw: of the picture, upright.

        Raises:
            ImageError: this image's masks are of another size, or in a file that cannot be read.
            DataError: the file says what has no meaning.
        """


def no_mask(size_hw: tuple[int, int]) -> Rle:
    """Return the mask of an object that the file draws none of."""
    return encode_rle(np.zeros(size_hw, np.bool_))


def require_size(stated_hw: Sequence[int], size_hw: tuple[int, int], where: str) -> None:
    """Raise ImageError unless masks are of the size of their picture."""
    if tuple(stated_hw) != size_hw:
        raise ImageError(
            ANOTHER_SIZE,
            f"{where}: expected masks of {size_hw[1]} x {size_hw[0]} pixels (width x height), got {stated_hw[1]} x "
            f"{stated_hw[0]}",
        )
