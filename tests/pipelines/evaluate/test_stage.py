import json
from collections import Counter

import numpy as np
import pytest

from pipelines.evaluate.proposals import measure, row_label
from pipelines.products.proposal_boxes import ImageBoxes, count_points, iter_boxes, met_sources
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.config import EvaluateConfig, ProposeConfig
from pipelines.store.numbers import percent
from pipelines.store.schemas import PROPOSALS, proposals_to_row
from tests.support.drawn_run import drawn_proposals, drawn_recipe, job_for, with_instances, work, write_run
from tests.support.sets import FROM_NOTHING, instance_of
from tests.support.voice import Recorder
from weaksam.structures import GroundTruth


def truth(*boxes, cut=0, left_out=0):
    return GroundTruth(
        boxes_xyxy=np.float32(boxes).reshape(-1, 4),
        class_index=np.zeros(len(boxes), np.int64),
        difficult=np.zeros(len(boxes), bool),
        crowd=np.zeros(len(boxes), bool),
        cut=cut,
        left_out=left_out,
    )


def image(image_id, split, boxes, source, **points):
    return ImageBoxes(
        image_id=image_id,
        split=split,
        size_hw=(100, 100),
        boxes_xyxy=np.float32(boxes).reshape(-1, 4),
        source=list(source),
        points=Counter(points),
    )


def test_each_split_is_measured_by_its_own_truth():
    images = [
        image("a", "train", [(0, 0, 10, 10), (0, 0, 10, 5)], ["fine", "grid"], grid=4, fine=1),
        image("b", "test", [(0, 0, 4, 4)], ["grid"], grid=4),
        image("c", "train", [], [], grid=4),
    ]
    known = {"train": {"a": truth((0, 0, 10, 10), cut=2, left_out=3), "c": truth((0, 0, 1, 1))}, "test": {}}
    measured = measure(images, {"grid", "fine"}, known.__getitem__, EvaluateConfig())
    assert list(measured) == ["test", "train"]

    train = measured["train"]
    assert (train["images"], train["objects"], train["cut"], train["left_out"]) == (2, 2, 2, 3)
    grid, fine = train["rows"]
    assert (grid["name"], grid["points"], grid["boxes"], grid["one_to_one"]["0.5"]) == ("grid", 4.0, 0.5, 0.5)
    assert (fine["sources"], fine["points"], fine["boxes"], fine["one_to_one"]["0.9"]) == (
        ["grid", "fine"],
        4.5,
        1.0,
        0.5,
    )

    test = measured["test"]
    assert (test["images"], test["objects"], test["cut"], test["left_out"]) == (1, None, None, None)
    assert test["rows"][0]["boxes"] == 1.0
    assert set(test["rows"][0]["one_to_one"].values()) == {None}


def test_thresholds_of_the_recipe_join_those_of_the_curves():
    measured = measure(
        [image("a", "train", [], [])], {"grid"}, lambda _: {}, EvaluateConfig(iou_thresholds=(0.25, 0.5))
    )
    assert list(measured["train"]["rows"][0]["one_to_one"]) == [
        "0.25", "0.5", "0.55", "0.6", "0.65", "0.7", "0.75", "0.8", "0.85", "0.9", "0.95",
    ]  # fmt: skip


def test_no_images_measure_nothing():
    assert measure([], {"grid"}, lambda _: {}, EvaluateConfig()) == {}


def test_class_joint_prompts_add_no_points():
    row = {
        "prompt_source": ["grid", "fine", "fine", "fine"],
        "prompt_kind": ["grid", "semantic", "semantic", "class-joint"],
        "prompt_points_xy": [[[0, 0]], [[1, 1]], [[2, 2]], [[1, 1], [2, 2]]],
    }
    assert count_points(row) == {"grid": 1, "fine": 2}


def test_rows_of_a_table_come_back_with_their_own_boxes(tmp_path):
    write_run(str(tmp_path))
    table = ProposalTable(instance_of(str(tmp_path), "propose")).table
    expected = {row["image_id"]: row["boxes_xyxy"] for row in table.iter_rows()}
    images = list(iter_boxes(table))
    assert len(images) == 9
    for found in images:
        assert found.boxes_xyxy.tolist() == expected[found.image_id]
        assert found.points["grid"] == 9
    assert met_sources(table) == {"grid", "fine", "cross"}


@pytest.mark.parametrize(("share", "text"), [(None, "–"), (0.0, "0.0"), (0.98765, "98.8"), (1.0, "100.0")])
def test_shares_are_written_in_per_cent(share, text):
    assert percent(share) == text


def test_rows_that_add_say_so():
    assert row_label({"name": "fine", "sources": ["grid", "fine"]}) == "+ fine"
    assert row_label({"name": "selective-search", "sources": ["selective-search"]}) == "selective-search"


def test_the_stage_writes_metrics_and_prints_a_row_for_every_source_of_the_recipe(tmp_path):
    run = str(tmp_path)
    write_run(run)
    voice = Recorder()
    manifest = work(job_for(drawn_recipe(), run, "evaluate.proposals", ("propose",), voice))
    metrics = json.loads((tmp_path / "evaluate.proposals" / "k" / "metrics.json").read_text())
    assert metrics["iou_thresholds"] == [0.5, 0.75, 0.9]
    # coarse brought no box, yet its row stands there.
    assert [row["name"] for row in metrics["splits"]["val"]["rows"]] == ["grid", "fine", "coarse", "cross"]
    fine = metrics["splits"]["val"]["rows"][1]
    assert fine["one_to_one"]["0.5"] == 1.0
    printed = voice.text
    assert "+ coarse" in printed
    assert "val: 4 images" in printed
    assert "val: " in manifest["text"]
    assert "R@0.5 100.0" in manifest["text"]


def test_selective_search_gets_a_row_of_its_own(tmp_path):
    run = str(tmp_path)
    write_run(run)
    recipe = drawn_recipe(propose=ProposeConfig(method="selective-search"))
    work(job_for(recipe, run, "evaluate.proposals", ("propose",)))
    metrics = json.loads((tmp_path / "evaluate.proposals" / "k" / "metrics.json").read_text())
    names = [row["name"] for row in metrics["splits"]["val"]["rows"]]
    assert names == ["grid", "fine", "cross", "selective-search"]  # those of the table, and the one asked for


def test_an_import_is_measured_by_the_sources_it_has(tmp_path):
    run = str(tmp_path)
    dataset = write_run(run)
    imported = instance_of(run, "import.mine")
    (record, *_) = dataset.records("val")
    no_boxes = proposals_to_row(record.image_id, FROM_NOTHING, drawn_proposals(np.zeros((0, 4)), seed=0))
    row = {**no_boxes, "boxes_xyxy": [], "source": [], "prompt_index": [], "mask_index": [], "predicted_iou": []}
    imported.table(PROPOSALS).write_rows([row], "part-0")
    recipe = with_instances(drawn_recipe(), evaluate_mine={"of": "import.mine"})
    manifest = work(job_for(recipe, run, "evaluate.mine", ("import.mine",)))
    assert manifest["text"] == "val: no boxes"
