"""True label maps: which class each pixel of a picture shows. They are read to measure, and one by one: they are large.

A label map is uint8 ``[H, W]``: 0 background, ``class_index + 1``, 255 for pixels that do not count (``weaksam.label_maps``).
Data sets state them in two ways: in files that number the pixels of an image by class (``MapFiles``), or as objects with masks
(``MapsOfObjects``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam.datasets.ground_truth import (
    StatedSize,
    another_size,
    digest_of,
    is_resized,
    mask_digest_of,
    true_objects,
)
from weaksam.errors import DataError
from weaksam.io.stamps import Stamp
from weaksam.label_maps import BACKGROUND, IGNORED, MOST_CLASSES
from weaksam.masks_np import decode_rle, rle_area
from weaksam.structures import GroundTruth


class TrueLabelMaps(Protocol):
    """The true label maps of one split."""

    @property
    def image_ids(self) -> Collection[str]:
        """The images whose maps are known."""

    def of(self, image_id: str, size_hw: tuple[int, int]) -> NDArray[np.uint8] | None:
        """The map of a picture that has that size upright, in its own pixels ``[H, W]``; None where none is known.

        Raises:
            DataError: The annotations are malformed, or of a picture of another size, see ``StatedSize``.
        """

    def digest(self) -> str:
        """32 hexadecimal digits that tell the maps of the split from any others."""


class MapFile(NamedTuple):
    """A file that numbers the pixels of an image by class."""

    uri: str
    stamp: Stamp


@dataclass(frozen=True, kw_only=True)
class MapFiles:
    """Maps that are files, told apart by their stamps alone."""

    files: Mapping[str, MapFile]  # by image id
    read: Callable[[str], NDArray[np.uint8]]  # address -> numbers [H, W]; raises DataError
    num_classes: int
    stated_size: StatedSize  # what the size of a file counts for

    @property
    def image_ids(self) -> Collection[str]:
        """See ``TrueLabelMaps``."""
        return self.files.keys()

    def of(self, image_id: str, size_hw: tuple[int, int]) -> NDArray[np.uint8] | None:
        """See ``TrueLabelMaps``."""
        file = self.files.get(image_id)
        if file is None:
            return None
        label_map = self.read(file.uri)
        check_numbers(label_map, self.num_classes, file.uri)
        return self._of_size(label_map, image_id, size_hw, file.uri)

    def digest(self) -> str:
        """See ``TrueLabelMaps``."""
        stamps = [(image_id, *file.stamp) for image_id, file in sorted(self.files.items())]
        return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:32]

    def _of_size(
        self, label_map: NDArray[np.uint8], image_id: str, size_hw: tuple[int, int], where: str
    ) -> NDArray[np.uint8]:
        """Bring a map to a picture: each pixel takes the nearest one's number; or cut it, and ignore what it lacks."""
        height, width = label_map.shape
        if (height, width) == size_hw:
            return label_map
        if self.stated_size == "ignore":
            placed = np.full(size_hw, IGNORED, np.uint8)
            kept = label_map[: size_hw[0], : size_hw[1]]
            placed[: kept.shape[0], : kept.shape[1]] = kept
            return placed
        to_scale = self.stated_size == "scale"
        if not to_scale or not is_resized((height, width), size_hw):
            raise another_size((height, width), image_id, size_hw, where=where, to_scale=to_scale)
        return np.asarray(Image.fromarray(label_map).resize(size_hw[::-1], Image.Resampling.NEAREST))


@dataclass(frozen=True, kw_only=True)
class MapsOfObjects:
    """Maps that are drawn of true objects with masks, smaller ones over larger ones, crowds among them.

    Where an object has a box alone, the pixels of its box that no mask covers are ignored.
    """

    truth: Mapping[str, GroundTruth]  # by image id, read with masks; an image whose annotations state none has no map

    @property
    def image_ids(self) -> Collection[str]:
        """See ``TrueLabelMaps``."""
        return [image_id for image_id, of in self.truth.items() if of.mask_rle is not None]

    def of(self, image_id: str, size_hw: tuple[int, int]) -> NDArray[np.uint8] | None:
        """See ``TrueLabelMaps``."""
        if image_id not in self.truth:
            return None
        objects = true_objects(self.truth, image_id, size_hw)
        return None if objects.mask_rle is None else _drawn(objects, image_id, size_hw)

    def digest(self) -> str:
        """See ``TrueLabelMaps``."""
        return hashlib.sha256(f"{digest_of(self.truth)} {mask_digest_of(self.truth)}".encode()).hexdigest()[:32]


NO_MAPS = MapsOfObjects(truth={})


def check_numbers(label_map: NDArray[np.uint8], num_classes: int, where: str) -> list[int]:
    """Return the numbers of the classes in a map, ascending; raise DataError for one of no class."""
    numbers = [n for n in np.unique(label_map).tolist() if n not in (BACKGROUND, IGNORED)]
    if numbers and numbers[-1] > num_classes:
        raise DataError(
            f"{where}: expected numbers of classes 1..{num_classes}, {BACKGROUND} and {IGNORED}, got {numbers[-1]}; "
            "correct the file"
        )
    return numbers


def _drawn(objects: GroundTruth, image_id: str, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    most = int(objects.class_index.max(initial=-1)) + 1
    if most > MOST_CLASSES:
        raise DataError(
            f"image {image_id}: expected at most {MOST_CLASSES} classes, of which label maps have numbers, got {most}; "
            "measure boxes or masks"
        )
    label_map = np.full(size_hw, BACKGROUND, np.uint8)
    masked = []
    for box_xyxy, class_index, rle in zip(
        objects.boxes_xyxy.tolist(), objects.class_index.tolist(), objects.mask_rle or (), strict=True
    ):
        if rle is None:
            left, top, right, bottom = box_xyxy
            label_map[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = IGNORED
        else:
            masked.append((rle, class_index))
    areas = rle_area([rle for rle, _ in masked])
    for n in np.argsort(-areas, kind="stable").tolist():
        rle, class_index = masked[n]
        label_map[decode_rle(rle)] = class_index + 1
    return label_map
