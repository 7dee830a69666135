"""Two images of two classes, worked by hand; then a table on disk."""

import json

import numpy as np
import pytest

from pipelines.evaluate import stage as evaluate
from pipelines.evaluate.pseudo_labels import measure, text_table
from pipelines.products.pseudo_labels import PseudoLabelledImage
from pipelines.recipe.keys import inputs_of
from pipelines.store.schemas import PSEUDO_LABELS, pseudo_labels_to_row, with_class_names
from tests.support.drawn_run import drawn_recipe, job_for, with_instances, work, write_run
from tests.support.sets import FROM_NOTHING, instance_of
from tests.support.voice import Recorder
from weaksam.structures import GroundTruth, PseudoGroundTruth


def pseudo(*rows):
    """Pseudo ground truth given as (box, class index, score)."""
    score = np.array([row[2] for row in rows], np.float32)
    return PseudoGroundTruth(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        class_index=np.array([row[1] for row in rows], np.int64),
        score=score,
        score_normalised=score,
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


SIZE = (100, 100)
QUARTER, MORE, WHOLE = (0, 0, 50, 50), (0, 0, 50, 60), (0, 0, 100, 100)
TRUTH = {"a": true((QUARTER, 0)), "b": true((WHOLE, 1), (QUARTER, 1)), "c": true((WHOLE, 0))}
# The cat's box has an IoU of 5/6 with it, the dog's of 1/4.


def image(image_id, *rows):
    return PseudoLabelledImage(
        image_id=image_id, split="train", size_hw=SIZE, truth=pseudo(*rows), supervision="image-labels"
    )


IMAGES = [image("a", (MORE, 0, 0.5)), image("b", (QUARTER, 0, 0.5), (WHOLE, 1, 0.25)), image("c")]


def test_two_classes_by_hand():
    measured = measure(IMAGES, ("cat", "dog"), lambda _: TRUTH)["train"]
    assert (measured["images"], measured["boxes"], measured["empty"], measured["objects"]) == (3, 1.0, 1, 4)
    at_half, at_three_quarters = measured["rows"]
    assert at_half == {
        "iou": 0.5, "precision": pytest.approx(2 / 3), "recall": 0.5, "mean_precision": 0.75, "mean_recall": 0.5,
    }  # fmt: skip
    assert at_three_quarters["precision"] == at_half["precision"]
    cat, dog = measured["classes"]
    assert (cat["name"], cat["objects"], dog["name"], dog["objects"]) == ("cat", 2, "dog", 2)
    assert cat["rows"][0] == {"iou": 0.5, "boxes": 2, "correct": 1, "precision": 0.5, "recall": 0.5}
    assert dog["rows"][1] == {"iou": 0.75, "boxes": 1, "correct": 1, "precision": 1.0, "recall": 0.5}


def test_a_split_without_true_boxes_is_counted_and_not_measured():
    measured = measure(IMAGES, ("cat", "dog"), lambda _: {})["train"]
    assert measured == {"images": 3, "boxes": 1.0, "empty": 1, "objects": None, "rows": [], "classes": []}
    assert "no true boxes" in text_table("train", measured).title


def test_no_boxes_at_all_have_no_precision_and_no_recall_beside_it():
    measured = measure([image("a")], ("cat", "dog"), lambda _: TRUTH)["train"]
    assert (measured["rows"][0]["precision"], measured["rows"][0]["recall"]) == (None, 0.0)
    assert measured["classes"][1]["rows"][0]["recall"] is None


@pytest.mark.parametrize(("name", "supervision"), [("label", "image-labels"), ("true-boxes.true", "boxes")])
def test_true_boxes_as_pseudo_labels_are_all_right(tmp_path, name, supervision):
    dataset = write_run(str(tmp_path))
    instance = instance_of(str(tmp_path), name)
    instance.begin({})
    rows = []
    for image_id, objects in dataset.ground_truth("train").items():
        boxes = zip(objects.boxes_xyxy, objects.class_index, np.ones(len(objects.class_index)), strict=True)
        rows.append(pseudo_labels_to_row(image_id, FROM_NOTHING, (64, 64), pseudo(*boxes), supervision=supervision))
    instance.table(with_class_names(PSEUDO_LABELS, dataset.class_names)).write_rows(rows, "part-0")
    instance.finish({"supervision": supervision})

    voice = Recorder()
    measured, recipe = "evaluate.mine", with_instances(drawn_recipe(), evaluate_mine={"of": name})
    manifest = work(job_for(recipe, str(tmp_path), measured, (name,), voice))
    metrics = json.loads((tmp_path / measured / "k" / "metrics.json").read_text())
    row = metrics["pseudo_labels"]["train"]["rows"][1]
    assert (row["iou"], row["precision"], row["recall"], row["mean_recall"]) == (0.75, 1, 1, 1)
    assert (metrics["supervision"], manifest["supervision"]) == (supervision, supervision)
    assert "precision 100.0, recall 100.0" in manifest["text"]
    assert ("supervision: boxes" in manifest["text"]) == (supervision == "boxes")
    assert "IoU > 0.75" in voice.text


def test_what_an_evaluation_reads():
    recipe = with_instances(drawn_recipe(), evaluate_noisy={"of": "true-boxes.noisy"})
    for name, read in {"evaluate.label": "label", "evaluate.noisy": "true-boxes.noisy"}.items():
        assert inputs_of(evaluate.STAGE.options(recipe.of(name), name)) == (read,)
