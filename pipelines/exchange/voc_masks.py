"""Masks as VOC's PNGs with its palette: which object, and which class, each pixel of an image belongs to.

Objects are numbered from 1 as the XML lists them, classes from 1 as the data set does; 0 is background. Where masks overlap,
the one that scores more lies on top. There is no void: nobody has drawn a border that belongs to no object.

Those of others may have a void, which belongs to none, and no XML. Where there is XML, it says the scores and the boxes.

Label maps are written as such PNGs as they are: SegmentationClass/STEM.png, with the list ImageSets/Segmentation/SPLIT.txt;
pixels that nobody decides about are VOC's void, 255.
"""

from __future__ import annotations

import io
import math
import posixpath
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.exchange.content import LabelledImage, SplitLabelMaps
from pipelines.exchange.export import Export, Target
from pipelines.exchange.file_names import file_stem, file_stems, without_blanks
from pipelines.exchange.files import recorded_export
from pipelines.exchange.masked_objects import MaskedObject, no_mask, require_size
from pipelines.store.files import write_bytes
from weaksam.datasets.voc_layout import CLASSES, OBJECTS
from weaksam.datasets.voc_masks import VOID, classes_of
from weaksam.datasets.voc_xml import boxes_xyxy_of, objects_of, parse_annotation
from weaksam.errors import DataError, ImageError
from weaksam.io.files import join, read_annotations, read_bytes
from weaksam.io.images import decode_numbers
from weaksam.label_maps import BACKGROUND
from weaksam.masks_np import decode_rle, encode_rle

_MOST = 254  # numbers of a byte, without background and void


def numbered(folder: str, stem: str) -> str:
    """Return where a PNG of an image is."""
    return f"{folder}/{stem}.png"


def mask_pngs(image: LabelledImage) -> tuple[bytes, bytes]:
    """Return the PNGs of objects and of classes of an image that has masks.

    Raises:
        DataError: more objects or classes than a byte has numbers.
    """
    classes = image.found.class_index
    most = max(len(classes), int(classes.max(initial=-1)) + 1)
    if most > _MOST:
        raise DataError(
            f"image {image.image_id}: expected at most {_MOST} objects and classes, got {most}; export as coco"
        )
    objects: NDArray[np.uint8] = np.zeros(image.size_hw, np.uint8)
    of_class: NDArray[np.uint8] = np.zeros(image.size_hw, np.uint8)
    masks = image.masks()
    for n in np.argsort(image.found.score, kind="stable").tolist():
        rle = masks[n]
        if rle is not None:
            mask = decode_rle(rle)
            objects[mask], of_class[mask] = n + 1, int(classes[n]) + 1
    return palette_png(objects), palette_png(of_class)


def write_label_maps(content: SplitLabelMaps, target: Target) -> str:
    """Write a PNG per image and the list of the split.

    Raises:
        DataError: two pictures would share one file, or ``recorded_export``'s.
    """
    split = file_stem(content.of.split)
    stems = [without_blanks(stem) for stem in file_stems(list(content.file_names.values()))]
    files = {image_id: numbered(CLASSES, stem) for image_id, stem in zip(content.file_names, stems, strict=True)}
    listed = f"ImageSets/Segmentation/{split}.txt"
    to_write = [*files.values(), listed]
    with recorded_export(
        target.out, to_write, to="voc-label-maps", split=split, overwrite=target.overwrite
    ) as replaced:
        for image_id, label_map in content.maps():
            write_bytes(join(target.out, files[image_id]), palette_png(label_map))
        write_bytes(join(target.out, listed), "".join(f"{stem}\n" for stem in stems).encode())
    return f" · replaced {replaced:,} files of an earlier export" if replaced else ""


LABEL_MAPS = Export(write=write_label_maps)


class _Stated(NamedTuple):
    """An object as its XML states it."""

    class_name: str
    score: float
    box_xyxy: Sequence[float]


