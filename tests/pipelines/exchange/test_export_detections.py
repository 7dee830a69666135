import json

import numpy as np
import pytest

from pipelines.exchange.export import Missing, run_export
from pipelines.exchange.image_ids import narrow
from pipelines.exchange.voc import voc_line
from pipelines.store.schemas import DETECTIONS, detections_to_row, with_class_names
from tests.support.handmade import write_index
from tests.support.sets import FROM_NOTHING, of_index
from weaksam.errors import DataError, RunError
from weaksam.masks_np import encode_rle
from weaksam.structures import Detections


def write_detections(run, images, class_names=("cat", "dog"), *, masked=False):
    instance = of_index(run, "detect.mil")
    instance.begin({})
    rows = [
        detections_to_row(
            image_id,
            FROM_NOTHING,
            (10, 20),
            Detections(
                boxes_xyxy=np.array([b for b, _, _ in found], np.float32).reshape(-1, 4),
                class_index=np.array([c for _, c, _ in found], np.int64),
                score=np.array([s for _, _, s in found], np.float32),
                image_scores=np.zeros(len(class_names), np.float32),
                mask_rle=[encode_rle(np.eye(10, 20, dtype=np.bool_))] * len(found) if masked else None,
            ),
        )
        for image_id, found in images.items()
    ]
    instance.table(with_class_names(DETECTIONS, class_names)).write_rows(rows, "part-0")
    instance.finish({})


FOUND = {"2008_000001": [([0, 0, 4, 3], 1, 0.5), ([1, 2, 20, 10], 0, 0.25)], "2008_000009": []}


@pytest.fixture
def voc(tmp_path):
    run = str(tmp_path / "run")
    write_index(run, {"test": ["2008_000009", "2008_000001"]}, kind="voc")
    write_detections(run, FOUND)
    return run


def test_a_line_of_voc_is_one_based_and_inclusive():
    # Pixels 0..9 and 0..19 are 1..10 and 1..20.
    assert voc_line("2008_000001", 0.5, (0, 0, 10, 20)) == "2008_000001 0.500000 1.00 1.00 10.00 20.00"


def test_voc_gets_one_file_per_class_also_where_nothing_was_found(voc, tmp_path):
    done = run_export(voc, to="voc", split="test", out=str(tmp_path / "out"), instance="detect.mil")
    assert (tmp_path / "out" / "comp3_det_test_cat.txt").read_text() == "2008_000001 0.250000 2.00 3.00 20.00 10.00\n"
    assert (tmp_path / "out" / "comp3_det_test_dog.txt").read_text() == "2008_000001 0.500000 1.00 1.00 4.00 3.00\n"
    assert (done["images"], done["boxes"], done["missing"]) == (2, 2, 0)


def test_coco_results_of_voc_number_classes_from_one(voc, tmp_path):
    run_export(voc, to="coco", split="test", out=str(tmp_path / "r.json"), instance="detect.mil")
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"image_id": 2008000001, "category_id": 2, "bbox": [0, 0, 4, 3], "score": 0.5},
        {"image_id": 2008000001, "category_id": 1, "bbox": [1, 2, 19, 8], "score": 0.25},
    ]


def test_masks_of_a_detector_that_finds_none_are_refused(voc, tmp_path):
    with pytest.raises(DataError, match="expected detections with masks, got boxes alone; export them as coco"):
        run_export(voc, to="coco-segm", split="test", out=str(tmp_path / "r.json"), instance="detect.mil")
    assert not (tmp_path / "r.json").exists()


def test_only_narrows_by_ids_or_by_an_instances_file(tmp_path):
    (tmp_path / "ids.txt").write_text("25\n\n9\n")
    (tmp_path / "instances_minival.json").write_text(json.dumps({"images": [{"id": 100}, {"id": 9}]}))
    ids = ["9", "25", "100"]
    assert narrow(ids, str(tmp_path / "ids.txt")) == ["9", "25"]
    assert narrow(ids, str(tmp_path / "instances_minival.json")) == ["9", "100"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("ids.txt", "7\n8\n", "names none of the split's 1 images"),
        ("i.json", "[1, 2]", "list of images"),
        ("i.json", "{", "list of images"),
    ],
    ids=["no image of the split", "not instances", "not JSON"],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        narrow(["9"], str(tmp_path / name))


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a text file"):
        narrow(["9"], str(tmp_path / "none.txt"))


def test_dropped_images_are_an_error_or_left_out(tmp_path):
    run = str(tmp_path / "run")
    write_index(run, {"test": ["2008_000009", "2008_000001", "2008_000002"]}, kind="voc")
    write_detections(run, FOUND)
    options = {"to": "voc", "split": "test", "out": str(tmp_path / "out"), "instance": "detect.mil"}
    with pytest.raises(DataError, match="1 of 3 images of split test have no detections \\(2008_000002\\)"):
        run_export(run, **options)
    done = run_export(run, **options, missing=Missing.EMPTY)
    assert (done["images"], done["missing"]) == (3, 1)


def test_a_run_without_detections_says_what_to_run(tmp_path):
    run = str(tmp_path / "run")
    write_index(run, {"test": ["1"]}, kind="voc")
    with pytest.raises(RunError, match=r"detect\.mil has not been run"):
        run_export(run, to="coco", split="test", out=str(tmp_path / "r.json"), instance="detect.mil")
