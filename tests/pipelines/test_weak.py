"""Weak means weak: no coordinate or pixel of an annotation reaches a classifier, proposal, pseudo label, seed or detector."""

import json
import random
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipelines.engine.stage import Options
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.store.instances import current_instance
from pipelines.store.schemas import IMAGES, PROPOSALS, PSEUDO_LABELS, PSEUDO_MASKS, SEEDS
from weaksam.datasets.shapes import CLASS_NAMES, data_set_seed, draw
from weaksam.io.files import read_bytes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

TINY = [
    "data.train_split=train",
    "clues.source.depth=1",
    "clues.source.fusion_reduction=4",
    "classifier.epochs=1",
    "classifier.batch_size=4",
    "classifier.crop_size=32",
    "clues.cam.scales=[1.0]",
    "prompts.points_per_side=3",
    "mil.scales=[64]",
    "mil.min_box_side=4",
    "mil.epochs=1",
    "mil.batch_size=4",
    "detect.scales=[64]",
    "retrain.backbone=small",
    "retrain.init=builtin:stem",
    "retrain.freeze_stages=0",
    "retrain.scales=[64]",
    "retrain.steps=2",
    "retrain.batch_size=4",
    "retrain.detector.anchor_sides=[12, 24, 48]",
    "retrain.detector.pyramid_dim=16",
    "retrain.detector.head_dim=32",
    "resources.here=true",
    "resources.cpus=1",
]

TINY_MAPS = [
    "data.kind=auto",
    "data.splits=[train]",
    "data.train_split=train",
    "superpixels.points_per_side=4",
    "train_prompts={steps: 2, warmup_steps: 0, batch_size: 4, long_side: [64, 64], crop_size: 64}",
    "train-prompts.maps.steps=2",
    "segmenter={side: 64, crop_side: 64, steps: 2, batch_size: 4}",
    "resources.here=true",
    "resources.cpus=1",
]


def drawings(count=8, size=64):
    return [draw(data_set_seed(0, "train", n), size) for n in range(count)]


def random_box(rng, size):
    x1, y1 = rng.randrange(size - 2), rng.randrange(size - 2)
    return x1, y1, rng.randrange(x1 + 2, size + 1), rng.randrange(y1 + 2, size + 1)


def write_voc(folder: Path, *, coordinates: str) -> str:
    """Write drawings as VOC; every second object is difficult.

    ``coordinates`` of boxes and pixels of masks are "true" or "random", names and flags stay.
    """
    rng = random.Random(7)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main", "SegmentationObject"):
        (folder / name).mkdir(parents=True)
    for n, drawing in enumerate(drawings()):
        Image.fromarray(drawing.image).save(folder / "JPEGImages" / f"{n:06}.jpg", quality=95)
        root = ElementTree.Element("annotation")
        size = ElementTree.SubElement(root, "size")
        for side, value in zip(("width", "height", "depth"), (64, 64, 3), strict=True):
            ElementTree.SubElement(size, side).text = str(value)
        for number, (box, c) in enumerate(zip(drawing.boxes_xyxy.tolist(), drawing.class_index.tolist(), strict=True)):
            x1, y1, x2, y2 = box if coordinates == "true" else random_box(rng, 64)
            item = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(item, "name").text = CLASS_NAMES[c]
            ElementTree.SubElement(item, "difficult").text = str(number % 2)
            corners = ElementTree.SubElement(item, "bndbox")
            values = (x1 + 1, y1 + 1, x2, y2)
            for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True):
                ElementTree.SubElement(corners, corner).text = str(int(value))
        ElementTree.ElementTree(root).write(folder / "Annotations" / f"{n:06}.xml")
        numbers = (
            drawing.instance_map if coordinates == "true" else np.array(rng.choices(range(4), k=64 * 64), np.uint8)
        )
        Image.fromarray(numbers.reshape(64, 64)).save(folder / "SegmentationObject" / f"{n:06}.png")
    names = "".join(f"{n:06}\n" for n in range(8))
    (folder / "ImageSets/Main/train.txt").write_text(names)
    return str(folder)


