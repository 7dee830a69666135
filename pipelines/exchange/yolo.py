"""YOLO's files, as Ultralytics reads pseudo labels and predictions.

    images/NAME             the picture, linked or copied; NAME may hold folders
    labels/NAME.txt         lines of class, centre x, centre y, width, height, as shares of the upright image; where there are
                            masks, of class and the corners x, y of a polygon
    SPLIT.txt  data.yaml    which pictures to train on, and what to hand to the trainer
    classes.txt             the names, one a line

A polygon goes through the centres of a mask's outermost pixels. The reader has one of each object: holes and parts are joined
to it by lines, which it draws a pixel wide.

The reader finds labels by the picture's path alone: the last ``/images/`` becomes ``/labels/`` and the suffix ``.txt``.
Of pseudo labels, pictures without any box are not in the list: the trainer would take them for background. ``data.yaml`` says
what the boxes are owed to (``supervision``), in a comment, which whoever imports it must repeat.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Sequence

import numpy as np
import yaml

from pipelines.exchange.content import LabelledImage, LabelledSplit
from pipelines.exchange.export import Export, Target
from pipelines.exchange.file_names import file_stem
from pipelines.exchange.files import recorded_export
from pipelines.exchange.masked_objects import MaskedObject
from pipelines.exchange.pictures import place_pictures, plan_pictures
from pipelines.store.files import write_bytes
from weaksam.datasets.class_names import normal_name
from weaksam.errors import DataError
from weaksam.io.files import absolute, is_remote, join, read_text
from weaksam.masks_np import Rle, decode_rle, encode_rle
from weaksam.outlines_np import filled_through_centres, polygon_through_centres

DATA_YAML = "data.yaml"
_LABELS = "labels/"
_LEAST_NUMBERS = 6  # of a polygon: three corners


def write_labels(content: LabelledSplit, target: Target) -> str:
    """Write labels, lists and pictures; return in words what became of the pictures, and what to do next.

    Raises:
        DataError: two pictures would share one file of labels, a name cannot stand in a list, or ``recorded_export``'s.
    """
    images, folder, split = content.images, target.out, file_stem(content.of.split)
    places = [f"images/{image.file_name}" for image in images]
    labels = _label_files(images, places)
    placement = plan_pictures([image.uri for image in images], places, folder, target.pictures)
    listed = f"{split}.txt"
    texts = {
        **{file: yolo_lines(image) for file, image in zip(labels, images, strict=True)},
        "classes.txt": "".join(f"{name}\n" for name in content.class_names),
        listed: "".join(f"./{place}\n" for place in places),
        DATA_YAML: _data_yaml(content, listed, folder),
    }
    to_write = [*texts, *placement.places]
    with recorded_export(folder, to_write, to="yolo", split=split, overwrite=target.overwrite) as replaced:
        place_pictures(placement, folder)
        for file, text in texts.items():
            write_bytes(join(folder, file), text.encode())
    earlier = f" · replaced {replaced:,} files of an earlier export" if replaced else ""
    if not content.to_learn_from:
        return f"\n{placement.text}{earlier}"
    before = f"put the pictures under {join(folder, 'images')} as {listed} says, then " if placement.absent else ""
    masked = any(image.found.mask_rle is not None for image in images)
    trainer, model = ("segment", "yolo11n-seg.pt") if masked else ("detect", "yolo11n.pt")
    command = f"yolo {trainer} train data={join(folder, DATA_YAML)} model={model}"
    return f"\n{placement.text}{earlier}\nnext: {before}{command}"


LABELS = Export(write=write_labels, takes=("pictures",))


def yolo_lines(image: LabelledImage) -> str:
    """Return the lines of an image's boxes, or of their masks where there are any, in shares of its width and height."""
    height, width = image.size_hw
    if image.found.mask_rle is not None:
        return "".join(
            f"{class_index} {' '.join(f'{share:.6f}' for share in _shares(mask_rle))}\n"
            for class_index, mask_rle in zip(image.found.class_index.tolist(), image.found.mask_rle, strict=True)
        )
    return "".join(
        f"{class_index} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} "
        f"{(y2 - y1) / height:.6f}\n"
        for (x1, y1, x2, y2), class_index, _ in image.boxes()
    )


