"""What is read of a trial, and ranks by hand."""

import numpy as np
import pytest

from pipelines.evaluate.detections import NO_PROPOSALS, MeasuredImage
from pipelines.products.measured import Evaluation
from pipelines.recipe.model import load_recipe
from pipelines.store.instances import Instance
from tests.support.upstream import RECIPE, finish_upstream
from tune.objectives import OBJECTIVES, RANKED, EarlyDetections, Reading, half_of, mean_ranks
from weaksam.datasets import open_dataset
from weaksam.datasets.shapes import Shapes
from weaksam.structures import Detections


def reading(instance, split="val", part="select", recipe=None):
    return Reading(recipe=recipe, instance=instance, part=part, split=split)


def metrics(tmp_path, content):
    instance = Instance(str(tmp_path), "evaluate.x", "k")
    Evaluation(instance).write(content)
    return instance


def test_detections_are_read_from_the_split_that_is_asked_for(tmp_path):
    rows = {"val": 0.25, "test": 0.5}
    instance = metrics(
        tmp_path,
        {
            "detections": {
                split: {
                    "classification_map": value + 0.1,
                    "rows": [{"ap50_area": value, "coco_ap": value / 2, "corloc": None}, {"ap50_area": 0.9}],
                }
                for split, value in rows.items()
            }
        },
    )
    assert OBJECTIVES["ap50"].read(reading(instance)) == 0.25
    assert OBJECTIVES["ap50"].read(reading(instance, "test", "report")) == 0.5
    assert OBJECTIVES["map"].read(reading(instance)) == 0.125
    assert OBJECTIVES["corloc"].read(reading(instance)) is None
    assert OBJECTIVES["ap50"].read(reading(instance, "elsewhere")) is None


def test_a_split_without_true_boxes_has_no_figure(tmp_path):
    instance = metrics(tmp_path, {"detections": {"val": {"classification_map": None, "rows": []}}})
    assert OBJECTIVES["ap50"].read(reading(instance)) is None


def seen_in(recipe, dataset, split="val"):
    """A detector that finds nothing, and knows what there is."""

    def found(record):
        scores = np.isin(np.arange(len(dataset.class_names)), record.labels_difficult).astype(np.float32)
        return Detections(
            boxes_xyxy=np.zeros((0, 4), np.float32),
            class_index=np.zeros(0, np.int64),
            score=np.zeros(0, np.float32),
            image_scores=scores,
        )

    images = [
        MeasuredImage(
            image_id=r.image_id, split=split, size_hw=(64, 64), detections=found(r), proposals_xyxy=NO_PROPOSALS
        )
        for r in dataset.records(split)
    ]
    return EarlyDetections(recipe=recipe, split=split, class_names=dataset.class_names, images=images)


def test_a_detector_is_looked_at_early_as_it_is_in_the_end(monkeypatch):
    recipe, _ = load_recipe("shapes", ["data.shapes.val=12", "data.shapes.size=64"], "shapes:")
    seen = seen_in(recipe, open_dataset(recipe.data))
    assert OBJECTIVES["ap50"].early(seen) == 0.0
    monkeypatch.setattr(Shapes, "ground_truth", lambda *_: {})
    assert OBJECTIVES["ap50"].early(seen) is None

    def refuse(*_):
        raise AssertionError("true boxes were read")

    monkeypatch.setattr(Shapes, "ground_truth", refuse)
    assert OBJECTIVES["classification_map"].early(seen) == 1.0


def test_figures_say_which_images_they_are_of():
    assert OBJECTIVES["ap50"].where("select", "val") == "val"
    assert OBJECTIVES["pseudo_f1"].where("select", "val") == "half of the training images"
    assert OBJECTIVES["pseudo_f1"].where("report", "test") == "the other half of the training images"
    assert OBJECTIVES["label_agreement"].where("select", "val") == "the training images"
    assert {name for name, o in OBJECTIVES.items() if o.of_student} == {
        "ap50", "map", "corloc", "classification_map", "agreement", "rank",
    }  # fmt: skip


