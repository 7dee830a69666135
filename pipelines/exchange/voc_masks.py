"""Masks as VOC's PNGs with its palette: which object, and which class, each pixel of an image belongs to.

Objects are numbered from 1 as the XML lists them, classes from 1 as the data set does; 0 is background. Where masks overlap,
the one that scores more lies on top. There is no void: nobody has drawn a border that belongs to no object.

Label maps are written as such PNGs as they are: SegmentationClass/STEM.png, with the list ImageSets/Segmentation/SPLIT.txt;
pixels that nobody decides about are VOC's void, 255.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.exchange.content import LabelledImage, SplitLabelMaps
from pipelines.exchange.export import Export, Target
from pipelines.exchange.file_names import file_stem, file_stems, without_blanks
from pipelines.exchange.files import begin_folder
from pipelines.store.files import write_bytes
from weaksam.errors import DataError
from weaksam.io.files import join
from weaksam.masks_np import decode_rle

_MOST = 254  # numbers of a byte, without background and void


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
    return _png(objects), _png(of_class)


def write_label_maps(content: SplitLabelMaps, target: Target) -> str:
    """Write a PNG per image and the list of the split.

    Raises:
        DataError: two pictures would share one file, or ``begin_folder``'s.
    """
    split = file_stem(content.of.split)
    stems = [without_blanks(stem) for stem in file_stems(list(content.file_names.values()))]
    files = {
        image_id: f"SegmentationClass/{stem}.png" for image_id, stem in zip(content.file_names, stems, strict=True)
    }
    listed = f"ImageSets/Segmentation/{split}.txt"
    to_write = [*files.values(), listed]
    replaced = begin_folder(target.out, to_write, to="voc-label-maps", split=split, overwrite=target.overwrite)
    for image_id, label_map in content.maps():
        write_bytes(join(target.out, files[image_id]), _png(label_map))
    write_bytes(join(target.out, listed), "".join(f"{stem}\n" for stem in stems).encode())
    return f" · replaced {replaced:,} files of an earlier export" if replaced else ""


LABEL_MAPS = Export(write=write_label_maps)


def voc_palette() -> list[int]:
    """The 256 colours of VOC's PNGs, R, G, B in turn: bit n of a number goes to a bit of R, G or B, the highest first."""
    colours = []
    for number in range(256):
        for channel in range(3):
            bits = [(number >> (3 * place + channel)) & 1 for place in range(8)]
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours


def _png(numbers: NDArray[np.uint8]) -> bytes:
    picture = Image.frombytes("P", (numbers.shape[1], numbers.shape[0]), numbers.tobytes())
    picture.putpalette(voc_palette())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