def _shares(mask_rle: Rle) -> list[float]:
    height, width = mask_rle["size"]
    shares: list[float] = ((polygon_through_centres(decode_rle(mask_rle)) + 0.5) / (width, height)).flatten().tolist()
    return shares


class YoloMasks:
    """The polygons of a folder of labels, which calls images by the paths of their labels."""

    supervision = ""

    def __init__(self, root: str, paths: Collection[str]) -> None:
        self._root = root
        self.marks = [
            posixpath.splitext(path)[0].removeprefix(_LABELS)
            for path in paths
            if path.startswith(_LABELS) and path.endswith(".txt")
        ]
        self._class_names = _class_names(join(root, DATA_YAML))

    def mark_of(self, picture: str) -> str:
        """See ``MaskFile``."""
        return posixpath.splitext(label_file(f"images/{picture}"))[0].removeprefix(_LABELS)

    def objects(self, mark: str, size_hw: tuple[int, int]) -> list[MaskedObject]:
        """See ``MaskFile``; masks are those that the format's reader draws."""
        where = join(self._root, f"{_LABELS}{mark}.txt")
        lines = enumerate(read_text(where).splitlines(), start=1)
        return [self._object(line.split(), size_hw, f"{where}:{n}") for n, line in lines if line.strip()]

    def _object(self, words: Sequence[str], size_hw: tuple[int, int], where: str) -> MaskedObject:
        try:
            number, shares = int(words[0]), np.array(words[1:], np.float64)
        except ValueError:
            number, shares = -1, np.zeros(0)
        ok = len(shares) >= _LEAST_NUMBERS and len(shares) % 2 == 0 and ((shares >= 0) & (shares <= 1)).all()
        if number not in self._class_names or not ok:
            raise DataError(
                f"{where}: expected the number of a class of {DATA_YAML} and x, y of three corners or more in shares of 0..1, "
                f"got {' '.join(words)[:60]!r}; a box is no mask: write polygons"
            )
        height, width = size_hw
        corners = np.minimum(shares.reshape(-1, 2) * (width, height), (width - 1, height - 1)).astype(np.int64)
        return MaskedObject(self._class_names[number], encode_rle(filled_through_centres(corners, size_hw)))


def _class_names(where: str) -> dict[int, str]:
    """Return the names of the classes by number, which are a list or a mapping."""
    try:
        held = yaml.safe_load(read_text(where))
    except yaml.YAMLError as error:
        raise DataError(f"{where}: expected YAML: {error}; repair the file") from error
    names = held.get("names") if isinstance(held, dict) else None
    found = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(found, dict) or not all(isinstance(n, int) for n in found):
        raise DataError(f"{where}: expected names, a list or by number, got {str(names)[:60]!r}; write them there")
    return {n: normal_name(str(name)) for n, name in found.items()}


def label_file(picture: str) -> str:
    """Return where the reader looks for the labels of a picture, both paths under the data set's folder."""
    path = "/labels/".join(f"/{picture}".rsplit("/images/", 1))
    return f"{posixpath.splitext(path)[0]}.txt".lstrip("/")


def _label_files(images: Sequence[LabelledImage], places: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    for image, place in zip(images, places, strict=True):
        name = image.file_name
        if len(name.splitlines()) != 1 or "./" in name or name != name.strip():
            raise DataError(
                f"image {image.image_id!r}: expected a name that a list of pictures holds, got {name!r}, with a line break, "
                "'./' or a blank at an end; rename the picture, or export as coco"
            )
        other = first.setdefault(label_file(place), name)
        if other != name:
            raise DataError(
                f"pictures {other!r} and {name!r} would share one file of labels, {label_file(place)}, by which YOLO's reader "
                "cannot tell them apart; rename one of them, or export as coco"
            )
    if len(first) < len(images):
        raise DataError(f"{len(images) - len(first):,} images are the same picture as another one; export as coco")
    return list(first)


def _data_yaml(of: LabelledSplit, listed: str, folder: str) -> str:
    where = {} if is_remote(folder) else {"path": absolute(folder)}
    content = {**where, "train": listed, "val": listed, "nc": len(of.class_names), "names": list(of.class_names)}
    head = (
        f"# {of.description}; supervision: {of.supervision}\n"
        "# path: this folder; correct it when the folder moves. val: name a list of pictures with true labels here,\n"
        "# measured on its own training pictures a detector looks better than it is.\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
