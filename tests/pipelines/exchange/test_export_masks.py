"""Masks written for others are read back as their readers do, to the pixel: small ones, lines, holes, several parts."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from pipelines.exchange.content import LabelledImage, images_of, predictions_of
from pipelines.exchange.export import run_export
from pipelines.exchange.voc_masks import mask_pngs
from pipelines.store.instances import finished_instance
from pipelines.store.schemas import (
    DETECTIONS,
    IMAGES,
    PSEUDO_MASKS,
    detections_to_row,
    pseudo_masks_to_row,
    with_class_names,
)
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.datasets.coco import CocoDataset
from weaksam.datasets.voc import VocDataset
from weaksam.datasets.voc_masks import NumberedObjects, classes_of, object_masks
from weaksam.errors import DataError
from weaksam.io.images import decode_numbers
from weaksam.masks_np import decode_rle, encode_rle
from weaksam.structures import Detections, PseudoGroundTruth

SIZE = (12, 16)


def drawn(*parts: tuple[int, int, int, int], hole: tuple[int, int] | None = None) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    for x1, y1, x2, y2 in parts:
        mask[y1:y2, x1:x2] = True
    if hole:
        mask[hole[1], hole[0]] = False
    return mask


MASKS = {
    "a pixel": drawn((15, 11, 16, 12)),
    "a line": drawn((0, 3, 16, 4)),
    "a hole": drawn((2, 2, 9, 9), hole=(5, 5)),
    "several parts": drawn((0, 0, 2, 2), (10, 5, 14, 9)),
    "the whole image": drawn((0, 0, 16, 12)),
}


def truth() -> PseudoGroundTruth:
    boxes = []
    for mask in MASKS.values():
        y, x = np.nonzero(mask)
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    ones = np.ones(len(boxes), np.float32)
    return PseudoGroundTruth(
        boxes_xyxy=np.array(boxes, np.float32),
        class_index=np.arange(len(boxes)) % 2,
        score=ones / 2,
        score_normalised=ones,
        mask_rle=[encode_rle(mask) for mask in MASKS.values()],
    )


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run with pseudo masks and detections of one image, by hand."""
    folder, picture = str(tmp_path / "run"), tmp_path / "pictures" / "5.png"
    picture.parent.mkdir()
    Image.new("RGB", SIZE[::-1]).save(picture)
    classes, found = ("cat", "dog"), truth()
    index = instance_of(folder, "index")
    index.begin({})
    row = {"image_id": "5", "uri": str(picture), "split": "train", "content": "", "labels": [0, 1]}
    index.table(with_class_names(IMAGES, classes)).write_rows([{**row, "labels_difficult": [0, 1]}], "part-0")
    index.finish({"kind": "folder"})
    area = np.array([mask.sum() for mask in MASKS.values()], np.int32)
    numbers = np.ones(len(area), np.float32)
    columns = {"area": area, "box_iou": numbers, "predicted_iou": numbers, "stability": numbers}
    segment = instance_of(folder, "segment")
    segment.begin({})
    masks = pseudo_masks_to_row(
        "5", FROM_NOTHING, SIZE, found, prompted_xyxy=found.boxes_xyxy, columns=columns, reasons=[""] * len(area),
        supervision="image-labels",
    )  # fmt: skip
    segment.table(with_class_names(PSEUDO_MASKS, classes)).write_rows([masks], "part-0")
    segment.finish({"supervision": "image-labels"})
    detect = instance_of(folder, "detect.masks")
    detect.begin({})
    detections = Detections(
        boxes_xyxy=found.boxes_xyxy,
        class_index=found.class_index,
        score=found.score,
        image_scores=np.zeros(2, np.float32),
        mask_rle=found.mask_rle,
    )
    row = detections_to_row("5", FROM_NOTHING, SIZE, detections)
    detect.table(with_class_names(DETECTIONS, classes)).write_rows([row], "part-0")
    detect.finish({})
    return folder


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools predates numpy 2
def test_coco_instances_hold_masks_that_its_own_reader_and_ours_draw(run: str, tmp_path: Path) -> None:
    out = tmp_path / "coco" / "annotations" / "instances_train.json"
    out.parent.mkdir(parents=True)
    run_export(run, to="coco", split="train", out=str(out), instance="segment")
    coco = COCO(str(out))
    annotations = coco.loadAnns(coco.getAnnIds())
    for annotation, mask in zip(annotations, MASKS.values(), strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    pictures = tmp_path / "coco" / "train"
    pictures.mkdir()
    Image.new("RGB", SIZE[::-1]).save(pictures / "5.png")
    (of_image,) = CocoDataset(str(tmp_path / "coco")).ground_truth("train", masks=True).values()
    for rle, mask in zip(of_image.mask_rle, MASKS.values(), strict=True):
        np.testing.assert_array_equal(decode_rle(rle), mask)


@pytest.mark.parametrize("to", ["coco", "coco-polygons"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools predates numpy 2
def test_mmdet_keeps_every_object_and_draws_its_mask(run: str, tmp_path: Path, to: str) -> None:
    out = tmp_path / "instances.json"
    run_export(run, to=to, split="train", out=str(out), instance="segment")
    coco = COCO(str(out))
    (image,) = coco.loadImgs(coco.getImgIds())
    kept = [
        of_mmdet(annotation, image["height"], image["width"])
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
    ]
    for mask, expected in zip(kept, MASKS.values(), strict=True):
        np.testing.assert_array_equal(mask, expected)


def of_mmdet(annotation: dict[str, Any], height: int, width: int) -> np.ndarray | None:
    """The mask that mmdetection 3 learns from, None for an object that it leaves out or ignores."""
    x, y, w, h = annotation["bbox"]
    inside = max(0, min(x + w, width) - max(x, 0)) * max(0, min(y + h, height) - max(y, 0))
    if inside == 0 or annotation["area"] <= 0 or w < 1 or h < 1 or annotation.get("iscrowd"):
        return None
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]
        if not polygons:
            return None
        rle = coco_masks.merge(coco_masks.frPyObjects(polygons, height, width))
    else:
        assert isinstance(segmentation["counts"], str)
        rle = segmentation
    return np.asarray(coco_masks.decode(rle), np.bool_)


def test_coco_results_hold_masks_as_the_server_takes_them(run: str, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    run_export(run, to="coco-segm", split="train", out=str(out), instance="detect.masks")
    results = json.loads(out.read_text())
    # pycocotools would take the area of a result with a bbox from it.
    assert [set(result) for result in results] == [{"image_id", "category_id", "score", "segmentation"}] * len(MASKS)
    for result, mask in zip(results, MASKS.values(), strict=True):
        counts = result["segmentation"]["counts"].encode()
        np.testing.assert_array_equal(decode_rle({**result["segmentation"], "counts": counts}), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools predates numpy 2
def test_its_own_reader_sorts_detected_masks_by_their_areas_and_boxes_by_theirs(run: str, tmp_path: Path) -> None:
    known, boxes = COCO(), truth().boxes_xyxy
    known.dataset = {"images": [{"id": "5"}], "categories": [], "annotations": []}
    known.createIndex()
    areas = {
        "coco-segm": [mask.sum() for mask in MASKS.values()],
        "coco": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).tolist(),
    }
    for to, expected in areas.items():
        run_export(run, to=to, split="train", out=str(tmp_path / to), instance="detect.masks")
        found = known.loadRes(str(tmp_path / to))
        assert [found.anns[n]["area"] for n in sorted(found.anns)] == expected


def test_the_masks_that_a_list_of_boxes_leaves_out_are_said(run: str, tmp_path: Path) -> None:
    done = run_export(run, to="coco", split="train", out=str(tmp_path / "boxes.json"), instance="detect.masks")
    assert "their masks are left out: --as coco-segm" in done["text"]
    assert {key for result in json.loads((tmp_path / "boxes.json").read_text()) for key in result} == {
        "image_id", "category_id", "bbox", "score"
    }  # fmt: skip


def test_voc_pngs_number_objects_and_classes_the_better_on_top(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "voc"
    run_export(run, to="voc", split="train", out=str(folder), instance="segment")
    objects, classes = (Image.open(folder / f"Segmentation{kind}" / "5.png") for kind in ("Object", "Class"))
    assert (objects.mode, classes.mode) == ("P", "P")
    assert objects.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # VOC's first colours
    numbers, kinds = np.array(objects), np.array(classes)
    expected, expected_kinds = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    for n, mask in enumerate(MASKS.values()):  # of equal scores: the last on top
        expected[mask], expected_kinds[mask] = n + 1, n % 2 + 1
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(kinds, expected_kinds)
    assert "<segmented>1</segmented>" in (folder / "Annotations" / "5.xml").read_text()
    listed = VocDataset(str(folder), splits=["segmentation-train"])  # what torchvision and mmsegmentation read as well
    assert [record.image_id for record in listed.records("segmentation-train")] == ["5"]


def test_masks_survive_voc_s_pngs_where_none_covers_another() -> None:
    parts = [MASKS["a pixel"], MASKS["a hole"]]
    boxes = np.array([[15, 11, 16, 12], [2, 2, 9, 9]], np.float32)
    ones = np.ones(2, np.float32)
    image = LabelledImage(
        "5", "5.png", SIZE,
        PseudoGroundTruth(
            boxes_xyxy=boxes, class_index=np.array([1, 0]), score=ones, score_normalised=ones,
            mask_rle=[encode_rle(mask) for mask in parts],
        ),
    )  # fmt: skip
    numbers, kinds = map(decode_numbers, mask_pngs(image))
    assert classes_of(numbers, kinds) == {1: 2, 2: 1}
    read = object_masks(NumberedObjects(numbers, classes_of(numbers, kinds)), boxes.tolist(), [2, 1])
    for rle, mask in zip(read.mask_rle, parts, strict=True):
        np.testing.assert_array_equal(decode_rle(rle), mask)


def test_more_objects_than_a_byte_has_numbers_are_refused() -> None:
    many = 255
    image = LabelledImage(
        "5", "5.png", SIZE,
        PseudoGroundTruth(
            boxes_xyxy=np.zeros((many, 4), np.float32), class_index=np.zeros(many, np.int64),
            score=np.ones(many, np.float32), score_normalised=np.ones(many, np.float32),
            mask_rle=[encode_rle(MASKS["a pixel"])] * many,
        ),
    )  # fmt: skip
    with pytest.raises(DataError, match="at most 254 objects and classes, got 255; export as coco"):
        mask_pngs(image)


def test_boxes_of_masks_are_written_as_those_of_pseudo_labels(run: str, tmp_path: Path) -> None:
    run_export(run, to="yolo", split="train", out=str(tmp_path / "yolo"), instance="segment")
    (labels,) = (tmp_path / "yolo").rglob("5.txt")
    assert len(labels.read_text().splitlines()) == len(MASKS)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_polygons_are_drawn_as_the_same_masks(run: str, tmp_path: Path) -> None:
    out = tmp_path / "instances.json"
    run_export(run, to="coco-polygons", split="train", out=str(out), instance="segment")
    coco = COCO(str(out))
    annotations = coco.loadAnns(coco.getAnnIds())
    for annotation, mask in zip(annotations, MASKS.values(), strict=True):
        assert all(len(polygon) >= 8 for polygon in annotation["segmentation"])
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()


def drawn_as_ultralytics_does(line: str) -> tuple[int, np.ndarray]:
    """Its ``segments2boxes`` and ``polygon2mask``: shares times the size, cut to whole numbers, filled by OpenCV."""
    number, *shares = line.split()
    points = np.array(shares, np.float64).reshape(-1, 2) * SIZE[::-1]
    canvas = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(canvas, np.asarray([points], np.int32), 1)
    return int(number), canvas.astype(np.bool_)


def test_yolo_s_polygons_are_drawn_as_the_masks_but_for_lines_that_join_holes_and_parts(
    run: str, tmp_path: Path
) -> None:
    done = run_export(run, to="yolo", split="train", out=str(tmp_path / "yolo"), instance="segment")
    assert "yolo segment train" in done["text"]
    assert "yolo11n-seg.pt" in done["text"]
    lines = (tmp_path / "yolo" / "labels" / "5.txt").read_text().splitlines()
    for line, (name, mask), class_index in zip(lines, MASKS.items(), truth().class_index, strict=True):
        assert len(line.split()) >= 7  # fewer columns are a box to the reader
        found, shown = drawn_as_ultralytics_does(line)
        assert found == class_index
        if name in ("a hole", "several parts"):
            assert (shown & mask).sum() == mask.sum()
            assert (shown & ~mask).sum() <= {"a hole": 1, "several parts": 12}[name]
        else:
            np.testing.assert_array_equal(shown, mask)


def test_a_predicted_mask_without_a_pixel_is_left_out_and_said(run: str) -> None:
    nothing = np.zeros(SIZE, np.bool_)
    found = Detections(
        boxes_xyxy=np.array([[1, 1, 5, 5], [1.6, 1.6, 1.9, 1.9]], np.float32),
        class_index=np.array([0, 1]),
        score=np.array([0.9, 0.8], np.float32),
        image_scores=np.zeros(2, np.float32),
        mask_rle=[encode_rle(drawn((1, 1, 5, 5))), encode_rle(nothing)],
    )
    detect = instance_of(run, "detect.empty")
    detect.begin({})
    row = detections_to_row("5", FROM_NOTHING, SIZE, found)
    detect.table(with_class_names(DETECTIONS, ("cat", "dog"))).write_rows([row], "part-0")
    detect.finish({})
    images = images_of(finished_instance(run, "index"), "train", "", skip_missing=False)
    predicted = predictions_of(images, finished_instance(run, "detect.empty"), 0.5)
    (of_image,) = predicted.images
    assert of_image.found.class_index.tolist() == [0]
    assert "boxes 1 that score 0.5 or more · left out, without a pixel 1" in predicted.text


def test_labelme_s_shapes_are_the_masks(run: str, tmp_path: Path) -> None:
    run_export(run, to="labelme", split="train", out=str(tmp_path / "labelme"), instance="segment")
    found = json.loads((tmp_path / "labelme" / "5.json").read_text())
    assert (found["imagePath"], found["imageHeight"], found["imageWidth"]) == ("5.png", *SIZE)
    assert (tmp_path / "labelme" / found["imagePath"]).exists()
    assert [shape["label"] for shape in found["shapes"]] == ["cat", "dog", "cat", "dog", "cat"]
    for shape, mask in zip(found["shapes"], MASKS.values(), strict=True):
        (x1, y1), (x2, y2) = shape["points"]  # its ``shape_to_mask``: both corners belong to the mask
        shown = np.zeros(SIZE, np.bool_)
        shown[y1 : y2 + 1, x1 : x2 + 1] = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
        assert shape["shape_type"] == "mask"
        np.testing.assert_array_equal(shown, mask)