def test_recall_is_that_of_all_sources_together(tmp_path):
    rows = [
        {"sources": ["grid"], "one_to_one": {"0.5": 0.2, "0.75": 0.1}},
        {"sources": ["grid", "fine"], "one_to_one": {"0.5": 0.8, "0.75": 0.3}},
        {"sources": ["fine"], "one_to_one": {"0.5": 0.9}},
    ]
    instance = metrics(tmp_path, {"splits": {"val": {"rows": rows}}})
    assert OBJECTIVES["recall50"].read(reading(instance)) == 0.8
    assert OBJECTIVES["recall75"].read(reading(instance)) == 0.3
    assert OBJECTIVES["recall90"].read(reading(instance)) is None


def test_label_free_figures_are_read_from_the_agreement(tmp_path):
    of_detectors = {"agreement": {"val": {"classification_map": 0.7, "agreement": 0.4}}}
    instance = metrics(tmp_path, of_detectors)
    assert [OBJECTIVES[name].read(reading(instance)) for name in RANKED] == [0.7, 0.4]
    instance = metrics(tmp_path, {"agreement": {"train": {"images": 3, "label_agreement": 0.6}}})
    assert OBJECTIVES["label_agreement"].read(reading(instance)) == 0.6
    assert OBJECTIVES["label_agreement"].read(reading(instance, part="report")) is None


def test_pseudo_labels_are_measured_on_two_halves_that_never_meet(tmp_path):
    from rich.console import Console

    from pipelines.engine.stage import Options
    from pipelines.evaluate.pseudo_labels import measure
    from pipelines.products.pseudo_labels import PseudoLabelTable
    from pipelines.runner import Run
    from pipelines.store.schemas import PSEUDO_LABELS

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, _ = load_recipe(str(tmp_path / "recipe.yaml"), data_uri="shapes:")
    run = str(tmp_path / "run")
    finish_upstream(recipe, run)
    Run(recipe, run).bring(["label"], Options(), Console(quiet=True))
    label = Run(recipe, run).instance("label")
    rows = list(label.table(PSEUDO_LABELS).iter_rows())
    assert {half_of(row["image_id"]) for row in rows} == {"select", "report"}
    for part in ("select", "report"):
        mine = [image for image in PseudoLabelTable(label).images() if half_of(image.image_id) == part]
        (expected,) = measure(
            mine, label.table(PSEUDO_LABELS).class_names(), open_dataset(recipe.data).ground_truth
        ).values()
        row = expected["rows"][0]
        found = {
            name: OBJECTIVES[f"pseudo_{name}"].read(reading(label, part=part, recipe=recipe))
            for name in ("precision", "recall", "f1")
        }
        assert found["precision"] == row["precision"] > 0
        assert found["recall"] == row["recall"] > 0
        assert found["f1"] == pytest.approx(2 / (1 / row["precision"] + 1 / row["recall"]))


def test_an_image_stays_in_its_half():
    halves = [half_of(f"{n:06}") for n in range(1000)]
    assert halves == [half_of(f"{n:06}") for n in range(1000)]
    assert 440 < halves.count("select") < 560


def test_ranks_are_averaged_and_ties_share_theirs():
    # First column: 3 is best, 1 worst. Second: the first two are tied above the third.
    assert mean_ranks([[0.1, 0.2, 0.3], [0.9, 0.9, 0.1]]) == [
        pytest.approx((0 + 0.75) / 2),
        pytest.approx((0.5 + 0.75) / 2),
        pytest.approx((1 + 0) / 2),
    ]
    assert mean_ranks([[0.1, None, 0.3], [0.2, 0.9, 0.1]]) == [0.5, None, 0.5]
    assert mean_ranks([[0.4], [0.5]]) == [0.0]
    assert mean_ranks([[], []]) == []


def test_every_objective_says_what_it_is_and_which_need_no_box():
    assert all(objective.what for objective in OBJECTIVES.values())
    free = {name for name, objective in OBJECTIVES.items() if objective.label_free}
    assert free == {"classification_map", "agreement", "label_agreement", "rank"}