def write_coco(folder: Path, *, coordinates: str) -> str:
    """Write drawings as COCO with polygons around the boxes, true or random."""
    rng = random.Random(7)
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    images, annotations = [], []
    for n, drawing in enumerate(drawings()):
        Image.fromarray(drawing.image).save(folder / "train" / f"{n}.jpg", quality=95)
        images.append({"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 64})
        for box, c in zip(drawing.boxes_xyxy.tolist(), drawing.class_index.tolist(), strict=True):
            x1, y1, x2, y2 = box if coordinates == "true" else random_box(rng, 64)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": n,
                    "category_id": c + 1,
                    "iscrowd": 0,
                    "area": (x2 - x1) * (y2 - y1),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    categories = [{"id": c + 1, "name": name} for c, name in enumerate(CLASS_NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return str(folder)


def run(data: str, out: Path, last: str, *settings: str) -> None:
    bring("small", [*TINY, *settings], data, out, last)


def bring(name: str, settings: list[str], data: str, out: Path, last: str) -> None:
    recipe, _ = load_recipe(name, settings, data)
    Run(recipe, str(out)).bring([last], Options())


def table(out: Path, name: str, schema):
    instance = current_instance(str(out), name)
    assert instance is not None
    return instance.table(schema).read().sort_by("image_id")


@pytest.mark.parametrize("write", [write_voc, write_coco])
def test_the_images_table_is_the_same_whatever_the_coordinates(tmp_path, write):
    tables = []
    for coordinates in ("true", "random"):
        data = write(tmp_path / "data", coordinates=coordinates)
        run(data, tmp_path / coordinates, "index")
        tables.append(table(tmp_path / coordinates, "index", IMAGES))
        (tmp_path / "data").rename(tmp_path / f"{coordinates}-data")
    assert tables[0].equals(tables[1])
    assert any(labels for labels in tables[0]["labels"].to_pylist())


@pytest.mark.slow
def test_training_and_proposing_give_the_same_bits_whatever_the_coordinates(tmp_path):
    found = []
    for coordinates in ("true", "random"):
        data = write_voc(tmp_path / "data", coordinates=coordinates)
        out = tmp_path / coordinates
        run(data, out, "retrain")
        weights = [
            read_bytes(current_instance(str(out), name).file(file))
            for name, file in (
                ("train-classifier", "classifier.safetensors"),
                ("train-mil", "detector.safetensors"),
                ("retrain", "detector.safetensors"),
            )
        ]
        found.append((weights, table(out, "propose", PROPOSALS), table(out, "label", PSEUDO_LABELS)))
        (tmp_path / "data").rename(tmp_path / f"{coordinates}-data")
    (weights, proposals, labels), (other_weights, other_proposals, other_labels) = found
    assert weights[0] == other_weights[0], "the classifiers differ"
    assert proposals.equals(other_proposals), "the proposals differ"
    assert weights[1] == other_weights[1], "the detectors differ"
    assert labels.equals(other_labels), "the pseudo labels differ"
    assert set(labels["supervision"].to_pylist()) == {"image-labels"}
    assert sum(map(len, labels["boxes_xyxy"].to_pylist())) >= len(labels)
    assert weights[2] == other_weights[2], "the retrained detectors differ"
    assert sum(map(len, proposals["boxes_xyxy"].to_pylist())) > len(proposals)  # else nothing was compared


DETECTORS_OF_MASKS = {
    "mask_rcnn": "{anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 32, mask_dims: [8]}",
    "mask2former": "{dim: 32, heads: 2, encoder_layers: 1, encoder_feedforward_dim: 32, decoder_layers: 1}",
}


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_voc, write_coco])
def test_masks_that_are_learnt_from_are_the_same_whatever_the_true_ones(tmp_path, write):
    found = []
    for coordinates in ("true", "random"):
        data = write(tmp_path / "data", coordinates=coordinates)
        out = tmp_path / coordinates
        weights = {}
        for name, options in DETECTORS_OF_MASKS.items():
            detector = options.replace("{", f"{{name: {name}, ")
            run(data, out, "retrain", "retrain.learn_from=segment", f"retrain.detector={detector}")
            weights[name] = read_bytes(current_instance(str(out), "retrain").file("detector.safetensors"))
        found.append((weights, table(out, "segment", PSEUDO_MASKS)))
        (tmp_path / "data").rename(tmp_path / f"{coordinates}-data")
    (weights, segmented), (other_weights, other_segmented) = found
    assert segmented.equals(other_segmented), "the pseudo masks differ"
    assert set(segmented["supervision"].to_pylist()) == {"image-labels"}
    assert sum(map(len, segmented["mask_rle"].to_pylist())) > 0
    assert [name for name in weights if weights[name] != other_weights[name]] == [], "these detectors differ"


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_voc, write_coco])
def test_seeds_and_segmenters_are_the_same_whatever_the_true_masks(tmp_path, write):
    found = []
    for coordinates in ("true", "random"):
        data = write(tmp_path / "data", coordinates=coordinates)
        out = tmp_path / coordinates
        bring("shapes-fma", TINY_MAPS, data, out, "train-segmenter")
        weights = [
            read_bytes(current_instance(str(out), name).file(file))
            for name, file in (
                ("train-prompts", "prompts.safetensors"),
                ("train-prompts.maps", "prompts.safetensors"),
                ("train-segmenter", "segmenter.safetensors"),
            )
        ]
        found.append((weights, table(out, "seeds.coarse", SEEDS), table(out, "seeds.fine", SEEDS)))
        (tmp_path / "data").rename(tmp_path / f"{coordinates}-data")
    (weights, coarse, fine), (other_weights, other_coarse, other_fine) = found
    assert weights[0] == other_weights[0], "the prompts of classes differ"
    assert coarse.equals(other_coarse), "the coarse seeds differ"
    assert weights[1] == other_weights[1], "the prompts of maps differ"
    assert fine.equals(other_fine), "the fine seeds differ"
    assert weights[2] == other_weights[2], "the segmenters differ"
    assert set(fine["supervision"].to_pylist()) == {"image-labels"}
    assert sum(coarse["superpixels"].to_pylist()) > 0
