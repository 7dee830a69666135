"""Predictions of detectors with random weights, in this process: held against the detector called by hand, and read back."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner, Result

from pipelines.cli import app as cli
from pipelines.predict.predictor import predictor_of
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.registry import product_of
from pipelines.store.files import write_bytes
from pipelines.training.trained import Trained
from tests.support.s3_server import s3_server
from tests.support.sets import instance_of
from tests.support.trees import build_voc_tree
from weaksam.clues.loading import build_classifier, classifier_to_bytes
from weaksam.detectors.inference import detect_alone
from weaksam.detectors.loading import build_detector, build_retrained, detector_to_bytes, load_retrained
from weaksam.errors import ConfigError, DataError, RunError
from weaksam.io.files import join
from weaksam.io.images import decode_image

CLASSES = ("cat", "a & b")
RECIPE = """
base: small.yaml
name: taught
stages: [index, train-classifier, propose, train-mil, detect.mil, label, retrain, detect.final, detect.final-mirrored, report]
data: {uri: /gone, kind: voc, splits: [trainval], limit: 3}
propose: {splits: [trainval]}
selective_search: {max_boxes: 20}
mil: {init: "", scales: [64], detector: {name: oicr}}
detect: {scales: [64], splits: [trainval], nms_iou: 0.9}
retrain:
  init: ""
  scales: [64]
  detector: {anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 16, proposals: 20}
  test: {scales: [64], splits: [trainval]}
resources: {here: true, threads_per_actor: 1}
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("predictions") as uri:
        yield uri


@pytest.fixture
def taught(tmp_path: Path) -> str:
    """A run whose trainings are finished, with random weights."""
    return teach(str(tmp_path / "taught"))


