"""Boxes for new pictures: what a detector found in them as annotations, and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from PIL import Image

from pipelines.exchange.content import LabelledImage, SplitPredictions, images_of, predictions_of
from pipelines.exchange.export import Product, Target, find_export, formats_of
from pipelines.exchange.file_names import safe_name
from pipelines.exchange.files import recorded_export
from pipelines.exchange.pictures import PictureMode
from pipelines.predict.pictures import FOLDER, Drawn, draw_some, fitted, split_folder
from pipelines.products.detections import DetectionTable
from pipelines.products.index import Index
from pipelines.store.instances import Instance
from weaksam.drawing import CLASS_COLOURS, draw_boxes, draw_captions, draw_masks
from weaksam.io.files import join
from weaksam.masks_np import decode_rle

FORMATS = tuple(formats_of(Product.PSEUDO_LABELS))  # of annotations


def write_boxes(
    index: Instance, detected: Instance, to: str, *, least_score: float, pictures: int, copy: bool
) -> Iterator[str]:
    """Write what was predicted beside the tables of its run, in a format of annotations and as pictures with boxes.

    Args:
        index: finished, of the run of predictions.
        detected: finished, of ``detect``.
        to: one of ``FORMATS``; what an earlier call wrote is replaced, unless it was changed since.
        least_score: boxes that score less are left out.
        pictures: at most so many of a split are drawn, a sample that does not depend on their names; 0 = none.
        copy: where the format has a place for the pictures themselves, copy them there, and do not link them.

    Yields:
        lines for people, of one split after the other.

    Raises:
        ConfigError: there is no such format.
        DataError: names that the format cannot hold, or files are in the way that somebody else wrote or changed.
    """
    for split in Index(index).facts.splits:
        found = predictions_of(images_of(index, split, "", skip_missing=True), detected, least_score)
        out, said = _write(found, to, index, split, PictureMode.COPY if copy else PictureMode.LINK)
        yield f"{out}: {to} · {found.text}{said}"
        if hint := _of_too_strict(found, detected):
            yield hint
        if pictures:
            drawn = [
                Drawn(image.image_id, image.file_name, partial(_with_boxes, image, found.class_names))
                for image in found.images
            ]
            what = f"their boxes that score {least_score:g} or more"
            yield draw_some(drawn, split_folder(index, FOLDER, split), split, pictures, what=what)


def _write(found: SplitPredictions, to: str, index: Instance, split: str, pictures: PictureMode) -> tuple[str, str]:
    """Write what was predicted of a split, in a file of a folder or as a folder; return where, and what to say of it."""
    export = find_export(Product.PSEUDO_LABELS, to)
    if not export.suffix:
        folder = split_folder(index, to, split)
        return folder, export.write(found, Target(out=folder, pictures=pictures, overwrite=True))
    file = join(to, f"{safe_name(split)}{export.suffix}")
    # The record is outside the format's folder, whose JSON files are all annotations.
    with recorded_export(index.run_uri, [file], to=to, split=safe_name(split), overwrite=True) as replaced:
        said = export.write(found, Target(out=join(index.run_uri, file)))
    return join(index.run_uri, file), said + (" · replaced an earlier file" if replaced else "")


def _of_too_strict(found: SplitPredictions, detected: Instance) -> str:
    """Return what to do where no box scores enough, but some were found."""
    if found.counts["boxes"]:
        return ""
    best = max(
        (
            float(image.detections.score.max())
            for image in DetectionTable(detected).images()
            if image.split == found.of.split and len(image.detections)
        ),
        default=0,
    )
    return f"no box scores {found.least_score:g}; the best scores {best:.2g}: --score {best / 2:.1g}" if best else ""


def _with_boxes(image: LabelledImage, class_names: Sequence[str]) -> Image.Image:
    """Return a picture with the boxes that were found in it, and their masks if there are some."""
    picture, scale = fitted(image.uri)
    boxes = list(image.boxes())[::-1]  # the best last, on top of all
    colours = [CLASS_COLOURS[class_index % len(CLASS_COLOURS)] for _, class_index, _ in boxes]
    captions = [f"{class_names[class_index]} {score:.2f}" for _, class_index, score in boxes]
    corners = image.found.boxes_xyxy[::-1]
    masks = [decode_rle(rle) for rle in image.masks() if rle is not None][::-1]
    picture = draw_masks(picture, masks, colours[: len(masks)])  # of all boxes or of none
    return draw_captions(draw_boxes(picture, corners, colours, scale=scale), corners, captions, colours, scale=scale)
