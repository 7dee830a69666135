"""The segmentations of VOC's images: PNGs of the devkit, and MATLAB files of SBD, which adds some of its trainval images.

    SegmentationClass/ID.png     pixels numbered by the twenty classes from 1; 0 is background, 255 void
    SegmentationClassAug/ID.png  the same of more images, as SBD is often handed on
    SegmentationObject/ID.png    pixels numbered by objects from 1
    cls/ID.mat, inst/ID.mat      the same in SBD's folder; inst/ID.mat also says of which class an object is

An image that has the devkit's PNGs is read from these alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weaksam.datasets.ground_truth import StatedSize
from weaksam.datasets.label_maps import MapFile, MapFiles, check_numbers
from weaksam.datasets.voc_layout import CLASSES, CLASSES_AUG, OBJECTS, SBD_CLASSES, SBD_OBJECTS, VocLayout
from weaksam.datasets.voc_masks import VOID, NumberedObjects, classes_of
from weaksam.errors import DataError
from weaksam.io.files import join, read_annotations
from weaksam.io.matlab import MatlabError, read_variables
from weaksam.label_maps import decode_label_map

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
        file = self._class_file(image_id)
        if file is None:
            return None
        return tuple(n - 1 for n in check_numbers(_class_map(file.uri), self._num_classes, file.uri))

    def label_maps(self, image_ids: Iterable[str], stated_size: StatedSize) -> MapFiles:
        """The classes of the pixels of some images; none are known where the data set has other classes."""
        found = {image_id: self._class_file(image_id) for image_id in image_ids} if self._num_classes else {}
        return MapFiles(
            files={image_id: file for image_id, file in found.items() if file is not None},
            read=_class_map,
            num_classes=self._num_classes,
            stated_size=stated_size,
        )

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
            file = self._class_file(image_id) if self._num_classes else None
            of_classes = (
                {} if file is None else classes_of(numbers, _sized(_class_map(file.uri), numbers.shape, file.uri))
            )
            return NumberedObjects(numbers, of_classes)
        where = self._layout.sbd_file(SBD_OBJECTS, image_id)
        if not where:
            return None
        fields = _fields(where, "GTinst")
        categories = _numbers(fields, "Categories", where).ravel().tolist() if self._num_classes else []
        numbers = _sized(_pixels(fields, where), size_hw, where)
        return NumberedObjects(numbers, dict(enumerate(categories, start=1)))

    def _class_file(self, image_id: str) -> MapFile | None:
        """The file in which the classes of an image's pixels stand; None where there is none."""
        layout = self._layout
        path = layout.numbered(CLASSES, image_id) or layout.numbered(CLASSES_AUG, image_id)
        if path is not None:
            return MapFile(join(layout.root, path), layout.files[path])
        uri = layout.sbd_file(SBD_CLASSES, image_id)
        return MapFile(uri, layout.sbd_files[uri]) if uri else None


def _class_map(uri: str) -> NDArray[np.uint8]:
    """Read the file of a ``MapFile``."""
    return _pixels(_fields(uri, "GTcls"), uri) if uri.endswith(".mat") else _png(uri)


def _png(where: str) -> NDArray[np.uint8]:
    return decode_label_map(next(read_annotations([where])), where)


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
    got = _kind(values)
    if isinstance(values, np.ndarray):
        others = values[~((values >= 0) & (values <= VOID) & (values % 1 == 0))]
        if not others.size:
            return values.astype(np.uint8)
        got = f"{others[0]:g}"
    raise DataError(f"{where}: expected whole numbers 0..{VOID} in {name}, got {got}; restore or remove the file")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {list(value.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _sized(numbers: NDArray[np.uint8], size_hw: Sequence[int], where: str) -> NDArray[np.uint8]:
    if any(known and known != side for known, side in zip(size_hw, numbers.shape, strict=True)):
        raise DataError(
            f"{where}: expected {size_hw[1] or '?'} x {size_hw[0] or '?'} pixels (width x height) as the XML and other files "
            f"of this image say, got {numbers.shape[1]} x {numbers.shape[0]}; give the file of this image, or remove it"
        )
    return numbers
