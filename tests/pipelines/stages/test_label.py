"""The label stage on tables by hand, and what it must have in common with the pure selection."""

from dataclasses import asdict

import numpy as np
import pytest

from pipelines.engine.stage import Options
from pipelines.products.index import Index
from pipelines.recipe.config import LabelConfig
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.stages import label
from pipelines.store.schemas import DETECTIONS, IMAGES, PSEUDO_LABELS, detections_to_row, with_class_names
from tests.support.drawn_run import job_for, work
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.config import PseudoLabelsConfig
from weaksam.errors import DataError
from weaksam.pseudo_labels.boxes import pseudo_ground_truth
from weaksam.structures import Detections

CLASSES = ("cat", "dog", "eel")
SMALL, LARGE, AWAY = (0, 0, 10, 10), (0, 0, 20, 20), (50, 50, 60, 60)


def recipe(**changes):
    config = LabelConfig(**changes)
    return Recipe(name="r", stages=("index", "label"), pseudo_labels=config)


def detections(*rows):
    """Detections from rows of (box, class, score)."""
    return Detections(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        class_index=np.array([row[1] for row in rows], np.int64),
        score=np.array([row[2] for row in rows], np.float32),
        image_scores=np.zeros(3, np.float32),
    )


def write_run(run, images, parts, *, granted="train"):
    """Write finished ``index`` and ``detect.mil``: (id, split, labels) of images, and (id, split, detections) by file."""
    index = instance_of(run, "index")
    index.begin({})
    rows = [
        {
            "image_id": i,
            "uri": f"/nowhere/{i}.jpg",
            "split": split,
            "content": "",
            "labels": [],
            "labels_difficult": labels,
        }
        for i, split, labels in images
    ]
    index.table(with_class_names(IMAGES, CLASSES)).write_rows(rows, "part-0")
    index.finish({"kind": "voc", "labels_granted_to": granted})
    detect = instance_of(run, "detect.mil")
    detect.begin({})
    for n, part in enumerate(parts):
        rows = [detections_to_row(i, FROM_NOTHING, (100, 200), found) for i, split, found in part]
        detect.table(with_class_names(DETECTIONS, CLASSES)).write_rows(rows, f"part-{n}")
    detect.finish({})


def test_open_thresholds_are_chosen_from_all_parts_of_the_table_and_told(tmp_path):
    write_run(str(tmp_path), IMAGE_ROWS, PARTS)
    manifest, rows = run_label(str(tmp_path), tau_s="auto", tau_o="auto")
    # Normalised scores of the labels: 1, 2/3, 0 and 1 in "a", 1 in "b": parted between 0 and 2/3. SMALL lies whole in LARGE,
    # the only box that is covered at all.
    assert manifest["thresholds"] == {"tau_s": pytest.approx(1 / 3), "tau_o": 0.85}
    assert manifest["text"].endswith("chosen: tau_s 0.333, tau_o 0.85")
    plain, same = run_label(str(tmp_path), tau_s=manifest["thresholds"]["tau_s"])
    assert rows == same
    assert "chosen" not in plain["text"]


def run_label(run, *, afresh=True, **changes):
    """Its rows lie under the same key whatever is changed: ``afresh`` removes those of before."""
    granted = Index(instance_of(run, "index")).granted_split
    table = instance_of(run, "label").table(PSEUDO_LABELS)
    if afresh:
        table.remove_all()
    manifest = work(job_for(recipe(**changes), run, "label", ("index", "detect.mil"), splits=(granted,)))
    return manifest, {row["image_id"]: row for row in table.iter_rows()}


IMAGE_ROWS = [
    ("a", "train", [0, 1]),
    ("b", "train", [2]),
    ("c", "train", None),
    ("d", "train", []),
    ("e", "train", [0]),
    ("t", "test", None),
]
PARTS = [
    [
        ("a", "train", detections((SMALL, 0, 1.0), (LARGE, 0, 0.75), (AWAY, 0, 0.25), (AWAY, 1, 0.5), (AWAY, 2, 1.0))),
        ("t", "test", detections((SMALL, 0, 1.0))),
    ],
    [("t2", "test", detections())],
    [
        ("b", "train", detections((AWAY, 0, 0.5))),
        ("c", "train", detections((AWAY, 0, 0.5))),
        ("d", "train", detections()),
    ],
]


@pytest.fixture
def run(tmp_path):
    write_run(str(tmp_path), IMAGE_ROWS, PARTS)
    return str(tmp_path)


def test_the_rows_of_the_labelled_split_by_hand(run):
    manifest, rows = run_label(run)
    assert list(rows) == ["a", "b", "c", "d"]
    a = rows["a"]
    assert (a["input"], a["size_hw"], a["supervision"], a["noise"]) == (FROM_NOTHING, [100, 200], "image-labels", None)
    assert a["boxes_xyxy"] == [list(LARGE), list(AWAY)]
    assert (a["class_index"], a["score"]) == ([0, 1], [0.75, 0.5])
    assert a["score_normalised"] == pytest.approx([2 / 3, 1])
    assert a["rejected"] == [
        {"box_xyxy": list(SMALL), "class_index": 0, "score": 1.0, "reason": "covered"},
        {"box_xyxy": list(AWAY), "class_index": 0, "score": 0.25, "reason": "low score"},
        {"box_xyxy": list(AWAY), "class_index": 2, "score": 1.0, "reason": "not an image label"},
    ]
    for image_id, rejected in (("b", 1), ("c", 1), ("d", 0)):
        assert (rows[image_id]["boxes_xyxy"], len(rows[image_id]["rejected"])) == ([], rejected)
    assert manifest["text"] == (
        "images 4 = done 4 + dropped 0 · duplicates 0 · never detected in 1 · boxes 2, 0.50 an image · "
        "without any box 3 (2 without labels) · rejected: not an image label 3, low score 1, covered 1"
    )
    assert (manifest["supervision"], manifest["split"], manifest["undetected"]) == ("image-labels", "train", 1)
    assert manifest["rejected"] == {"not an image label": 3, "low score": 1, "covered": 1}


