"""What was written is read by our own readers, or parsed by hand where we have none."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines.cli import app as cli
from pipelines.engine.stage import Options
from pipelines.exchange.content import LabelledImage, SplitImages, SplitPseudoLabels
from pipelines.exchange.export import Missing, run_export
from pipelines.exchange.file_names import file_stem, file_stems, suffixed
from pipelines.exchange.true_boxes import run_export_true_boxes
from pipelines.exchange.voc import voc_xml
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.store.instances import Instance
from pipelines.store.schemas import IMAGES, PSEUDO_LABELS, pseudo_labels_to_row, with_class_names
from tests.support.sets import FROM_NOTHING, instance_of
from tests.support.trees import build_coco_tree, build_voc_tree
from weaksam.datasets.coco import CocoDataset
from weaksam.datasets.voc import VocDataset
from weaksam.errors import DataError, RunError
from weaksam.structures import PseudoGroundTruth


def pseudo(*rows):
    """Pseudo ground truth given as (box, class index, score)."""
    score = np.array([row[2] for row in rows], np.float32)
    return PseudoGroundTruth(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        class_index=np.array([row[1] for row in rows], np.int64),
        score=score,
        score_normalised=score,
    )


def write_labels(run, kind, images, *, uris=None, class_names=("cat", "a & b")):
    """A finished ``index`` and ``label`` by hand: image id -> pseudo ground truth; images are 200 pixels wide, 100 high."""
    index = instance_of(run, "index")
    index.begin({})
    rows = [
        {
            "image_id": i,
            "uri": (uris or {}).get(i, f"/data/{i}.jpg"),
            "split": "train",
            "content": "",
            "labels": [0],
            "labels_difficult": [0],
        }
        for i in images
    ]
    index.table(with_class_names(IMAGES, class_names)).write_rows(rows, "part-0")
    index.finish({"kind": kind})
    label = instance_of(run, "label")
    label.begin({})
    rows = [
        pseudo_labels_to_row(i, FROM_NOTHING, (100, 200), truth, supervision="image-labels")
        for i, truth in images.items()
        if truth is not None
    ]
    label.table(with_class_names(PSEUDO_LABELS, class_names)).write_rows(rows, "part-0")
    label.finish({"supervision": "image-labels"})
    return run


VOC = {
    "2008_000009": pseudo(((0, 0, 10, 20), 0, 0.5), ((49.6, 20.4, 100.2, 80.5), 1, 0.25)),
    "000005": pseudo(((190, 90, 200, 100), 1, 1.0)),
    "000007": pseudo(),
}


@pytest.fixture
def voc(tmp_path):
    return write_labels(str(tmp_path / "run"), "voc", VOC)


def test_coco_of_voc_by_hand(voc, tmp_path):
    done = run_export(voc, to="coco", split="train", out=str(tmp_path / "f.json"), instance="label")
    document = json.loads((tmp_path / "f.json").read_text())
    assert document["info"]["supervision"] == "image-labels"
    assert document["images"] == [
        {"id": 2008000009, "file_name": "2008_000009.jpg", "height": 100, "width": 200},
        {"id": 5, "file_name": "000005.jpg", "height": 100, "width": 200},
    ]
    assert document["annotations"][0] == {
        "id": 1, "image_id": 2008000009, "category_id": 1, "bbox": [0, 0, 10, 20], "area": 200, "iscrowd": 0, "score": 0.5,
    }  # fmt: skip
    assert [a["category_id"] for a in document["annotations"]] == [1, 2, 2]
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "a & b"}]
    assert (done["images"], done["boxes"], done["empty"], done["missing"]) == (2, 3, 1, 0)
    assert "images 2 (left out: 1 without any box) · boxes 3 · supervision: image-labels" in done["text"]


def test_voc_comes_back_with_whole_pixels(voc, tmp_path):
    out = tmp_path / "VOC"
    run_export(voc, to="voc", split="train", out=str(out), instance="label")
    assert sorted(path.name for path in (out / "Annotations").iterdir()) == ["000005.xml", "2008_000009.xml"]
    dataset = VocDataset(str(out))
    assert dataset.splits == ("train",)
    truth = dataset.ground_truth("train")
    assert list(truth) == ["2008_000009", "000005"]
    assert truth["2008_000009"].boxes_xyxy.tolist() == [[0, 0, 10, 20], [50, 20, 100, 80]]
    assert [dataset.class_names[c] for c in truth["2008_000009"].class_index] == ["cat", "a & b"]
    assert truth["000005"].boxes_xyxy.tolist() == [[190, 90, 200, 100]]
    text = (out / "Annotations" / "000005.xml").read_text()
    for part in (
        "<xmin>191</xmin>",
        "<xmax>200</xmax>",
        "<score>1.0</score>",
        "<supervision>image-labels</supervision>",
    ):
        assert part in text


def test_yolo_by_hand(voc, tmp_path):
    run_export(voc, to="yolo", split="train", out=str(tmp_path / "yolo"), instance="label")
    labels = {path.name: path.read_text() for path in (tmp_path / "yolo" / "labels").iterdir()}
    # The box from (190, 90) to (200, 100): centre (195, 95) of 200 x 100.
    assert labels["000005.txt"] == "1 0.975000 0.950000 0.050000 0.100000\n"
    assert labels["2008_000009.txt"].splitlines()[0] == "0 0.025000 0.100000 0.050000 0.200000"
    assert set(labels) == {"000005.txt", "2008_000009.txt"}
    assert (tmp_path / "yolo" / "classes.txt").read_text() == "cat\na & b\n"


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ((0, 0, 200, 100), (1, 1, 200, 100)),
        ((3.4, 3.4, 3.45, 3.45), (4, 4, 4, 4)),
        ((199.8, 99.8, 200, 100), (200, 100, 200, 100)),
        ((0, 0, 0.2, 0.2), (1, 1, 1, 1)),
    ],
    ids=["the whole image", "less than a pixel", "in the last corner", "in the first corner"],
)
def test_corners_of_voc_stay_in_the_image_and_in_order(box, corners):
    image = LabelledImage("x", "x.jpg", (100, 200), pseudo((box, 0, 1.0)))
    of = SplitImages(index=Instance("", "index", ""), kind="voc", split="train", ids=["x"], skip_missing=False)
    split = SplitPseudoLabels(
        of=of, class_names=["cat"], supervision="boxes", pictures_root="", images=[image], missing=0
    )
    xml = voc_xml(image, split).decode()
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
        assert f"<{name}>{value}</{name}>" in xml


STEMS = {
    "2008_000009": "2008_000009",
    "a/b.jpg": "a%2Fb",
    "a%2Fb": "a%252Fb",
    "../b.PNG": "%2E.%2Fb",
    "v1.5": "v1.5",
    "Käfer und ähnliche.webp": "Käfer und ähnliche",
    ".jpg": "%2Ejpg",
}


def test_files_of_other_suffixes_get_names_of_their_own():
    assert suffixed(["a.png", "b.JPG", "c"], (".jpg", ".jpeg")) == ["a.png.jpg", "b.JPG", "c.jpg"]
    assert suffixed(["a.png", "a.png.jpg"], (".jpg",)) == ["a.png.jpg.jpg", "a.png.jpg"]
    assert suffixed(["a.png.jpg.jpg", "a.png.jpg", "a.png"], (".jpg",))[2] == "a.png.jpg.jpg.jpg"
    assert suffixed(["a", "a.jpg", "a.jpg.jpg"], (".png",)) == ["a.png", "a.jpg.png", "a.jpg.jpg.png"]


@pytest.mark.parametrize(("image_id", "stem"), STEMS.items(), ids=STEMS)
def test_file_names_hold_any_id(image_id, stem):
    assert file_stem(image_id) == stem


def test_two_images_of_one_file_name_are_refused():
    assert file_stems(["a/b.jpg", "a/c.jpg"]) == ["a%2Fb", "a%2Fc"]
    with pytest.raises(DataError, match=r"'a\.jpg' and 'a\.png' would share one file"):
        file_stems(["a.jpg", "a.png"])


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_ids_with_slashes_keep_their_folders_where_the_format_has_them(tmp_path, to):
    images = {"cats/1.jpg": VOC["000005"], "dogs/1.jpg": VOC["2008_000009"]}
    uris = {i: f"/data/{i}" for i in images}
    run, out = write_labels(str(tmp_path / "run"), "folder", images, uris=uris), tmp_path / "out"
    run_export(
        run,
        to=to,
        split="train",
        out=str(out / "annotations" / "instances_train.json" if to == "coco" else out),
        instance="label",
    )
    if to == "coco":
        document = json.loads((out / "annotations" / "instances_train.json").read_text())
        assert [(i["id"], i["file_name"]) for i in document["images"]] == [(1, "cats/1.jpg"), (2, "dogs/1.jpg")]
        assert CocoDataset(str(out)).ground_truth("train")["1"].boxes_xyxy.tolist() == [[190, 90, 200, 100]]
    elif to == "voc":
        truth = VocDataset(str(out)).ground_truth("train")
        assert {i: len(found.class_index) for i, found in truth.items()} == {"cats%2F1": 1, "dogs%2F1": 2}
    else:
        files = sorted(str(path.relative_to(out / "labels")) for path in (out / "labels").rglob("*.txt"))
        assert files == ["cats/1.txt", "dogs/1.txt"]


def test_images_without_a_row_are_an_error_or_left_out(tmp_path):
    run = write_labels(str(tmp_path / "run"), "voc", {**VOC, "000008": None})
    options = {"to": "yolo", "split": "train", "out": str(tmp_path / "out")}
    with pytest.raises(DataError, match=r"1 of 4 images of split train have no pseudo labels \(000008\)"):
        run_export(run, **options, instance="label")
    done = run_export(run, **options, missing=Missing.EMPTY, instance="label")
    assert (done["images"], done["empty"], done["missing"]) == (2, 1, 1)


def test_a_run_without_labels_says_what_to_run(tmp_path):
    run = write_labels(str(tmp_path / "run"), "voc", VOC)
    instance_of(run, "label").reopen()
    with pytest.raises(RunError, match=r"label is not finished; run `weaksam label .*` first"):
        run_export(run, to="coco", split="train", out=str(tmp_path / "f"), instance="label")


@pytest.mark.parametrize(
    ("build", "reader", "to", "split"),
    [(build_voc_tree, VocDataset, "voc", "trainval"), (build_coco_tree, CocoDataset, "coco", "train2017")],
    ids=["voc", "coco"],
)
def test_true_boxes_go_out_and_come_back(tmp_path, build, reader, to, split):
    data = build(tmp_path / "VOC2007")
    recipe, _ = load_recipe("grid", [], str(data))
    run = str(tmp_path / "run")
    Run(recipe, run).bring(["index"], Options())
    run_export_true_boxes(run, name="true")
    out = tmp_path / "out"
    file = out / "annotations" / f"instances_{split}.json" if to == "coco" else out
    done = run_export(run, to=to, split=split, out=str(file), instance="true-boxes.true")
    assert "supervision: boxes" in done["text"]
    before, after = reader(str(data)), reader(str(out))
    truth, found = before.ground_truth(split), after.ground_truth(split)
    assert {image_id for image_id, objects in truth.items() if (~objects.crowd).any()} == set(found)
    assert done["boxes"] > len(found) > 0
    for image_id, objects in found.items():
        wanted = ~truth[image_id].crowd
        assert objects.boxes_xyxy.tolist() == truth[image_id].boxes_xyxy[wanted].tolist()
        assert [after.class_names[c] for c in objects.class_index] == [
            before.class_names[c] for c in truth[image_id].class_index[wanted]
        ]
    if to == "coco":
        assert after.category_ids == before.category_ids


def test_the_command_finds_the_pseudo_labels_and_their_formats(voc, tmp_path):
    def export(*arguments):
        command = ["export", voc, "--of", "label", "--split", "train", "--out", str(tmp_path / "out"), *arguments]
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, command)

    done = export("--as", "yolo")
    assert (done.exit_code, (tmp_path / "out" / "classes.txt").exists()) == (0, True)
    assert "supervision: image-labels" in done.output.replace("\n", "")
    assert "expected one of coco, coco-polygons, labelme, voc, yolo, got 'mmdet'" in str(
        export("--as", "mmdet").exception
    )
    assert "voc of pseudo-labels takes --of, --split, --out, --missing, --overwrite and --pictures, not --only" in str(
        export("--as", "voc", "--only", "ids.txt").exception
    )
