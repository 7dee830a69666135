"""Label maps of a few pixels by hand; drawn images from table to figures; which instances are measured so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.engine.stage import Options
from pipelines.engine.voice import plain
from pipelines.evaluate.label_maps import BACKGROUND, BOUND, LARGEST_CLASS, MAPS, measure, measure_origins, text_table
from pipelines.evaluate.options import EvaluateOptions, LabelMapOptions
from pipelines.products.label_maps import LabelledMap, SeedOrigin
from pipelines.products.measured import Evaluation
from pipelines.products.superpixels import SegmentedImage
from pipelines.recipe.keys import inputs_of
from pipelines.recipe.model import load_recipe
from pipelines.registry import stage_of
from pipelines.runner import Run
from tests.support.automatic_masks import automatic_masks
from tests.support.drawn_run import drawn_recipe, job_for, with_instances, work, write_run
from tests.support.label_maps import add_painting, shifted, write_maps, write_seeds
from tests.support.sets import instance_of
from tests.support.voice import Recorder
from weaksam.datasets.label_maps import NO_MAPS, TrueLabelMaps
from weaksam.errors import DataError
from weaksam.label_maps import IGNORED

TRUTH = {"a": [[0, 0, 1, 1]], "b": [[2, 2, 2, 0]], "void": [[IGNORED] * 4]}


class Known:
    """True maps by hand."""

    image_ids = TRUTH.keys()

    def of(self, image_id: str, size_hw: tuple[int, int]) -> np.ndarray | None:
        assert size_hw == (1, 4)
        return np.array(TRUTH[image_id], np.uint8) if image_id in TRUTH else None

    def digest(self) -> str:
        return "by hand"


def image(image_id: str, *numbers: int, split: str = "train") -> LabelledMap:
    return LabelledMap(
        image_id=image_id, split=split, label_map=np.array([numbers], np.uint8), supervision="image-labels"
    )


def measured(*images: LabelledMap, truth: TrueLabelMaps | None = None, superpixels: Any = ()) -> Any:
    found = measure(images, ("cat", "dog"), lambda _: Known() if truth is None else truth, superpixels)
    return {split: {**of, "seeds": None} for split, of in found.items()}


IMAGES = [image("a", 0, 1, 1, 1), image("b", 2, 1, IGNORED, 0), image("void", 1, 1, 1, 1), image("unknown", 0, 0, 0, 0)]


def test_three_images_by_hand() -> None:
    found = measured(*IMAGES)["train"]
    assert (found["images"], found["measured"], found["undecided"]) == (4, 3, 1 / 16)
    assert found["confusion"] == [[2, 1, 0], [0, 2, 0], [1, 1, 1]]
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [MAPS, BACKGROUND, LARGEST_CLASS]
    assert rows[MAPS]["mean_iou"] == pytest.approx((2 / 4 + 2 / 4 + 1 / 3) / 3)
    assert rows[MAPS]["pixel_accuracy"] == pytest.approx(5 / 8)
    assert rows[BACKGROUND]["mean_iou"] == pytest.approx((3 / 8 + 0 + 0) / 3)
    assert rows[LARGEST_CLASS]["mean_iou"] == pytest.approx((0 + 2 / 4 + 3 / 4) / 3)
    background, cat, dog = found["classes"]
    assert [of["name"] for of in (background, cat, dog)] == ["background", "cat", "dog"]
    assert (cat["pixels"], cat["iou"], cat["precision"], cat["recall"]) == (2, 0.5, 0.5, 1.0)
    assert (dog["pixels"], dog["iou"]) == (3, pytest.approx(1 / 3))
    # Of b: background 1 of 2, dog 1 of 3, cat 0 of 1. The image of void alone has no figure, nor has the unknown one.
    assert [one["image_id"] for one in found["worst"]] == ["b", "a"]
    assert found["worst"][0]["mean_iou"] == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_seeds_stand_beside_their_superpixels_of_their_true_class() -> None:
    halves = automatic_masks([np.array([of], np.bool_) for of in ([1, 1, 1, 0], [0, 0, 0, 1])], size_hw=(1, 4))
    superpixels = [
        SegmentedImage(image_id=image_id, split=split, masks=halves)
        for image_id, split in (("a", "train"), ("elsewhere", "train"), ("unknown", "train"), ("b", "val"))
    ]
    rows = measured(*IMAGES[:1], superpixels=superpixels)["train"]["rows"]
    assert [row["name"] for row in rows] == [MAPS, BACKGROUND, LARGEST_CLASS, BOUND]
    assert rows[3]["pixel_accuracy"] == 0.75  # of 0 0 1 1, the first mask is background and the second cat
    assert rows[3]["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_figures_are_told_by_what_makes_a_class_hard() -> None:
    found = measured(*IMAGES)["train"]["conditions"]
    told = {(of["condition"], of["group"]): (of["pairs"], of["mean_iou"]) for of in found if of["pairs"]}
    assert told == {
        ("classes in the image", "1"): (2, pytest.approx((2 / 3 + 1 / 3) / 2)),  # cat in a, dog in b
        ("elongation", "1.5 to 3"): (1, pytest.approx(2 / 3)),
        ("elongation", "3 or more"): (1, pytest.approx(1 / 3)),
        ("contact", "apart from other classes"): (2, pytest.approx((2 / 3 + 1 / 3) / 2)),
    }


def test_a_split_without_true_maps_is_counted_and_not_measured() -> None:
    found = measured(*IMAGES, truth=NO_MAPS)["train"]
    assert (found["images"], found["measured"], found["rows"], found["worst"]) == (4, 0, [], [])
    assert "4 images, no true maps; undecided pixels 6.2 %" in text_table("train", found).title


def test_splits_are_apart() -> None:
    found = measured(image("a", 0, 0, 1, 1), image("b", 0, 0, 0, 0, split="val"))
    assert [(split, of["rows"][0]["mean_iou"]) for split, of in found.items()] == [("train", 1.0), ("val", 0.125)]


def test_a_class_that_occurs_nowhere_has_no_figure_and_no_line() -> None:
    found = measured(image("a", 0, 0, 1, 1))["train"]
    assert [of["iou"] for of in found["classes"]] == [1.0, 1.0, None]
    assert [plain(row[0]).strip() for row in text_table("train", found).rows][3:] == ["background", "cat"]


def test_a_number_of_no_class_is_an_error_with_the_image() -> None:
    with pytest.raises(DataError, match=r"image a: expected numbers of classes 0\.\.2 and 255, got 9"):
        measured(image("a", 9, 0, 0, 0))


def test_what_seeds_were_painted_of_is_told_by_split() -> None:
    origins = [
        SeedOrigin(split="train", superpixels=4, coverage=0.75, fallback=False),
        SeedOrigin(split="train", superpixels=0, coverage=0.0, fallback=True),
        SeedOrigin(split="val", superpixels=1, coverage=1.0, fallback=False),
    ]
    assert measure_origins(origins) == {
        "train": {"superpixels": 2.0, "coverage": 0.375, "fallbacks": 1},
        "val": {"superpixels": 1.0, "coverage": 1.0, "fallbacks": 0},
    }
    found = {**measured(*IMAGES)["train"], "seeds": measure_origins(origins)["train"]}
    assert text_table("train", found).title.endswith("; 2.0 superpixels an image on 37.5 % of it, 1 images without any")


@pytest.mark.parametrize("pixels", [0, 5])
def test_drawn_images_from_table_to_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    add_painting(monkeypatch)
    run, voice = str(tmp_path), Recorder()
    dataset = write_run(run)
    maps = [of for split in dataset.splits for of in shifted(dataset, split, pixels)]
    write_seeds(run, "paint-seeds", maps, dataset.class_names)
    recipe = with_instances(drawn_recipe(), evaluate_mine={"of": "paint-seeds"})
    said = work(job_for(recipe, run, "evaluate.mine", ("paint-seeds",), voice))
    content = Evaluation(instance_of(run, "evaluate.mine")).read()
    assert content["class_names"] == list(dataset.class_names)
    train, val = (content["label_maps"][split] for split in ("train", "val"))
    assert (train["measured"], val["measured"]) == (6, 4)
    assert np.sum(train["confusion"]) == 6 * 64 * 64
    assert train["seeds"] == {"superpixels": pytest.approx(10 / 6), "coverage": pytest.approx(2.5 / 6), "fallbacks": 1}
    own, background, largest = (row["mean_iou"] for row in train["rows"])
    assert (own == 1.0) == (pixels == 0)
    assert own > max(background, largest)
    assert said["text"].startswith("train: mean IoU ")
    assert said["supervision"] == "image-labels"


def test_maps_of_true_masks_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_painting(monkeypatch)
    run = str(tmp_path)
    dataset = write_run(run)
    write_maps(run, "paint", shifted(dataset, "train", 3), dataset.class_names, supervision="masks")
    recipe = with_instances(drawn_recipe(), evaluate_mine={"of": "paint"})
    assert work(job_for(recipe, run, "evaluate.mine", ("paint",)))["text"].endswith("supervision: masks")
    assert Evaluation(instance_of(run, "evaluate.mine")).read()["label_maps"]["train"]["seeds"] is None


def test_label_maps_are_measured_by_true_label_maps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    add_painting(monkeypatch)
    stage = stage_of("evaluate")
    recipe = with_instances(drawn_recipe(), evaluate_mine={"of": "paint"}).of("evaluate.mine")
    options = stage.options(recipe, "evaluate.mine")
    assert isinstance(options, LabelMapOptions)
    assert set(inputs_of(options)) == {"paint"}
    assert stage.measures_by_true_label_maps(recipe)
    assert not stage.measures_by_true_boxes(recipe)
    assert not stage.measures_by_true_masks(recipe)
    of_seeds = stage.options(drawn_recipe().of("evaluate.seeds"), "evaluate.seeds")
    assert set(inputs_of(of_seeds)) == {"seeds", "superpixels"}
    of_proposals = drawn_recipe().of("evaluate.proposals")
    assert isinstance(stage.options(of_proposals, "evaluate.proposals"), EvaluateOptions)
    assert stage.measures_by_true_boxes(of_proposals)
    assert not stage.measures_by_true_label_maps(of_proposals)


def test_a_run_measures_and_shows_what_a_stage_of_another_package_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_painting(monkeypatch)
    settings = [
        "data.shapes={size: 64, train: 4, val: 2, test: 0}", "instances={evaluate.mine: {of: paint}}",
        "stages=[index, paint, evaluate.mine, report]",
    ]  # fmt: skip
    recipe, _ = load_recipe("grid", settings, "shapes:")
    run, voice = Run(recipe, str(tmp_path)), Recorder()
    manifests = run.bring(list(recipe.stages), Options(), voice)
    assert manifests["index"]["true_label_maps"] == {"train": 4, "val": 2}
    assert manifests["index"]["truth"].keys() == {"train", "val"}  # which the page draws
    assert [line.split("  ")[0] for line in voice.lines if line.startswith(("label maps", "background alone"))] == [
        "label maps", "background alone",
    ] * 2  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert '<section id="label-maps"' in page
    assert "4 of 4 images with a true map" in page
    again = Run(recipe, str(tmp_path)).bring(list(recipe.stages), Options())
    assert {name: of["finished"] for name, of in again.items()} == {
        name: of["finished"] for name, of in manifests.items()
    }