def test_class_names_travel_on(run):
    run_label(run)
    assert instance_of(run, "label").table(PSEUDO_LABELS).class_names() == CLASSES


def test_rows_of_before_stay_and_are_counted_with_the_others(run):
    whole, first = run_label(run)
    table = instance_of(run, "label").table(with_class_names(PSEUDO_LABELS, CLASSES))
    table.remove_all()
    table.write_rows([first["a"]], "part-0")
    manifest, second = run_label(run, afresh=False)
    assert second == first
    assert manifest["images"] == {**whole["images"], "before": 1}
    assert {**manifest, "text": "", "images": None} == {**whole, "text": "", "images": None}


def test_rows_by_thresholds_of_an_interrupted_run_are_replaced(run):
    _, first = run_label(run, tau_s="auto")
    table = instance_of(run, "label").table(with_class_names(PSEUDO_LABELS, CLASSES))
    table.write_rows([{**first["a"], "image_id": "b"}], "part-00007")
    manifest, second = run_label(run, afresh=False, tau_s="auto")
    assert second == first
    assert manifest["images"]["duplicates"] == 0


@pytest.mark.parametrize("changes", [{}, {"mode": "top1"}, {"normalise": "range", "covered_by": "any"}], ids=str)
def test_the_table_holds_what_the_selection_of_one_image_gives(tmp_path, changes):
    generator = np.random.default_rng(5)
    images, rows = [], []
    for n in range(40):
        corners = generator.integers(0, 50, (generator.integers(12), 2))
        boxes = np.concatenate([corners, corners + generator.integers(1, 50, corners.shape)], axis=1)
        scores = generator.random(len(boxes))
        found = detections(*zip(boxes, generator.integers(0, 3, len(boxes)), scores, strict=True))
        images.append((f"{n:02}", "train", [c for c in range(3) if generator.random() < 0.5]))
        rows.append((f"{n:02}", "train", found))
    write_run(str(tmp_path), images, [rows[:17], [], rows[17:]])
    manifest, table = run_label(str(tmp_path), **changes)
    for (image_id, _, labels), (_, _, found) in zip(images, rows, strict=True):
        truth, row = pseudo_ground_truth(found, labels, PseudoLabelsConfig(**changes)), table[image_id]
        assert row["boxes_xyxy"] == truth.boxes_xyxy.tolist()
        assert row["class_index"] == truth.class_index.tolist()
        assert np.float32(row["score"]).tolist() == truth.score.tolist()
        assert np.float32(row["score_normalised"]).tolist() == truth.score_normalised.tolist()
        assert len(row["rejected"]) == len(found) - len(truth)
    assert manifest["boxes"] == sum(len(row["boxes_xyxy"]) for row in table.values())


def test_only_the_options_of_pseudo_labels_are_in_the_key():
    options = label.STAGE.options(recipe(), "label")
    assert label.STAGE.method(options) == {"pseudo_labels": asdict(PseudoLabelsConfig())}
    assert label.STAGE.reads(options) == ("index", "detect.mil")
    assert label.STAGE.describe(options) == "scores above 0.3, covered to less than 0.85"
    assert label.STAGE.describe(label.STAGE.options(recipe(mode="top1"), "label")) == "the best 1 of each label"


@pytest.mark.parametrize("granted", ["none", "train"])
def test_a_split_without_detections_is_an_error_that_says_what_to_do(tmp_path, granted):
    write_run(str(tmp_path), IMAGE_ROWS, [[("t", "test", detections())]], granted=granted)
    with pytest.raises(DataError, match=rf"labels are granted to \({granted}\).*detect\.splits"):
        run_label(str(tmp_path))


def test_a_score_that_is_no_number_names_its_image(tmp_path):
    part = [("a", "train", detections((SMALL, 0, 1.0))), ("b", "train", detections((SMALL, 0, np.nan)))]
    write_run(str(tmp_path), IMAGE_ROWS, [part])
    with pytest.raises(DataError, match="image b: expected finite scores"):
        run_label(str(tmp_path))


def test_the_stage_is_one_of_the_stages_and_runs_once(tmp_path):
    # ``index`` is real here, ``detect.mil`` a handmade one that stands under the key the recipe gives it.
    made, _ = load_recipe(
        "shapes", ["data.shapes.train=3", "data.shapes.val=0", "data.splits=[train]", "data.shapes.size=32"]
    )
    run = Run(made, str(tmp_path))
    run.bring(["index"], Options())
    index = run.instance("index").table(IMAGES)
    inputs = {row["image_id"]: row["input"] for row in run.instance("detect.mil").planned_rows().to_pylist()}
    rows = [
        detections_to_row(
            r["image_id"],
            inputs[r["image_id"]],
            (32, 32),
            detections(*((SMALL, c, 0.5) for c in r["labels_difficult"])),
        )
        for r in index.iter_rows()
    ]
    run.instance("detect.mil").table(with_class_names(DETECTIONS, index.class_names())).write_rows(rows, "part-0")
    for name in ("train-classifier", "propose", "train-mil", "detect.mil"):
        instance = run.instance(name)
        instance.begin({})
        instance.finish({"text": "by hand", "reads": run.resolve(name).read()})
    manifests = run.bring(["label"], Options())
    assert manifests["label"]["images"]["done"] == 3
    assert manifests["label"]["boxes"] == sum(len(row["class_index"]) for row in rows)
