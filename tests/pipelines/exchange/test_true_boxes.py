"""True boxes as pseudo labels: which they are, how noise is told, and that they are marked."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipelines import bringing
from pipelines.cli import app as cli
from pipelines.cli.console import console
from pipelines.engine.stage import Options
from pipelines.exchange.true_boxes import run_export_true_boxes
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.store.instances import finished_instance
from pipelines.store.lock import Lock
from tests.support.trees import (
    FIRST_CATEGORY_ID,
    build_coco_tree,
    build_voc_tree,
    coco_document,
    voc_object,
    voc_xml,
    write_json,
)
from weaksam.datasets.coco import CocoDataset
from weaksam.datasets.shapes import Shapes
from weaksam.errors import ConfigError, DataError, RunError


def indexed(run, data, *overrides):
    """A run with a finished ``index`` of ``data``."""
    recipe, _ = load_recipe("grid", [*overrides], str(data))
    Run(recipe, str(run)).bring(["index"], Options())
    return str(run)


def table_of(run, name):
    table = PseudoLabelTable(finished_instance(run, f"true-boxes.{name}")).table
    return {row["image_id"]: row for row in table.iter_rows()}


@pytest.fixture
def shapes(tmp_path):
    return indexed(tmp_path / "run", "shapes:", "data.shapes.train=24", "data.shapes.val=3", "data.shapes.size=64")


def shapes_truth():
    config = load_recipe("grid", ["data.shapes.train=24", "data.shapes.size=64"])[0].data.shapes
    return Shapes(config).ground_truth("train")


def test_without_noise_every_row_holds_the_true_boxes(shapes):
    manifest = run_export_true_boxes(shapes, name="true")
    rows, truth = table_of(shapes, "true"), shapes_truth()
    assert set(rows) == set(truth)
    for image_id, row in rows.items():
        assert row["boxes_xyxy"] == truth[image_id].boxes_xyxy.tolist()
        assert row["class_index"] == truth[image_id].class_index.tolist()
        assert (row["split"], row["size_hw"], row["supervision"]) == ("train", [64, 64], "boxes")
        assert row["noise"] == ["clean"] * len(row["boxes_xyxy"])
        assert row["score"] == row["score_normalised"] == [1.0] * len(row["boxes_xyxy"])
        assert row["rejected"] == []
    boxes = sum(len(objects.class_index) for objects in truth.values())
    assert (manifest["supervision"], manifest["split"], manifest["boxes"]) == ("boxes", "train", boxes)
    assert manifest["text"] == (
        f"images 24 = done 24 + dropped 0 · duplicates 0 · boxes {boxes} · noise: none · supervision: boxes"
    )


def test_noise_is_told_box_by_box_and_counted(shapes):
    manifest = run_export_true_boxes(shapes, name="noisy", noise=0.3, seed=1)
    rows, truth = table_of(shapes, "noisy"), shapes_truth()
    total = sum(len(objects.class_index) for objects in truth.values())
    kinds = [kind for row in rows.values() for kind in row["noise"]]
    gone = [box for row in rows.values() for box in row["rejected"]]
    assert manifest["noise"] == {
        "share": 0.3,
        "seed": 1,
        "clean": total - round(0.3 * total),
        "place": kinds.count("place"),
        "class": kinds.count("class"),
        "missing": len(gone),
    }
    assert min(kinds.count("place"), kinds.count("class"), len(gone)) >= round(0.3 * total) // 3
    assert manifest["boxes"] == len(kinds) == total - len(gone)
    assert {box["reason"] for box in gone} == {"noise"}
    assert f"noise: place {kinds.count('place')}, class {kinds.count('class')}, missing {len(gone)}" in manifest["text"]
    for image_id, row in rows.items():
        true = truth[image_id]
        objects = list(zip(true.boxes_xyxy.tolist(), true.class_index.tolist(), strict=True))
        for box, c, kind in zip(row["boxes_xyxy"], row["class_index"], row["noise"], strict=True):
            assert ((box, c) in objects) == (kind == "clean")
        assert all((box["box_xyxy"], box["class_index"]) in objects for box in row["rejected"])


def test_another_seed_or_share_is_another_instance_and_the_same_is_made_once(shapes):
    first = run_export_true_boxes(shapes, name="x", noise=0.3)
    part = next(Path(shapes, "true-boxes.x", first["key"]).glob("part-*"))
    written = part.stat().st_mtime_ns
    assert run_export_true_boxes(shapes, name="x", noise=0.3) == first
    assert part.stat().st_mtime_ns == written
    others = [run_export_true_boxes(shapes, name="x", noise=0.3, seed=1), run_export_true_boxes(shapes, name="x")]
    assert len({first["key"], *(other["key"] for other in others)}) == 3


@pytest.mark.parametrize(
    ("included", "boxes", "left_out"),
    [("false", [[0, 0, 10, 20]], {"difficult": 1}), ("true", [[0, 0, 10, 20], [5, 5, 64, 64]], {})],
    ids=["left out", "included"],
)
def test_difficult_objects_come_along_only_where_the_data_includes_them(tmp_path, included, boxes, left_out):
    data = build_voc_tree(tmp_path / "VOC2007", {"trainval": 1})
    objects = voc_object("cat", (0, 0, 10, 20)), voc_object("dog", (5, 5, 64, 64), difficult=True)
    (data / "Annotations" / "000001.xml").write_text(voc_xml(*objects))
    run = indexed(tmp_path / "run", data, f"data.include_difficult={included}")
    manifest = run_export_true_boxes(run, name="true")
    row = table_of(run, "true")["000001"]
    assert (row["boxes_xyxy"], row["size_hw"]) == (boxes, [64, 64])
    assert manifest["left_out"] == left_out


def test_coco_leaves_crowds_out(tmp_path):
    build_coco_tree(tmp_path / "coco")
    run = indexed(tmp_path / "run", tmp_path / "coco")
    manifest = run_export_true_boxes(run, name="true")
    truth = CocoDataset(str(tmp_path / "coco")).ground_truth("train2017")
    crowds = sum(int(objects.crowd.sum()) for objects in truth.values())
    assert crowds > 0
    assert manifest["left_out"] == {"crowd": crowds}
    assert manifest["boxes"] == sum(int((~objects.crowd).sum()) for objects in truth.values())


def test_an_image_that_cannot_be_read_is_dropped_with_its_reason(tmp_path):
    build_voc_tree(tmp_path / "VOC2007")
    (tmp_path / "VOC2007" / "JPEGImages" / "000002.jpg").write_bytes(b"")
    run = indexed(tmp_path / "run", tmp_path / "VOC2007")
    manifest = run_export_true_boxes(run, name="true", noise=0.5)
    assert manifest["images"] == {"images": 4, "done": 3, "dropped": 1, "before": 0, "duplicates": 0}
    (row,) = finished_instance(run, "true-boxes.true").dropped.iter_rows()
    assert (row["image_id"], row["stage"], row["reason"]) == ("000002", "true-boxes", "empty file")


def coco_of(root, *annotations, sizes=((64, 64), (64, 64))):
    """A COCO tree of one picture per size that the file states; all pictures are 64 x 64."""
    document = coco_document()
    (root / "train").mkdir(parents=True)
    for image_id, (width, height) in enumerate(sizes):
        Image.new("RGB", (64, 64)).save(root / "train" / f"{image_id}.jpg")
        document["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "width": width, "height": height})
    document["annotations"] = [
        {"id": n, "image_id": image_id, "category_id": FIRST_CATEGORY_ID, "bbox": bbox, "iscrowd": 0}
        for n, (image_id, bbox) in enumerate(annotations)
    ]
    write_json(root, "train", document)
    return root


def test_boxes_without_area_in_their_image_are_counted(tmp_path):
    data = coco_of(tmp_path / "c", (0, [0, 0, 9, 9]), (0, [5, 5, 0, 9]), (1, [70, 0, 9, 9]))
    manifest = run_export_true_boxes(indexed(tmp_path / "run", data), name="true")
    assert (manifest["boxes"], manifest["left_out"]) == (1, {"without area in their image": 2})
    assert "without area in their image left out 2" in manifest["text"]


def test_images_annotated_in_another_size_are_dropped_and_cannot_be_all(tmp_path):
    data = coco_of(tmp_path / "c", (0, [0, 0, 9, 9]), (1, [0, 0, 9, 9]), sizes=((64, 0), (96, 64)))
    run = indexed(tmp_path / "run", data, "stages=[index]")  # a recipe that measures by the boxes is refused at index
    assert run_export_true_boxes(run, name="true")["images"] == {
        "images": 2,
        "done": 1,
        "dropped": 1,
        "before": 0,
        "duplicates": 0,
    }
    (row,) = finished_instance(run, "true-boxes.true").dropped.iter_rows()
    assert row["reason"] == "annotated in another size"
    assert "expected a picture of 96 x 64 pixels" in row["detail"]
    run = indexed(tmp_path / "run2", coco_of(tmp_path / "d", (0, [0, 0, 9, 9]), sizes=((32, 64),)), "stages=[index]")
    with pytest.raises(DataError, match=r"none of the 1 images .*0\.jpg: annotated in another size: .* of 32 x 64"):
        run_export_true_boxes(run, name="true")


@pytest.mark.parametrize(
    "bbox",
    [[10**400, 1, 2, 3], [1, 2, 3, -(10**400)], ["x", 2, 3, 4], [1, 2, 3], None, [[1, 2], [3, 4]], True],
    ids=str,
)
def test_a_box_of_no_pixels_is_an_error_that_leaves_the_earlier_export_in_place(tmp_path, bbox):
    data = coco_of(tmp_path / "c", (0, [0, 0, 9, 9]))
    run = indexed(tmp_path / "run", data)
    run_export_true_boxes(run, name="true")
    before = finished_instance(run, "true-boxes.true")
    annotations = data / "annotations" / "instances_train.json"
    document = json.loads(annotations.read_text())
    document["annotations"][0]["bbox"] = bbox
    annotations.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"instances_train\.json: .*bbox"):
        run_export_true_boxes(run, name="true", noise=0.5)
    assert finished_instance(run, "true-boxes.true") == before


def test_a_split_without_true_boxes_or_without_labels_is_an_error(tmp_path):
    run = indexed(tmp_path / "none", "shapes:", "data.shapes.train=2", "data.shapes.size=32", "data.train_split=none")
    with pytest.raises(DataError, match=r"labels are granted to \(none\)"):
        run_export_true_boxes(run, name="true")


def test_a_share_that_is_none_and_a_name_that_is_no_folder_are_refused(shapes):
    with pytest.raises(ConfigError, match=r"--noise: expected a share in 0\.\.1, got 1\.5"):
        run_export_true_boxes(shapes, name="x", noise=1.5)
    for name in ("", "../x"):
        with pytest.raises(ConfigError, match=r"expected true-boxes\.NAME with a NAME of letters"):
            run_export_true_boxes(shapes, name=name)


def test_two_processes_do_not_write_the_same(shapes, monkeypatch):
    monkeypatch.setattr(bringing, "Lock", lambda folder, job, _wait_s, on_lost: Lock(folder, job, 0.0, on_lost))
    done = run_export_true_boxes(shapes, name="x")
    instance = finished_instance(shapes, "true-boxes.x")
    instance.reopen()
    Path(instance.plan_uri).write_text('{"parts": {"by": "another"}}')
    shown = run_export_true_boxes(shapes, name="x", seed=1)
    with Lock(instance.folder, "another"), pytest.raises(RunError, match="is held by another"):
        run_export_true_boxes(shapes, name="x")
    assert instance.plan() == {"parts": {"by": "another"}}
    assert finished_instance(shapes, "true-boxes.x").key == shown["key"]
    assert run_export_true_boxes(shapes, name="x")["boxes"] == done["boxes"]
    assert finished_instance(shapes, "true-boxes.x").key == done["key"]


def test_what_another_process_has_finished_meanwhile_is_not_written_again(shapes, monkeypatch):
    parts = {}

    def files():
        return {part: part.stat().st_mtime_ns for part in Path(shapes, "true-boxes.x").glob("*/part-*")}

    def taken_late(*arguments):
        monkeypatch.undo()
        run_export_true_boxes(shapes, name="x")
        parts.update(files())
        return Lock(*arguments)

    monkeypatch.setattr(bringing, "Lock", taken_late)
    run_export_true_boxes(shapes, name="x")
    assert files() == parts != {}


def test_the_command_says_what_it_made_and_refuses_what_it_cannot_use(shapes, monkeypatch):
    monkeypatch.setattr(console, "width", 200)

    def export(*arguments):
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["export", shapes, *arguments])

    done = export("--as", "pseudo-labels", "--name", "noisy", "--noise", "0.5", "--seed", "3")
    assert done.exit_code == 0
    assert "images 24 = done 24" in done.output
    assert "supervision: boxes" in done.output
    refused = {
        ("--as", "pseudo-labels"): "--as pseudo-labels: expected --name, of the instance true-boxes.NAME",
        ("--as", "pseudo-labels", "--name", "x", "--out", "f"): "takes --name, --noise and --seed",
        ("--as", "coco", "--noise", "0.5", "--split", "train", "--out", "f"): "--pictures and --overwrite, not --noise",
        ("--as", "coco", "--split", "train"): "expected --split, whose images, and --out",
    }
    for arguments, message in refused.items():
        assert message in str(export(*arguments).exception)
