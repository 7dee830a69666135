"""Two images of two classes, worked by hand; then a table on disk."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.evaluate.detections import MeasuredImage, measure, text_table
from pipelines.recipe.config import EvaluateConfig
from pipelines.store.schemas import DETECTIONS, detections_to_row, with_class_names
from tests.support.drawn_run import drawn_recipe, job_for, work, write_run
from tests.support.sets import FROM_NOTHING, instance_of
from tests.support.voice import Recorder
from weaksam.structures import Detections, GroundTruth


def found(*rows, image_scores):
    """Detections given as (box, class index, score)."""
    return Detections(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        class_index=np.array([row[1] for row in rows], np.int64),
        score=np.array([row[2] for row in rows], np.float32),
        image_scores=np.array(image_scores, np.float32),
    )


def true(*rows):
    """Objects given as (box, class index)."""
    flags = np.zeros(len(rows), bool)
    return GroundTruth(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        class_index=np.array([row[1] for row in rows], np.int64),
        difficult=flags,
        crowd=flags,
    )


def image(image_id, detections, proposals, split="test"):
    boxes = np.array(proposals, np.float32).reshape(-1, 4)
    return MeasuredImage(
        image_id=image_id, split=split, size_hw=(100, 100), detections=detections, proposals_xyxy=boxes
    )


QUARTER, WHOLE, CORNER = (0, 0, 50, 50), (0, 0, 100, 100), (0, 0, 10, 10)
TRUTH = {"a": true((QUARTER, 0)), "b": true((WHOLE, 1))}
IMAGES = [
    image("a", found((QUARTER, 0, 0.9), image_scores=[0.8, 0.1]), [QUARTER]),
    image("b", found((CORNER, 1, 0.9), image_scores=[0.2, 0.9]), [WHOLE]),
]


def test_the_detector_and_the_two_trivial_ones_by_hand():
    measured = measure(IMAGES, ("cat", "dog"), lambda _: TRUTH, EvaluateConfig())["test"]
    assert (measured["images"], measured["objects"], measured["detections"]) == (2, 2, 1.0)
    assert measured["classification_map"] == 1.0  # .8 > .2 for the cat, .9 > .1 for the dog
    detector, whole, random = measured["rows"]
    assert [row["name"] for row in measured["rows"]] == ["detector", "whole image", "random proposal"]
    # The cat's box is right, the dog's covers 1 % of the dog and lies inside it.
    assert (detector["ap50_eleven_point"], detector["ap50_area"], detector["corloc"]) == (0.5, 0.5, 0.5)
    assert (detector["correct"], detector["part"], detector["elsewhere"]) == (0.5, 0.5, 0.0)
    # A whole image has IoU .25 with the cat and 1 with the dog, whose image scores best.
    assert (whole["ap50_area"], whole["corloc"], whole["part"], whole["elsewhere"]) == (0.5, 0.5, 0.0, 0.5)
    # The one proposal of each image is its object.
    assert (random["ap50_area"], random["corloc"], random["coco_ap"]) == pytest.approx((1, 1, 1))
    cat, dog = measured["classes"]
    assert (cat["name"], cat["objects"], cat["ap50_area"], cat["corloc"], cat["part"]) == ("cat", 1, 1.0, 1.0, 0.0)
    assert (dog["name"], dog["objects"], dog["ap50_area"], dog["corloc"], dog["part"]) == ("dog", 1, 0.0, 0.0, 1.0)


def test_the_order_of_images_changes_nothing():
    one, other = (
        measure(images, ("cat", "dog"), lambda _: TRUTH, EvaluateConfig()) for images in (IMAGES, IMAGES[::-1])
    )
    assert one == other


def test_an_image_without_objects_can_only_hold_false_positives():
    empty = image("c", found((QUARTER, 0, 0.95), image_scores=[0.1, 0.1]), [QUARTER])
    detector = measure([*IMAGES, empty], ("cat", "dog"), lambda _: TRUTH, EvaluateConfig())["test"]["rows"][0]
    assert detector["ap50_area"] == 0.25  # the cat's: the false one ranks first, precision 1/2
    assert detector["corloc"] == 0.5


@pytest.mark.parametrize(("levels", "expected"), [("published", 3 / 11), ("exact", 4 / 11)])
def test_the_recipe_says_how_levels_of_recall_are_rounded(levels, expected):
    # Three of ten cats are found, and nothing else: a recall of exactly .3.
    cats = [(10 * n, 0, 10 * n + 8, 8) for n in range(10)]
    images = [image("a", found(*((box, 0, 0.9) for box in cats[:3]), image_scores=[0.9, 0.1]), cats)]
    truth = {"a": true(*((box, 0) for box in cats))}
    measured = measure(images, ("cat", "dog"), lambda _: truth, EvaluateConfig(voc_levels=levels))["test"]
    assert measured["rows"][0]["ap50_eleven_point"] == pytest.approx(expected)
    assert measured["rows"][0]["ap50_area"] == pytest.approx(0.3)


def test_a_split_without_true_boxes_is_counted_and_not_measured():
    measured = measure(IMAGES, ("cat", "dog"), lambda _: {}, EvaluateConfig())["test"]
    assert measured == {
        "images": 2, "detections": 1.0, "objects": None, "classification_map": None, "rows": [], "classes": [],
    }  # fmt: skip
    assert "no true boxes" in text_table("test", measured).title


def test_where_labels_alone_are_known_the_scores_of_images_are_measured():
    scores = {"a": [0.9, 0.2], "b": [0.8, 0.1], "c": [0.1, 0.7], "d": [0.95, 0.9]}
    images = [replace(IMAGES[0], image_id=i, detections=replace(IMAGES[0].detections, image_scores=np.array(s, np.float32)))
              for i, s in scores.items()]  # fmt: skip
    labels = {"a": (0,), "b": (), "c": (1,)}  # those of d are not known
    measured = measure(images, ("cat", "dog"), lambda _: {}, EvaluateConfig(), lambda _: labels)["test"]
    assert (measured["objects"], measured["rows"], measured["images"]) == (None, [], 4)
    assert measured["classification_map"] == pytest.approx(1.0)
    labels = {"a": (), "b": (0,), "c": (1,)}  # a cat is the second best
    measured = measure(images, ("cat", "dog"), lambda _: {}, EvaluateConfig(), lambda _: labels)["test"]
    assert measured["classification_map"] == pytest.approx((0.5 + 1) / 2)
    assert "no true boxes; classification mAP 75.0" in text_table("test", measured).title


def test_an_image_without_detections_is_a_miss():
    blind = [image("a", found(image_scores=[0.0, 0.0]), [])]
    measured = measure(blind, ("cat", "dog"), lambda _: TRUTH, EvaluateConfig())["test"]
    detector, whole = measured["rows"]  # where no image has proposals, none was drawn by chance
    assert (detector["ap50_area"], detector["corloc"]) == (0.0, 0.0)
    assert detector["part"] is None  # no top detection to judge
    assert whole["corloc"] == 0.0
    assert measured["classes"][1]["ap50_area"] is None  # the dog has no object in these images


@pytest.fixture
def run(tmp_path):
    dataset = write_run(str(tmp_path))
    detect = instance_of(str(tmp_path), "detect.mil")
    detect.begin({})
    table = detect.table(with_class_names(DETECTIONS, dataset.class_names))
    done = set(instance_of(str(tmp_path), "propose").table(DETECTIONS).ids())
    truth = {split: dataset.ground_truth(split) for split in dataset.splits}
    rows = []
    for split in dataset.splits:
        for record in (r for r in dataset.records(split) if r.image_id in done):
            objects = truth[split][record.image_id]
            scores = np.array([float(c in objects.class_index) for c in range(6)], np.float32)
            boxes = [(box, c, 1.0) for box, c in zip(objects.boxes_xyxy, objects.class_index, strict=True)]
            rows.append(detections_to_row(record.image_id, FROM_NOTHING, (64, 64), found(*boxes, image_scores=scores)))
    table.write_rows(rows, "part-0")
    detect.finish({})
    return str(tmp_path)


def test_a_perfect_detector_on_a_table_gets_everything_right(run, tmp_path):
    voice = Recorder()
    job = job_for(drawn_recipe(), run, "evaluate.mil", ("detect.mil", "propose"), voice)
    manifest = work(job)
    metrics = json.loads((tmp_path / "evaluate.mil" / "k" / "metrics.json").read_text())
    for split in ("train", "val"):
        detector, whole, _ = metrics["detections"][split]["rows"]
        assert (detector["ap50_eleven_point"], detector["corloc"], detector["coco_ap"]) == pytest.approx((1, 1, 1))
        assert whole["corloc"] < 1
        assert metrics["detections"][split]["classification_map"] == 1.0
    assert len(metrics["class_names"]) == 6
    assert "AP50 100.0" in manifest["text"]
    assert "whole image" in voice.text
