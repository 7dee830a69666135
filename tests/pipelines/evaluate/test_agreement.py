"""What is said of detectors without true boxes: by hand, and the same whatever the boxes are."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.evaluate import agreement as evaluate_agreement
from pipelines.evaluate.agreement import agreements
from pipelines.products.measured import Evaluation
from pipelines.recipe.keys import inputs_of
from pipelines.stages.detect import settings_of
from pipelines.store.schemas import DETECTIONS, detections_to_row, with_class_names
from tests.support.drawn_run import drawn_recipe, job_for, work, write_run
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.config import PseudoLabelsConfig
from weaksam.datasets.shapes import CLASS_NAMES, Shapes
from weaksam.errors import ConfigError, DataError
from weaksam.structures import Detections

TEACHER, TEACHER_VIEWS = "detect.mil", ("detect.mil-plain", "detect.mil-mirrored")
STUDENT_VIEWS = ("detect.final-plain", "detect.final-mirrored", "detect.final-smaller")
A, AWAY = (0, 0, 10, 10), (40, 40, 50, 50)


def detections(*rows, image_scores=(0.0,) * 6):
    """Of (box, class, score)."""
    return Detections(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        class_index=np.array([row[1] for row in rows], np.int64),
        score=np.array([row[2] for row in rows], np.float32),
        image_scores=np.array(image_scores, np.float32),
    )


def test_sources_are_compared_pair_by_pair_on_the_labels_and_the_images_that_both_have():
    found = {
        "one": {"a": detections((A, 0, 0.9), (AWAY, 1, 0.8)), "b": detections((A, 0, 0.9))},
        "two": {"a": detections((A, 0, 0.2)), "unlabelled": detections((A, 0, 0.2))},
        "three": {"a": detections((AWAY, 0, 0.9))},
    }
    scores = agreements(found, {"a": [0], "b": [0]}, 6, PseudoLabelsConfig())
    # Class 1 is no label of "a"; "b" is in one source only.
    assert scores == {("one", "two"): 1.0, ("one", "three"): 0.0, ("two", "three"): 0.0}


def write_detections(run, name, found):
    """Of split -> image id -> detections."""
    instance = instance_of(run, name)
    instance.begin({})
    rows = [
        detections_to_row(i, FROM_NOTHING, (64, 64), d) for split, images in found.items() for i, d in images.items()
    ]
    instance.table(with_class_names(DETECTIONS, CLASS_NAMES)).write_rows(rows, "part-0")
    instance.finish({})


def run_agreement(run, name="evaluate.agreement"):
    recipe = drawn_recipe()
    job = job_for(recipe, run, name, inputs_of(evaluate_agreement.options(recipe.of(name))))
    told = work(job)
    return told, Evaluation(job.instance).read()["agreement"]


def student_run(tmp_path):
    """A teacher and a student that agree on the labels' boxes, but for the mirrored view, which finds nothing."""
    run = str(tmp_path)
    dataset = write_run(run)
    val = {r.image_id: r for r in dataset.records("val")}
    train = {r.image_id: r for r in dataset.records("train")}

    def of(records, *, empty=False):
        return {
            i: detections(
                *([] if empty else [(A, c, 0.9) for c in r.labels_difficult]),
                image_scores=[1.0 if c in r.labels_difficult else 0.0 for c in range(6)],
            )
            for i, r in records.items()
        }

    for name in (TEACHER, "detect.final", *STUDENT_VIEWS):
        write_detections(run, name, {"val": of(val, empty=name.endswith("mirrored")), "train": of(train)})
    return run


def test_teacher_and_student_are_compared_on_held_out_images(tmp_path):
    told, measured = run_agreement(student_run(tmp_path))
    # Of teacher, plain, mirrored and smaller, the mirrored one agrees with nobody: 3 of 6 pairs are 1.
    assert measured == {
        "val": {
            "images": 4,
            "classification_map": 1.0,
            "agreement": 0.5,
            "agreement_with_teacher": pytest.approx(2 / 3),
            "agreement_of_views": pytest.approx(1 / 3),
        }
    }
    assert told["text"].startswith("val: classification map 100.0, agreement 50.0, agreement with teacher 66.7")


def test_no_coordinate_and_no_box_of_the_truth_is_read(tmp_path, monkeypatch):
    run = student_run(tmp_path)
    before = run_agreement(run)

    def refuse(*_):
        raise AssertionError("true boxes were read")

    monkeypatch.setattr(Shapes, "ground_truth", refuse)
    assert run_agreement(run) == before