def teach(run: str) -> str:
    write_bytes(join(run, "recipe.yaml"), RECIPE.encode())
    recipe = load_recipe(join(run, "recipe.yaml"))[0]
    torch.manual_seed(0)
    classifier = build_classifier(recipe.clues.source, len(CLASSES))
    mil, retrained = build_detector(recipe.mil, len(CLASSES)), build_retrained(recipe.retrain, len(CLASSES))
    weights = {
        "train-classifier": classifier_to_bytes(classifier, CLASSES),
        "train-mil": detector_to_bytes(mil, CLASSES),
        "retrain": detector_to_bytes(retrained, CLASSES, "boxes"),
    }
    for name, data in weights.items():
        training = product_of(instance_of(run, name))
        assert isinstance(training, Trained)
        training.instance.begin({})
        training.write_weights(data)
        training.instance.finish({"text": "by hand"})
    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder and one without a suffix of JPEG."""
    folder = tmp_path / "photos"
    for n, name in enumerate(("a.jpg", "b c.png", "sub/a.jpg")):
        draw(folder / name, n)
    return folder


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(path)


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)], catch_exceptions=False)


def test_boxes_are_those_that_the_detector_finds(taught: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = predict(taught, "--data", photos, "--out", out, "--score", "0.3")
    assert done.exit_code == 0, done.output
    recipe = load_recipe(f"{taught}/recipe.yaml")[0]
    detector = load_retrained(Trained(instance_of(taught, "retrain")).weights_uri, recipe.retrain)[0]
    read = COCO(str(out / "coco" / "all.json"))
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == list(CLASSES)
    assert read.dataset["info"]["supervision"] == "boxes"
    names = {image["file_name"]: image["id"] for image in read.dataset["images"]}
    assert set(names) == {"a.jpg", "b c.png", "sub/a.jpg"}
    boxes = 0
    for name, number in names.items():
        expected = detect_alone(detector, decode_image((photos / name).read_bytes()))
        best_first = np.argsort(-expected.score, kind="stable")[: int((expected.score >= 0.3).sum())]
        found = read.imgToAnns[number]
        assert [one["category_id"] - 1 for one in found] == expected.class_index[best_first].tolist()
        assert [one["score"] for one in found] == pytest.approx(expected.score[best_first].tolist(), abs=1e-4)
        for one, box in zip(found, expected.boxes_xyxy[best_first], strict=True):
            assert one["bbox"] == pytest.approx([*box[:2], *(box[2:] - box[:2])], abs=1e-2)
        boxes += len(found)
    assert boxes > 0
    assert f"images 3 (0 without a box) · boxes {boxes} that score 0.3 or more" in done.output


def test_pictures_show_the_boxes(taught: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(taught, "--data", photos, "--out", out).exit_code == 0
    drawn = {str(path.relative_to(out / "pictures")) for path in (out / "pictures").rglob("*.jpg")}
    assert drawn == {"a.jpg", "b c.png.jpg", "sub/a.jpg"}
    before, after = (Image.open(folder / "a.jpg") for folder in (photos, out / "pictures"))
    assert (before.size, after.size) == ((80, 60), (640, 480))  # where there is room for captions
    assert np.abs(np.asarray(after, int) - np.asarray(before.resize(after.size), int)).max() > 100
    done = predict(taught, "--data", photos, "--out", out, "--pictures", "1")
    assert "1 pictures with their boxes that score 0.3 or more of 3; --pictures 3 draws all" in done.output
    assert len(list((out / "pictures").rglob("*.jpg"))) == 1
    (out / "pictures" / "mine.txt").touch()
    assert predict(taught, "--data", photos, "--out", out, "--pictures", "0").exit_code == 0
    assert (out / "pictures" / "mine.txt").exists()


def test_voc_and_yolo_are_read_by_their_own_rules(taught: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "supervision" not in predict(taught, "--data", photos, "--out", out, "--as", "voc").output
    objects = ElementTree.parse(out / "voc" / "Annotations" / "sub%2Fa.xml").getroot().findall("object")
    done = predict(taught, "--data", photos, "--out", out, "--as", "yolo")
    assert "detect train" not in done.output
    lines = [line.split() for line in (out / "yolo" / "labels" / "sub" / "a.txt").read_text().splitlines()]
    assert [one.findtext("name") for one in objects] == [CLASSES[int(line[0])] for line in lines] != []
    for one, (_, *shares) in zip(objects, lines, strict=True):
        x, y, w, h = np.array(shares, float) * (80, 60, 80, 60)
        corners = [float(one.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
        assert corners == pytest.approx([x - w / 2 + 1, y - h / 2 + 1, x + w / 2, y + h / 2], abs=1)
    picture = out / "yolo" / "images" / "sub" / "a.jpg"
    assert picture.resolve() == (photos / "sub" / "a.jpg").resolve()
    assert "pictures copied 3" in predict(taught, "--data", photos, "--out", out, "--as", "yolo", "--copy").output
    assert not picture.is_symlink()


@pytest.mark.parametrize(
    ("to", "file"),
    [("coco", "all.json"), ("voc", "Annotations/a.xml"), ("yolo", "labels/a.txt"), ("labelme", "a.json")],
)
def test_what_was_corrected_by_hand_is_never_replaced(
    taught: str, photos: Path, tmp_path: Path, to: str, file: str
) -> None:
    out = tmp_path / "out"
    command = (taught, "--data", photos, "--out", out, "--as", to)
    assert predict(*command).exit_code == 0
    assert "replaced" in predict(*command).output
    corrected = out / to / file
    before = {path: path.read_bytes() for path in (out / to).rglob("*") if path.is_file() and path != corrected}
    corrected.write_text("mine")
    said = refused(*command)
    assert f"1 of the files of an earlier export of split all as {to} were changed since" in said
    assert f"{file})" in said
    assert corrected.read_text() == "mine"
    assert before == {path: path.read_bytes() for path in (out / to).rglob("*") if path.is_file() and path != corrected}
    corrected.rename(tmp_path / "kept")
    assert predict(*command).exit_code == 0
    assert corrected.read_text() != "mine"


@pytest.mark.parametrize("to", ["voc", "yolo", "labelme"])
def test_each_of_several_splits_gets_its_folder(taught: str, tmp_path: Path, to: str) -> None:
    for split in ("train", "val"):
        draw(tmp_path / "data" / split / "a.jpg", 0)
    out = tmp_path / "out"
    done = predict(taught, "--data", tmp_path / "data", "--out", out, "--as", to)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (out / to).iterdir()) == ["train", "val"]
    drawn = sorted(str(path.relative_to(out / "pictures")) for path in (out / "pictures").rglob("*.jpg"))
    assert [name.split("/")[0] for name in drawn] == ["train", "val"]


def test_a_file_of_somebody_else_is_never_replaced(taught: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "coco").mkdir(parents=True)
    mine = tmp_path / "out" / "coco" / "all.json"
    mine.write_text("mine")
    assert "(such as coco/all.json)" in refused(taught, "--data", photos, "--out", tmp_path / "out")
    assert mine.read_text() == "mine"


def test_that_there_are_no_polygons_without_masks_is_told(taught: str, photos: Path, tmp_path: Path) -> None:
    done = predict(taught, "--data", photos, "--out", tmp_path / "out", "--as", "coco-polygons")
    assert "no object has a mask, so there are no polygons" in done.output


def test_a_picture_that_cannot_be_read_is_counted_and_costs_no_other(taught: str, photos: Path, tmp_path: Path) -> None:
    for name in ("torn.jpg", "empty.png"):
        (photos / name).write_bytes(b"\xff\xd8 torn" if name == "torn.jpg" else b"")
    command = (taught, "--data", photos, "--out", tmp_path / "out")
    result = CliRunner().invoke(cli.app, ["predict", *map(str, command)])
    assert "images 3 (0 without a box, 2 dropped)" in result.output
    assert "what was found in all other pictures is written" in result.output
    assert "2 of 5 images were dropped, 1 are allowed" in str(result.exception)
    listed = CliRunner().invoke(cli.app, ["dropped", str(tmp_path / "out")])
    assert "torn.jpg" in listed.output
    assert "empty.png" in listed.output
    assert predict(*command, "--max-dropped", "2").exit_code == 0


def test_new_pictures_alone_are_looked_at(taught: str, photos: Path, tmp_path: Path) -> None:
    command = (taught, "--data", photos, "--out", tmp_path / "out")
    assert "3 of 3 images to do" in predict(*command).output
    assert "is finished" in predict(*command).output
    draw(photos / "later.jpg", 9)
    done = predict(*command)
    assert "1 of 4 images to do" in done.output
    assert "images 4 (0 without a box) · boxes" in done.output


def test_what_a_data_set_says_of_its_pictures_is_not_read(taught: str, tmp_path: Path) -> None:
    data = build_voc_tree(tmp_path / "voc", {"trainval": 2, "test": 1})
    command = ("--data", data, "--out", tmp_path / "labelled")
    done = predict(taught, *command)
    assert done.exit_code == 0, done.output
    assert {path.stem for path in (tmp_path / "labelled" / "coco").iterdir()} == {"trainval", "test"}
    for path in (data / "Annotations").iterdir():
        for name in ("xmin", "ymin", "xmax", "ymax"):
            path.write_text(path.read_text().replace(f"<{name}>", f"<{name}>{random.randint(1, 9)}"))
    again = predict(taught, *command)
    assert "is finished" in again.output
    assert "to do" not in again.output


def test_a_weakly_supervised_detector_scores_proposals_of_the_new_pictures(
    taught: str, photos: Path, tmp_path: Path
) -> None:
    set_values = ("--set", "propose.method=selective-search", "--set", "retrain.lr=0.5")
    done = predict(
        taught, "--data", photos, "--out", tmp_path / "out", "--of", "detect.mil", *set_values, "--score", "0"
    )
    assert done.exit_code == 0, done.output
    assert "propose" in done.output
    assert done.output.count("changes nothing") == 1
    assert "--set retrain.lr=0.5 changes nothing" in done.output
    assert json.loads((tmp_path / "out" / "coco" / "all.json").read_text())["annotations"]


def test_the_clues_are_those_of_the_run(taught: str, photos: Path) -> None:
    recipe, name = predictor_of(taught, str(photos), "detect.mil")
    assert (name, recipe.stages) == ("detect.mil", ("index", "propose", "detect.mil"))
    assert recipe.of("propose").clues.weights.uri == Trained(
        instance_of(taught, "train-classifier")
    ).weights_uri.replace("detector", "classifier")
    assert recipe.of("propose").propose.splits == recipe.of(name).detect.splits == ()
    assert recipe.data.pictures_only
    assert (recipe.data.kind, recipe.data.splits, recipe.data.limit) == ("auto", (), 0)


def test_both_may_lie_in_a_bucket(bucket: str, photos: Path) -> None:
    run, data, out = (join(bucket, name) for name in ("taught", "photos", "out"))
    teach(run)
    fs = fsspec.filesystem("s3")
    fs.put(f"{photos}/", f"{data}/", recursive=True)
    done = predict(run, "--data", data, "--out", out)
    assert done.exit_code == 0, done.output
    assert len(json.loads(fs.cat_file(join(out, "coco", "all.json")))["images"]) == 3
    assert fs.exists(join(out, "pictures", "sub", "a.jpg"))


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, ["predict", *map(str, arguments)])
    assert isinstance(result.exception, ConfigError | DataError | RunError), result.output
    return str(result.exception)


def test_what_cannot_be_is_told(taught: str, photos: Path, tmp_path: Path) -> None:
    data = ("--data", photos)
    assert "that of the run that trained the detector" in refused(taught, *data, "--out", taught)
    other = teach(str(tmp_path / "other"))
    assert "that of another run" in refused(taught, *data, "--out", other)
    assert "expected one of coco, coco-polygons, labelme, voc, yolo, got 'csv'" in refused(taught, *data, "--as", "csv")
    assert "expected an instance of detect or predict-maps, got 'label'" in refused(taught, *data, "--of", "label")
    assert "did you mean detect.mil?" in refused(taught, *data, "--of", "detect.mill")
    assert "expected a run folder, as --out names it, found no recipe.yaml in it" in refused(
        tmp_path / "nowhere", *data
    )
    write_bytes(f"{other}/retrain/current", b"k2 whole\n")
    assert "retrain is not finished; run `weaksam retrain" in refused(other, *data, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def changed(taught: str, *lines: str) -> Recipe:
    text = RECIPE
    for line in lines:
        old, new = line.split(" -> ")
        assert old in text
        text = text.replace(old, new)
    write_bytes(f"{taught}/recipe.yaml", text.encode())
    return load_recipe(f"{taught}/recipe.yaml")[0]


def test_a_run_without_a_detector_and_one_whose_proposals_came_from_a_file_are_told(taught: str, photos: Path) -> None:
    changed(taught, "detect.mil, label, retrain, detect.final, detect.final-mirrored -> label")
    assert "lists an instance of detect or predict-maps, its recipe has the stages index, train-classifier" in refused(
        taught, "--data", photos
    )
    changed(taught, "mil: {init -> mil: {proposals: [import.ss], init")
    told = refused(taught, "--data", photos, "--of", "detect.mil")
    assert "detect.mil scores import.ss" in told
    assert "--set detect.mil.proposals=[propose]" in told
    recipe, _ = predictor_of(taught, str(photos), "detect.mil", ["detect.mil.proposals=[propose]"])  # as it says
    assert recipe.stages == ("index", "propose", "detect.mil")


@pytest.mark.parametrize("score", ["0.999999"])
def test_where_no_box_scores_enough_the_best_is_told(taught: str, photos: Path, tmp_path: Path, score: str) -> None:
    done = predict(taught, "--data", photos, "--out", tmp_path / "out", "--score", score)
    assert "no box scores 0.999999; the best scores 0." in done.output
