"""The segmentations of VOC's images: PNGs of the devkit, and MATLAB files of SBD, which adds some of its trainval images.

    SegmentationClass/ID.png     pixels numbered by the twenty classes from 1; 0 is background, 255 void
    SegmentationObject/ID.png    pixels numbered by objects from 1
    cls/ID.mat, inst/ID.mat      the same in SBD's folder; inst/ID.mat also says of which class an object is

An image that has the devkit's PNGs is read from these alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam.datasets.voc_layout import CLASSES, OBJECTS, SBD_CLASSES, SBD_OBJECTS, VocLayout
from weaksam.datasets.voc_masks import BACKGROUND, VOID, NumberedObjects, classes_of
from weaksam.errors import DataError, ImageError
from weaksam.io.files import join, read_annotations
from weaksam.io.images import decode_numbers
from weaksam.io.matlab import MatlabError, read_variables

_SIDES = 2  # of an array of pixels


class Segmentations:
    """The segmentations of one data set, opened one by one as they are asked for."""

    def __init__(self, layout: VocLayout, num_classes: int) -> None:
        """``num_classes`` is that of the official classes, by which classes are numbered; 0 where the data set has others."""
        self._layout = layout
        self._num_classes = num_classes

    def labels(self, image_id: str) -> tuple[int, ...] | None:
        """The classes that an image shows, ascending, and nothing else of it; None where it has no segmentation.

        Raises:
            DataError: A file is malformed, or has a number of no class.
        """
        where, class_map = self._class_map(image_id)
        if class_map is None:
            return None
        shown = [n for n in np.unique(class_map).tolist() if n not in (BACKGROUND, VOID)]
        if shown and shown[-1] > self._num_classes:
            raise DataError(
                f"{where}: expected numbers of classes 1..{self._num_classes}, {BACKGROUND} and {VOID}, got {shown[-1]}; "
                "correct the file"
            )
        return tuple(n - 1 for n in shown)

    def objects(self, image_id: str, size_hw: tuple[int, int]) -> NumberedObjects | None:
        """The pixels of an image, numbered by objects; None where it has no segmentation.

        Args:
            image_id: Of the image.
            size_hw: That the XML states; a side of 0 is not known.

        Raises:
            DataError: A file is malformed, or of another size.
        """
        path = self._layout.numbered(OBJECTS, image_id)
        if path is not None:
            where = join(self._layout.root, path)
            numbers = _sized(_png(where), size_hw, where)
            where, class_map = self._class_map(image_id) if self._num_classes else ("", None)
            of_classes = {} if class_map is None else classes_of(numbers, _sized(class_map, numbers.shape, where))
            return NumberedObjects(numbers, of_classes)
        where = self._layout.sbd_file(SBD_OBJECTS, image_id)
        if not where:
            return None
        fields = _fields(where, "GTinst")
        categories = _numbers(fields, "Categories", where).ravel().tolist() if self._num_classes else []
        numbers = _sized(_pixels(fields, where), size_hw, where)
        return NumberedObjects(numbers, dict(enumerate(categories, start=1)))

    def _class_map(self, image_id: str) -> tuple[str, NDArray[np.uint8] | None]:
        """Where the classes of an image's pixels stand, and these; None where they do not."""
        path = self._layout.numbered(CLASSES, image_id)
        if path is not None:
            where = join(self._layout.root, path)
            return where, _png(where)
        where = self._layout.sbd_file(SBD_CLASSES, image_id)
        return where, _pixels(_fields(where, "GTcls"), where) if where else None


def _png(where: str) -> NDArray[np.uint8]:
    try:
        return decode_numbers(next(read_annotations([where])))
    except ImageError as error:
        raise DataError(f"{where}: expected a PNG of numbers, got {error}; restore, convert or remove it") from error


def _fields(where: str, name: str) -> Mapping[str, Any]:
    """The fields of a struct of a MATLAB file."""
    try:
        fields = read_variables(next(read_annotations([where])), (name,)).get(name)
    except (MatlabError, NotImplementedError) as error:
        raise DataError(
            f"{where}: expected a MATLAB file up to version 7, got {error}; restore or remove it"
        ) from error
    if not isinstance(fields, dict):
        raise DataError(f"{where}: expected a struct {name}, got {_kind(fields)}; restore or remove the file")
    return fields


def _pixels(fields: Mapping[str, Any], where: str) -> NDArray[np.uint8]:
    pixels = _numbers(fields, "Segmentation", where)
    if pixels.ndim != _SIDES or not pixels.size:
        raise DataError(
            f"{where}: expected Segmentation [height, width], got {pixels.shape}; restore or remove the file"
        )
    return pixels


def _numbers(fields: Mapping[str, Any], name: str, where: str) -> NDArray[np.uint8]:
    values = fields.get(name)
    if not isinstance(values, np.ndarray) or not ((values >= 0) & (values <= VOID) & (values % 1 == 0)).all():
        raise DataError(
            f"{where}: expected whole numbers 0..{VOID} in {name}, got {_kind(values)}; restore or remove the file"
        )
    return values.astype(np.uint8)


def _kind(value: object) -> str:
    return "nothing" if value is None else "others" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _sized(numbers: NDArray[np.uint8], size_hw: Sequence[int], where: str) -> NDArray[np.uint8]:
    if any(known and known != side for known, side in zip(size_hw, numbers.shape, strict=True)):
        raise DataError(
            f"{where}: expected {size_hw[1] or '?'} x {size_hw[0] or '?'} pixels (width x height) as the XML and other files "
            f"of this image say, got {numbers.shape[1]} x {numbers.shape[0]}; give the file of this image, or remove it"
        )
    return numbers