def test_pseudo_labels_are_compared_with_those_of_mirror_images(tmp_path):
    run = str(tmp_path)
    dataset = write_run(run)
    records = dataset.records("train")
    plain = {r.image_id: detections(*((A, c, 0.9) for c in r.labels_difficult)) for r in records}
    half = {i: d if n % 2 else detections() for n, (i, d) in enumerate(plain.items())}
    for name, found in zip(TEACHER_VIEWS, (plain, half), strict=True):
        write_detections(run, name, {"train": found, "val": {"x": detections((A, 0, 1.0))}})
    instance_of(run, "label").finish({"thresholds": {"tau_s": 0.3, "tau_o": 0.85}})
    _, measured = run_agreement(run, "evaluate.label-agreement")
    both, one = (sum(len(d) for d in found.values()) for found in (half, plain))
    assert measured == {"train": {"images": len(records), "label_agreement": pytest.approx(2 * both / (both + one))}}


def test_without_held_out_detections_there_is_an_error(tmp_path):
    run = student_run(tmp_path)
    write_detections(run, "detect.final", {"train": {}})
    instance_of(run, "detect.final").table(DETECTIONS).remove_all()
    write_detections(run, "detect.final", {"train": {"x": detections((A, 0, 1.0))}})
    with pytest.raises(DataError, match="expected detections in held-out images, got those of train alone"):
        run_agreement(run)


def test_one_view_beside_the_teacher_agrees_with_no_other_view(tmp_path):
    recipe = drawn_recipe()
    one = {**recipe.instances["evaluate.agreement"], "views": ["detect.final-plain"]}
    recipe = recipe.model_copy(update={"instances": {**recipe.instances, "evaluate.agreement": one}})
    name = "evaluate.agreement"
    job = job_for(recipe, student_run(tmp_path), name, inputs_of(evaluate_agreement.options(recipe.of(name))))
    work(job)
    found = Evaluation(job.instance).read()["agreement"]["val"]
    assert (found["agreement_with_teacher"], found["agreement_of_views"]) == (1.0, None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("evaluate.agreement", {"views": ["detect.final-plain"] * 2}, id="one view twice"),
        pytest.param("evaluate.agreement", {"teacher": ""}, id="no teacher"),
        pytest.param("evaluate.label-agreement", {"teacher": "detect.mil"}, id="a teacher beside labels"),
    ],
)
def test_what_is_compared_are_different_views_with_a_teacher_beside_detections(name, options):
    recipe = drawn_recipe()
    changed = {**recipe.instances, name: {**recipe.instances[name], **options}}
    with pytest.raises(
        ConfigError, match=r"evaluate\.views: expected different ones, two and no teacher beside labels"
    ):
        evaluate_agreement.options(recipe.model_copy(update={"instances": changed}).of(name))


def test_a_view_is_one_scale_and_one_side():
    recipe = drawn_recipe()
    test, mirror = settings_of(recipe, "detect.final")
    assert (test, mirror) == (recipe.of("detect.final").detect, False)
    assert test.scales == recipe.retrain.test.scales
    plain, mirror = settings_of(recipe, "detect.final-plain")
    assert (plain.flip, plain.scales, mirror) == (False, recipe.retrain.test.scales, False)
    mirrored, mirror = settings_of(recipe, "detect.mil-mirrored")
    assert (mirrored.flip, mirrored.scales, mirror) == (False, recipe.detect.scales, True)
    smaller, mirror = settings_of(recipe, "detect.final-smaller")
    assert smaller.scales == tuple(round(0.75 * s) for s in recipe.retrain.test.scales)
    assert not mirror
    with pytest.raises(
        ConfigError,
        match=r"no instance detect\.final-larger; did you mean detect\.final-smaller\? Say what it reads",
    ):
        settings_of(recipe, "detect.final-larger")


@pytest.mark.parametrize(
    ("teacher", "student", "view"),
    [
        pytest.param((), (), (), id="all"),
        pytest.param(("train", "val"), (), ("train", "val"), id="all that the teacher has"),
        pytest.param(("train", "val"), ("val", "test"), ("val",), id="what both have"),
        pytest.param((), ("test",), ("test",), id="the teacher has all"),
    ],
)
def test_a_view_of_the_student_is_of_images_that_the_teacher_looked_at(teacher, student, view):
    recipe = drawn_recipe()
    retrain = replace(recipe.retrain, test=replace(recipe.retrain.test, splits=student))
    recipe = recipe.model_copy(update={"detect": replace(recipe.detect, splits=teacher), "retrain": retrain})
    assert settings_of(recipe, "detect.final-mirrored")[0].splits == view
    assert settings_of(recipe, "detect.mil-mirrored")[0].splits == teacher
    assert settings_of(recipe, "detect.final")[0].splits == student


def test_a_view_that_the_teacher_saw_nothing_of_is_an_error():
    recipe = drawn_recipe()
    retrain = replace(recipe.retrain, test=replace(recipe.retrain.test, splits=("test",)))
    recipe = recipe.model_copy(update={"detect": replace(recipe.detect, splits=("train",)), "retrain": retrain})
    with pytest.raises(
        ConfigError, match=r"final-plain\.splits: expected some of train, those of detect\.mil, got \('test',\)"
    ):
        settings_of(recipe, "detect.final-plain")
