"""Fig. 6: by hand on boxes and features, then whole on drawn images with a detector that learnt nothing yet."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.analyse import stage as analyse
from pipelines.analyse.similarity import drawn_boxes, grey_png, pooled_features, source_sets, verdict
from pipelines.engine.voice import SILENT
from pipelines.products.index import in_hash_order
from pipelines.products.measured import Analysis
from pipelines.products.proposals import ProposalTable
from pipelines.recipe.config import AnalyseConfig, DetectStageConfig, TrainMilConfig
from tests.support.drawn_run import drawn_recipe, job_for, work, write_run
from tests.support.sets import instance_of
from tests.support.tolerances import assert_near, roundings_in
from tests.support.voice import Recorder
from weaksam.config import PromptsConfig, Weights
from weaksam.detectors.loading import build_detector, detector_to_bytes
from weaksam.detectors.mil.samples import scaled
from weaksam.errors import DataError

MIL = TrainMilConfig(backbone="small", init=Weights("builtin:stem"), scales=(64,), min_box_side=4, freeze_stages=0)
DETECT = DetectStageConfig(scales=(64, 96), max_side=128)


def row(boxes, sources, image_id="a"):
    return {"image_id": image_id, "boxes_xyxy": boxes, "source": sources}


def test_all_sources_come_first_then_each_alone_in_the_methods_order():
    assert source_sets(["whole-image", "cross", "grid", "cross"]) == {
        "all": {"whole-image", "cross", "grid"}, "grid": {"grid"}, "cross": {"cross"}, "whole-image": {"whole-image"},
    }  # fmt: skip
    assert source_sets([]) == {"all": frozenset()}


def test_boxes_are_those_of_the_sources_that_the_detector_is_fed_with():
    boxes = [(0, 0, 9, 9), (5, 5, 15, 15), (0, 0, 9, 9), (1, 1, 3, 9), (-4, 0, 9, 9)]
    grid_and_fine = row(boxes, ["grid", "fine", "grid", "grid", "grid"])
    # The duplicate goes, and so does the box 2 pixels wide; one that equals another only once it is cut to the image stays.
    found = drawn_boxes(grid_and_fine, frozenset(["grid"]), (20, 20), 4)
    assert found.tolist() == [[0, 0, 9, 9], [0, 0, 9, 9]]
    assert drawn_boxes(grid_and_fine, frozenset(["grid", "fine"]), (20, 20), 4).shape == (3, 4)
    assert drawn_boxes(grid_and_fine, frozenset(["cross"]), (20, 20), 4).shape == (0, 4)


def test_of_many_boxes_200_are_drawn_by_the_image_id_in_their_order():
    boxes = [(n % 30, n // 30, n % 30 + 10, n // 30 + 10) for n in range(300)]
    first, again, other = (
        drawn_boxes(row(boxes, ["grid"] * 300, image_id), frozenset(["grid"]), (50, 50), 1) for image_id in "aab"
    )
    assert first.shape == (200, 4)
    assert len(np.unique(first, axis=0)) == 200
    places = [boxes.index(tuple(box)) for box in first.astype(int).tolist()]
    assert places == sorted(places)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(MIL, 6).eval()


def test_features_are_the_pooled_ones_of_each_set(detector):
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    boxes = {"all": np.float32([(0, 0, 30, 30), (10, 5, 60, 40)]), "cross": np.zeros((0, 4), np.float32)}
    found = pooled_features(detector, image, boxes, 64, 128)
    body = detector.body
    assert {name: tuple(f.shape) for name, f in found.items()} == {
        "all": (2, body.channels * body.pool_size**2), "cross": (0, body.channels * body.pool_size**2),
    }  # fmt: skip
    # The first scale, 64, is the shorter side: 64 / 48 = 4/3, and 85.33 is rounded to 85 columns, padded to 96.
    pixels, corners = scaled(image, boxes["all"], 64, 128)
    padded = torch.zeros(1, 3, 64, 96)
    padded[0, :, :, :85] = body.normalise(pixels)
    with torch.no_grad():
        expected = body.pool(body.features(padded), torch.from_numpy(corners), torch.zeros(2, dtype=torch.int64))
    assert_near(found["all"], expected.flatten(1), length=roundings_in(body.stem))


def test_a_matrix_is_a_grey_picture():
    picture = Image.open(io.BytesIO(grey_png(np.float32([[1, -0.5], [0.4, 1]]))))
    assert np.asarray(picture).tolist() == [[255, 0], [102, 255]]


@pytest.fixture
def run(tmp_path, detector):
    dataset = write_run(str(tmp_path))
    trained = instance_of(str(tmp_path), "train-mil")
    trained.begin({})
    (tmp_path / "train-mil" / "k" / "detector.safetensors").write_bytes(
        detector_to_bytes(detector, dataset.class_names)
    )
    trained.finish({})
    return str(tmp_path)


def recipe(**changes):
    return drawn_recipe(mil=MIL, detect=DETECT, analyse=AnalyseConfig(similarity_images=3), **changes)


def execute(run, recipe, voice=SILENT):
    job = job_for(recipe, run, "analyse.similarity", ("index", "propose", "train-mil"), voice)
    return work(job), Analysis(job.instance).read()


def test_the_stage_compares_the_first_images_of_the_training_split(run, tmp_path):
    voice = Recorder()
    manifest, found = execute(run, recipe(), voice)
    ids = [r["image_id"] for r in ProposalTable(instance_of(run, "propose")).table.iter_rows() if r["split"] == "train"]
    assert found["images"] == in_hash_order(ids)[:3]
    rows = {r["name"]: r for r in found["rows"]}
    assert list(rows) == ["all", "grid", "fine", "coarse", "cross"]
    # The drawn run has one box of "cross" in each image, and none of "coarse".
    assert rows["cross"]["values"] == dict.fromkeys(found["images"])
    assert (rows["cross"]["mean"], rows["cross"]["proposals"]) == (None, 1.0)
    assert (rows["coarse"]["mean"], rows["coarse"]["proposals"]) == (None, 0.0)
    values = list(rows["all"]["values"].values())
    assert all(-1 <= value < 1 for value in values)
    assert rows["all"]["mean"] == pytest.approx(sum(values) / 3)
    assert rows["all"]["spread"] == pytest.approx(max(values) - min(values))
    picture = np.asarray(Image.open(tmp_path / "analyse.similarity" / "k" / "similarity-all.png"))
    assert picture.shape[0] == picture.shape[1] > 2
    assert (picture.diagonal() >= 254).all()
    assert not (tmp_path / "analyse.similarity" / "k" / "similarity-cross.png").exists()
    assert manifest["text"] == f"3 images of train: mean cosine similarity {rows['all']['mean']:.3f}"
    assert "coarse" in voice.text
    assert execute(run, recipe())[1] == found


def test_only_the_detectors_sources_are_compared(run):
    narrowed = recipe().model_copy(update={"mil": replace(MIL, proposal_sources=("cross", "fine"))})
    _, found = execute(run, narrowed)
    assert [r["name"] for r in found["rows"]] == ["all", "fine", "cross"]


def test_nothing_to_compare_is_said():
    row = {"name": "all", "proposals": 1.0, "values": {"a": None}, "mean": None, "spread": None}
    assert verdict({"split": "val", "images": ["a"], "rows": [row]}) == "1 images of val: no two proposals to compare"


def test_a_split_without_proposals_is_refused(run):
    with pytest.raises(DataError, match="no image of split 'test'"):
        execute(run, recipe().model_copy(update={"analyse": AnalyseConfig(split="test")}))


def test_keys_follow_what_each_label_reads():
    base, prompts = recipe(), "analyse.prompts"
    more = base.model_copy(update={"analyse": AnalyseConfig(similarity_images=4)})
    other_prompts = base.model_copy(update={"prompts": PromptsConfig(points_per_side=5)})
    similarity = "analyse.similarity"

    def reads(recipe, name):
        return analyse.STAGE.reads(analyse.STAGE.options(recipe.of(name), name))

    def method(recipe, name):
        return analyse.STAGE.method(analyse.STAGE.options(recipe.of(name), name))

    assert reads(base, similarity) == ("index", "propose", "train-mil")
    assert reads(base, prompts) == ("index", "propose")
    assert method(base, prompts) == method(more, prompts)
    assert method(base, similarity) != method(more, similarity)
    assert method(base, similarity) == method(other_prompts, similarity)


def test_given_weights_need_no_training(tmp_path, run):
    weights = str(tmp_path / "train-mil" / "k" / "detector.safetensors")
    given = recipe().model_copy(update={"mil": replace(MIL, weights=Weights(weights))})
    name, stage = "analyse.similarity", analyse.STAGE
    assert stage.reads(stage.options(given.of(name), name)) == ("index", "propose")
    assert stage.contents(stage.options(given.of(name), name)).keys() == {"about.weights"}
    assert stage.contents(stage.options(recipe().of(name), name)) == {}
    job = job_for(given, run, "analyse.similarity", ("index", "propose"))
    work(job)
    assert Analysis(job.instance).read() == execute(run, recipe())[1]
