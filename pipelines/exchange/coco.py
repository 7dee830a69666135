"""COCO's files.

    proposals      results JSON [{image_id, category_id, bbox, score}, …], class-agnostic: category 1, score = SAM's predicted
                   IoU or 1
    detections     results JSON of the same form; category ids are the data set's own, of VOC 1..C. Results of "segm" are a file
                   of their own (``coco-segm``), without bbox: pycocotools takes the area of a result that has one from it,
                   and then sorts masks into small, medium and large ones by their boxes
    labels         pseudo labels and predictions: instances JSON: images, annotations with bbox XYWH and score, categories with
                   the data set's own ids; images that have no number of their own count from 1; ``info`` says what the boxes
                   are owed to (``supervision``). ``import-masks`` reads the same of others, whose annotations may lack scores
    label maps     results JSON of "segm", of a score of 1: one for each class that an image shows, with all pixels of the
                   class; pixels of background, and those that nobody decides about, are in none

Boxes are XYWH with fractions kept; a mask is a "segmentation" of compressed run lengths, or of polygons along the edges of its
pixels, which COCO's reader draws as the same mask (``coco-polygons``). The area of an annotation is its mask's.
Ids of images are numbers where all images have one (VOC, COCO), and else stay text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.exchange.boxes import (
    XYWH,
    Boxes,
    four_numbers,
    in_order,
    is_whole,
    modes_of,
    of_mode,
    refuse_relative,
)
from pipelines.exchange.content import LabelledSplit, SplitDetections, SplitLabelMaps, SplitProposals
from pipelines.exchange.export import Export, Target
from pipelines.exchange.files import open_whole, require_new_file
from pipelines.exchange.image_ids import KnownImages, numbers_if_all, shown
from pipelines.exchange.masked_objects import MaskedObject, no_mask, require_size
from weaksam.datasets.coco_file import Annotation, parse_json, read_coco_file
from weaksam.datasets.coco_masks import read_masks
from weaksam.errors import DataError
from weaksam.io.files import read_annotations
from weaksam.masks_np import Rle, decode_rle, encode_rle, rle_area, rle_as_json
from weaksam.outlines_np import polygons_along_edges
from weaksam.structures import Detections

Segmentation = Callable[[Rle], Any]  # a mask as JSON holds it


def _polygons(mask_rle: Rle) -> list[list[int]]:
    return [polygon.flatten().tolist() for polygon in polygons_along_edges(decode_rle(mask_rle))]


def write_proposals(content: SplitProposals, target: Target) -> str:
    """Write results, one box a line; an image without proposals has no line."""
    replaced = require_new_file(target.out, overwrite=target.overwrite)
    _write_results(_of_proposals(content), target.out)
    return " · replaced an earlier file" if replaced else ""


def write_detections(content: SplitDetections, target: Target) -> str:
    """Write results of "bbox", one box a line."""
    replaced = require_new_file(target.out, overwrite=target.overwrite)
    _write_results(_of_detections(content, _bbox), target.out)
    masks = " · their masks are left out: --as coco-segm" if _has_masks(content) else ""
    return f"{masks} · replaced an earlier file" if replaced else masks


def write_detected_masks(content: SplitDetections, target: Target) -> str:
    """Write results of "segm", one mask a line; raise DataError where the detector finds none."""
    if content.counts["boxes"] and not _has_masks(content):
        raise DataError("expected detections with masks, got boxes alone; export them as coco")
    replaced = require_new_file(target.out, overwrite=target.overwrite)
    _write_results(_of_detections(content, _segm), target.out)
    return " · replaced an earlier file" if replaced else ""


def _has_masks(content: SplitDetections) -> bool:
    return any(found.mask_rle is not None for found in content.images.values())


def write_labels(content: LabelledSplit, target: Target, segmentation: Segmentation = rle_as_json) -> str:
    """Write an instances JSON, of whose masks ``segmentation`` returns the field."""
    replaced = " · replaced an earlier file" if require_new_file(target.out, overwrite=target.overwrite) else ""
    document = json.dumps(_instances(content, segmentation), ensure_ascii=False).encode()
    with open_whole(target.out) as file:
        file.write(document)
    if not content.to_learn_from:
        return replaced
    pictures = content.pictures_root or "a folder of the drawn pictures"
    return f"\nnext: hand it to a trainer with {pictures} as its pictures{replaced}"


def write_label_maps(content: SplitLabelMaps, target: Target) -> str:
    """Write results, one class of an image a line; an image of background alone has no line."""
    replaced = require_new_file(target.out, overwrite=target.overwrite)
    _write_results(_of_label_maps(content), target.out)
    return " · replaced an earlier file" if replaced else ""


def write_labels_as_polygons(content: LabelledSplit, target: Target) -> str:
    """Write an instances JSON whose masks are polygons, if there are any."""
    said = write_labels(content, target, _polygons)
    if any(image.found.mask_rle is not None for image in content.images):
        return said
    return f" · no object has a mask, so there are no polygons{said}"


PROPOSALS = Export(write=write_proposals, suffix=".json")
DETECTIONS = Export(write=write_detections, suffix=".json", takes=("only",))
DETECTED_MASKS = Export(write=write_detected_masks, suffix=".json", takes=("only",))
LABELS = Export(write=write_labels, suffix=".json")
LABEL_MAPS = Export(write=write_label_maps, suffix=".json", takes=("only",))
LABELS_AS_POLYGONS = Export(write=write_labels_as_polygons, suffix=".json")


def read_coco(data: bytes, where: str, known: KnownImages) -> dict[str, Boxes]:
    """Read COCO results; categories do not matter. Ids are numbers for VOC and COCO, else the ids themselves."""
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a readable JSON file: {error}; write it again") from error
    if not isinstance(entries, list):
        raise DataError(
            f"{where}: expected a list of results, got an object; an instances file holds labels, not these: `weaksam "
            "import-masks` reads its masks"
        )
    xyxy: dict[str, list[list[float]]] = {}
    for n, entry in enumerate(entries):
        place = f"{where}: [{n}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("bbox"), list) or "image_id" not in entry:
            raise DataError(f"{place}: expected image_id and bbox, got {shown(entry)}")
        image, bbox = entry["image_id"], four_numbers(entry["bbox"], f"{place}: bbox")
        if not isinstance(image, str) and not is_whole(image):
            raise DataError(f"{place}: expected a number or text as image_id, got {shown(image)}")
        mode = modes_of(entry.get("bbox_mode", XYWH), 1, place)[0]
        image_id = known.find(image if isinstance(image, str) else int(image), place)
        (box,) = in_order(of_mode(np.asarray([bbox]), mode), place)
        xyxy.setdefault(image_id, []).append(box.tolist())
    found = {image_id: np.asarray(rows, np.float32) for image_id, rows in xyxy.items()}
    refuse_relative(list(found.values()), where)
    return found


class CocoMasks:
    """The masks of an instances file, which calls images by their ``file_name``."""

    def __init__(self, uri: str) -> None:
        self._loaded = read_coco_file(uri)
        document = parse_json(next(read_annotations([uri])), uri)
        info = document.get("info")
        self.supervision = str(info.get("supervision", "")) if isinstance(info, Mapping) else ""
        self._scores = [
            _score(entry.get("score", 1.0), f"{uri}: annotations[{n}]")
            for n, entry in enumerate(document["annotations"])
        ]
        self._masks = read_masks(self._loaded, sized=True)
        self._class_names = dict(self._loaded.categories)
        self._images = {image.file_name: image for image in self._loaded.images}
        if len(self._images) < len(self._loaded.images):
            raise DataError(f"{uri}: expected each file_name once among the images, got one twice; keep one of them")
        unsized = next((image for image in self._loaded.images if 0 in image.size_hw), None)
        if unsized:
            raise DataError(
                f"{uri}: {unsized.where}: expected height and width of the image, got none; write them there"
            )
        self._of_image: dict[int, list[Annotation]] = {}
        for annotation in self._loaded.annotations:
            self._of_image.setdefault(annotation.image, []).append(annotation)

    @property
    def marks(self) -> Collection[str]:
        """See ``MaskFile``."""
        return self._images.keys()

    def mark_of(self, picture: str) -> str:
        """See ``MaskFile``."""
        return picture

    def objects(self, mark: str, size_hw: tuple[int, int]) -> list[MaskedObject]:
        """See ``MaskFile``; a segmentation without a polygon of three corners draws no mask."""
        image, uri = self._images[mark], self._loaded.uri
        require_size(image.size_hw, size_hw, f"{uri}: {image.where}")
        return [
            MaskedObject(
                self._class_names[annotation.category],
                self._masks.get(annotation.place) or no_mask(size_hw),
                self._scores[annotation.place],
                annotation.box_xyxy(uri) if annotation.has_box else None,
                annotation.crowd,
            )
            for annotation in self._of_image.get(image.number, ())
        ]


def _score(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: expected a number as score, got {shown(value)}; correct it, or leave it out")
    return float(value)


def _of_proposals(content: SplitProposals) -> Iterator[Mapping[str, Any]]:
    ids = content.of.ids
    numbers: Sequence[int | str] = numbers_if_all(ids, content.of.kind) or ids
    for number, boxes, ious in zip(numbers, content.boxes_xyxy, content.predicted_iou, strict=True):
        if ious is None:
            continue
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        for bbox, score in zip(xywh, np.where(np.isnan(ious), 1.0, ious).tolist(), strict=True):
            yield {"image_id": number, "category_id": 1, "bbox": bbox, "score": score}


def _of_detections(
    content: SplitDetections, where: Callable[[Detections], Iterable[Mapping[str, Any]]]
) -> Iterator[Mapping[str, Any]]:
    """Yield the results of a split; ``where`` says of each detection of an image where it is."""
    category_ids, ids = content.of.category_ids(content.class_names), list(content.images)
    numbers: Sequence[int | str] = numbers_if_all(ids, content.of.kind) or ids
    for number, found in zip(numbers, content.images.values(), strict=True):
        for place, class_index, score in zip(
            where(found), found.class_index.tolist(), found.score.tolist(), strict=True
        ):
            yield {"image_id": number, "category_id": category_ids[class_index], **place, "score": score}


def _bbox(found: Detections) -> Iterator[Mapping[str, Any]]:
    for x1, y1, x2, y2 in found.boxes_xyxy.tolist():
        yield {"bbox": [x1, y1, x2 - x1, y2 - y1]}


def _segm(found: Detections) -> Iterator[Mapping[str, Any]]:
    for mask_rle in found.mask_rle or ():
        yield {"segmentation": rle_as_json(mask_rle)}


def _of_label_maps(content: SplitLabelMaps) -> Iterator[Mapping[str, Any]]:
    category_ids, ids = content.of.category_ids(content.class_names), list(content.file_names)
    numbers: Sequence[int | str] = numbers_if_all(ids, content.of.kind) or ids
    number_of_image = dict(zip(ids, numbers, strict=True))
    for image_id, label_map in content.maps():
        for class_index in content.classes[image_id]:
            yield {
                "image_id": number_of_image[image_id],
                "category_id": category_ids[class_index],
                "segmentation": rle_as_json(encode_rle(label_map == class_index + 1)),
                "score": 1.0,
            }


def _write_results(results: Iterator[Mapping[str, Any]], out: str) -> None:
    with open_whole(out) as file:
        file.write(b"[")
        separator = "\n"
        for result in results:
            file.write(f"{separator}{json.dumps(result)}".encode())
            separator = ",\n"
        file.write(b"\n]\n")


def _instances(content: LabelledSplit, segmentation: Segmentation) -> Mapping[str, Any]:
    category_ids = content.of.category_ids(content.class_names)
    ids = [image.image_id for image in content.images]
    numbers = numbers_if_all(ids, content.of.kind) or range(1, len(ids) + 1)
    entries, annotations = [], list[Mapping[str, Any]]()
    for number, image in zip(numbers, content.images, strict=True):
        height, width = image.size_hw
        entries.append({"id": number, "file_name": image.file_name, "height": height, "width": width})
        for ((x1, y1, x2, y2), class_index, score), mask_rle in zip(image.boxes(), image.masks(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category_ids[class_index],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1) if mask_rle is None else int(rle_area([mask_rle])[0]),
                    "iscrowd": 0,
                    "score": score,
                    **({} if mask_rle is None else {"segmentation": segmentation(mask_rle)}),
                }
            )
    return {
        "info": {"description": content.description, "supervision": content.supervision},
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(category_ids, content.class_names, strict=True)],
    }