class VocMasks:
    """The masks of a folder as VOC has it, which calls images by their stems."""

    def __init__(self, root: str, paths: Collection[str], class_names: Sequence[str]) -> None:
        self._root, self._class_names, there = root, class_names, set(paths)
        self.marks = sorted(
            posixpath.splitext(posixpath.basename(path))[0]
            for path in there
            if posixpath.dirname(path) == OBJECTS and path.endswith(".png")
        )
        self._stated: dict[str, list[_Stated]] = {}
        said = dict[str, str]()  # supervision -> a file that says so
        annotated = [stem for stem in self.marks if f"Annotations/{stem}.xml" in there]
        files = [join(root, f"Annotations/{stem}.xml") for stem in annotated]
        for stem, where, data in zip(annotated, files, read_annotations(files), strict=True):
            annotation = parse_annotation(data, where)
            said[annotation.findtext("source/supervision", "").strip()] = where
            scores = [_score(each.findtext("score", "1"), where) for each in annotation.iterfind("object")]
            names = [each.name for each in objects_of(annotation, where)]
            self._stated[stem] = list(map(_Stated, names, scores, boxes_xyxy_of(annotation, where)))
        if len(said) > 1:
            told = ", ".join(f"{where} {text!r:.60}" for text, where in sorted(said.items()))
            raise DataError(f"{root}: expected one <supervision> of all images, got {told}; import them apart")
        self.supervision = next(iter(said), "")

    def mark_of(self, picture: str) -> str:
        """See ``MaskFile``."""
        return without_blanks(file_stem(picture))

    def objects(self, mark: str, size_hw: tuple[int, int]) -> list[MaskedObject]:
        """See ``MaskFile``; an object of the XML that no pixel has the number of has an empty mask."""
        numbers, classes = (self._numbers(folder, mark, size_hw) for folder in (OBJECTS, CLASSES))
        of_class, where = classes_of(numbers, classes), join(self._root, numbered(OBJECTS, mark))
        drawn = [n for n in np.unique(numbers).tolist() if n not in (BACKGROUND, VOID)]
        names = {n: self._class_name(of_class.get(n, BACKGROUND), n, where) for n in drawn}
        stated = self._stated.get(mark)
        if stated is None:
            return [MaskedObject(names[n], encode_rle(numbers == n)) for n in drawn]
        for n in drawn:
            of_xml = stated[n - 1].class_name if n <= len(stated) else "nothing"
            if of_xml != names[n]:
                raise DataError(
                    f"{where}: expected objects numbered from 1 as the XML lists them, got {n}, a {names[n]}, which there is "
                    f"{of_xml}; number them so, or take the XML away"
                )
        return [
            MaskedObject(
                each.class_name,
                encode_rle(numbers == n) if n in names else no_mask(size_hw),
                each.score,
                each.box_xyxy,
            )
            for n, each in enumerate(stated, start=1)
        ]

    def _numbers(self, folder: str, mark: str, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
        where = join(self._root, numbered(folder, mark))
        try:
            numbers = decode_numbers(read_bytes(where))
        except ImageError as error:  # of the mask, not of the picture
            raise ImageError(error.reason, f"{where}: {error.detail}") from error
        require_size(numbers.shape, size_hw, where)
        return numbers

    def _class_name(self, number: int, of_object: int, where: str) -> str:
        if not 0 < number <= len(self._class_names):
            raise DataError(
                f"{where}: expected object {of_object} of one of the run's classes, whose numbers in {CLASSES} are "
                f"1..{len(self._class_names)} in their order, got {number}; correct {CLASSES}"
            )
        return self._class_names[number - 1]


def _score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{where}: expected a number in <score>, got {text[:40]!r}; correct it, or leave it out")
    return score


def voc_palette() -> list[int]:
    """The 256 colours of VOC's PNGs, R, G, B in turn: bit n of a number goes to a bit of R, G or B, the highest first."""
    colours = []
    for number in range(256):
        for channel in range(3):
            bits = [(number >> (3 * place + channel)) & 1 for place in range(8)]
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours


def palette_png(numbers: NDArray[np.uint8]) -> bytes:
    """Return numbers ``[H, W]`` as the content of a PNG with VOC's palette."""
    picture = Image.frombytes("P", (numbers.shape[1], numbers.shape[0]), numbers.tobytes())
    picture.putpalette(voc_palette())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
