"""What the report shows of detectors: figures by hand, then whole pages of a drawn run."""

import re
from itertools import permutations

import numpy as np
import pytest

from pipelines.evaluate import stage as evaluate
from pipelines.recipe.config import ReportConfig
from pipelines.report import detections as report_detections
from pipelines.report import pictures
from pipelines.report import stage as report
from pipelines.report.charts import Line, bar, loss_chart, round_numbers
from pipelines.report.detections import averages, evaluations, tiles, trainings, worst_failures
from pipelines.store.instances import Instance
from pipelines.store.schemas import DETECTIONS, detections_to_row, with_class_names
from pipelines.store.tables import write_json
from pipelines.training.checkpoints import write_scalars
from pipelines.training.task import Progress
from tests.pipelines.report.test_stage import NASTY, Page
from tests.support.drawn_run import drawn_recipe, job_for, write_run
from tests.support.metric_images import found, truth
from weaksam.errors import ConfigError, ImageError
from weaksam.structures import Detections

DETECTOR_RUN = ("index", "propose", "train-mil", "detect.mil", "evaluate.mil")
IMAGE = np.zeros((100, 100, 3), np.uint8)
BOX, HALF, TENTH, AWAY = (0, 0, 50, 50), (0, 0, 50, 25), (0, 0, 10, 25), (60, 60, 90, 90)


def row_of_scalars(step, *, steps=8, **losses):
    return Progress(
        step=step, steps=steps, epoch=0.0, loss=sum(losses.values()), losses=losses, lr=0.1, images_per_s=1.0, eta_s=0.0
    )


def row_of_metrics(name, ap50, corloc, shares=(0.5, 0.3, 0.2)):
    correct, part, elsewhere = shares
    return {
        "name": name, "ap50_eleven_point": ap50, "ap50_area": 0.111, "corloc": corloc, "corloc_without_difficult": 0.0,
        "correct": correct, "part": part, "elsewhere": elsewhere, "coco_ap": 0.222, "coco_ap50": 0.0, "coco_ap75": 0.333,
    }  # fmt: skip


def row_of_class(name, ap50, corloc=0.5):
    return {
        "name": name, "objects": 7, "ap50_eleven_point": ap50, "ap50_area": ap50, "corloc": corloc, "part": 0.125,
        "classification_ap": 0.5,
    }  # fmt: skip


def metrics(names=("cat", "dog", "emu"), **changes):
    """Two classes measured and one without objects; a split whose true boxes are not known."""
    worse, better, none = names
    measured = {
        "images": 9, "detections": 12.5, "objects": 1234, "classification_map": 0.875,
        "rows": [
            row_of_metrics("detector", 0.4567, 0.654),
            row_of_metrics("whole image", 0.1234, 0.2345, (0.1, 0.0, 0.9)),
            row_of_metrics("random proposal", 0.05, 0.07, (None, None, None)),
        ],
        "classes": [row_of_class(worse, 0.25), row_of_class(none, None, None), row_of_class(better, 0.75)],
        **changes,
    }  # fmt: skip
    unknown = {"images": 3, "detections": 4.0, "objects": None, "classification_map": None, "rows": [], "classes": []}
    return {"class_names": list(names), "detections": {"test": unknown, "val": measured}}


# ------------------------------------------------------------------------------------------------------------------- curves


def test_neighbouring_rows_are_averaged_by_the_steps_they_stand_for():
    rows = [
        row_of_scalars(2, mil=3.0, box=1.0),
        row_of_scalars(3, mil=6.0, box=1.0),
        row_of_scalars(5, mil=2.0, box=0.5),
    ]
    assert averages(rows) == (
        [(2, {"total": 4.0, "mil": 3.0, "box": 1.0}), (3, {"total": 7.0, "mil": 6.0, "box": 1.0}),
         (5, {"total": 2.5, "mil": 2.0, "box": 0.5})],
        2,
    )  # fmt: skip
    # Two points of at most two rows: (2 x 3 + 1 x 6) / 3 = 4 and 2.
    points, steps = averages(rows, most=2)
    assert [(step, losses["mil"]) for step, losses in points] == [(3, 4.0), (5, 2.0)]
    assert steps == 3


def test_the_curves_of_every_training_that_has_scalars(tmp_path):
    upstream = {n: Instance(str(tmp_path), n, "k") for n in ("index", "train-classifier", "train-mil", "train-more")}
    write_scalars(f"{upstream['train-classifier'].folder}/checkpoints/k", [row_of_scalars(1, labels=0.5)])
    rows = [row_of_scalars(step, mil=1 / step, refine1=0.5) for step in range(1, 6)]
    write_scalars(f"{upstream['train-mil'].folder}/checkpoints/k", rows)
    classifier, mil = trainings(upstream)
    assert (classifier["name"], mil["name"]) == ("train-classifier", "train-mil")
    assert [label for label, _, _ in classifier["legend"]] == ["total = labels"]
    assert [label for label, _, _ in mil["legend"]] == ["total", "mil", "refine1"]
    assert mil["what"] == "train-mil: loss by step. Last: total 0.7, mil 0.2, refine1 0.5"
    assert "step 4: total 0.75, mil 0.25, refine1 0.5</title>" in mil["chart"]
    assert mil["chart"].count("<polyline") == 3


def test_a_long_training_says_what_its_points_are(tmp_path):
    instance = Instance(str(tmp_path), "train-mil", "k")
    write_scalars(f"{instance.folder}/checkpoints/k", [row_of_scalars(5 * n, mil=2.0, box=1.0) for n in range(1, 301)])
    (training,) = trainings({"train-mil": instance})
    # 300 rows of 5 steps, at most 120 points: 3 rows each.
    assert "each point a mean over 15 steps" in training["what"]
    assert training["chart"].count('class="hit"') == 100


def test_a_run_without_training_has_no_curves(tmp_path):
    assert trainings({"index": Instance(str(tmp_path), "index", "k")}) == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        pytest.param(0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0], id="nothing"),
        pytest.param(0.2, 0.93, [0, 0.2, 0.4, 0.6, 0.8, 1.0], id="from-zero"),
        pytest.param(3, 7, [0, 2, 4, 6, 8], id="two"),
        pytest.param(-1, 4, [-1, 0, 1, 2, 3, 4], id="negative"),
        pytest.param(0, 1200, [0, 500, 1000, 1500], id="five-hundred"),
        pytest.param(-3, -2, [-3, -2, -1, 0], id="below-zero"),
    ],
)
def test_axes_have_round_numbers(low, high, expected):
    assert round_numbers(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [[], [1], [7], [1, 2]])
def test_short_curves_are_drawn(steps):
    chart = loss_chart(steps, [Line(label=NASTY, css_class='"><b>', losses=[0.0] * len(steps))], label=f'"{NASTY}')
    parsed = Page(chart)
    assert parsed.open == []
    assert not {"script", "b"} & set(parsed.tags)
    assert sum(rect.get("class") == "hit" for rect in parsed.of("rect")) == len(steps)
    assert len(parsed.of("circle")) == len(steps)  # every point of a short line has its sign


def test_the_columns_of_tooltips_fill_the_drawing():
    columns = Page(loss_chart([1, 2, 4], [Line(label="a", css_class="line-0", losses=[1, 2, 3])], label="a")).of("rect")
    # The drawing runs from 34 to 350: step 1 stands at 34 + 316 / 4 = 113, step 2 at 192, step 4 at 350.
    assert [float(column["x"]) for column in columns] == [34, 152.5, 271]
    assert sum(float(column["width"]) for column in columns) == pytest.approx(316)


def test_shares_are_drawn_side_by_side():
    drawn = Page(bar({"correct": 0.5, "part": 0.25}, tooltip="half")).of("rect")
    assert [(rect["class"], rect["x"], rect["width"]) for rect in drawn] == [
        ("correct", "0.0", "50.0"), ("part", "50.0", "25.0"),
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------- measures


def test_classes_come_best_first_and_unknown_ones_last():
    unknown, measured = evaluations([("evaluate.mil", metrics())])
    assert (unknown["heading"], measured["heading"]) == ("mil on test", "mil on val")
    assert [row["name"] for row in measured["classes"]] == ["dog", "cat", "emu"]
    assert 'width="75.0"' in measured["classes"][0]["ap50_bar"]
    assert measured["classes"][2]["ap50_bar"] == ""
    assert 'class="part" x="50.0" width="30.0"' in measured["rows"][0]["bar"]
    assert measured["rows"][2]["bar"] == ""


def test_tiles_are_the_detector_beside_the_whole_image():
    assert tiles(evaluations([("evaluate.mil", metrics())])) == [
        ("AP50, mil on val", "45.7 %", "whole image 12.3 %"),
        ("CorLoc, mil on val", "65.4 %", "whole image 23.4 %"),
    ]
    rows = [row_of_metrics(name, None, None) for name in ("detector", "whole image", "random proposal")]
    assert tiles(evaluations([("evaluate.mil", metrics(rows=rows))])) == []


# ----------------------------------------------------------------------------------------------------------------- failures

# Objects are 50 x 50 pixels: TENTH lies inside with a tenth of the area, AWAY overlaps nothing, HALF has IoU 1/2.
SIZE = (1000, 1000)
THREE = [
    ("a", "val", SIZE, found((0, 0.9, *BOX), (1, 0.7, *TENTH))),  # the second class is a part
    ("b", "val", SIZE, found((0, 0.8, *AWAY), (0, 0.6, *BOX), (1, 0.7, *AWAY))),  # both are elsewhere
    ("c", "val", SIZE, found((0, 0.8, *HALF))),  # a part, and the second class is missed
]
TRUTH = {image_id: truth((0, *BOX), (1, *BOX)) for image_id in "abc"}


def picked(images, most=6, ground_truth=TRUTH, num_classes=2):
    worst = worst_failures(images, lambda _: ground_truth, num_classes, most)
    return {
        split: [(f.image_id, f.class_index, f.verdict, round(f.score, 4)) for f in fs] for split, fs in worst.items()
    }


def test_the_worst_failures_of_three_images():
    # b and c tie at .8 and stand in the order of their ids; each image is there once, with its worst.
    expected = [("b", 0, "elsewhere", 0.8), ("c", 0, "part", 0.8), ("a", 1, "part", 0.7)]
    for images in permutations(THREE):
        assert picked(images) == {"val": expected}
        assert picked(images, most=2) == {"val": expected[:2]}
        assert picked(images, most=0) == {}


def test_of_two_classes_with_equal_scores_the_first_is_shown():
    assert picked([("a", "val", SIZE, found((1, 0.5, *AWAY), (0, 0.5, *AWAY)))]) == {
        "val": [("a", 0, "elsewhere", 0.5)]
    }


def test_missed_classes_come_last():
    images = [("a", "val", SIZE, found()), ("b", "val", SIZE, found((0, 0.01, *AWAY)))]
    assert picked(images) == {"val": [("b", 0, "elsewhere", 0.01), ("a", 0, "undetected", 0.0)]}


def test_a_failure_holds_the_top_detection_and_the_objects_of_its_class():
    (failure,) = worst_failures(THREE[2:], lambda _: TRUTH, 2, 6)["val"]
    assert failure.boxes_xyxy.tolist() == [list(HALF)]
    assert failure.objects_xyxy.tolist() == [list(BOX)]


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(("a", "val", SIZE, found((0, 0.9, *BOX), (1, 0.9, *BOX))), id="all-correct"),
        pytest.param(("x", "val", SIZE, found((0, 0.9, *BOX))), id="image-without-objects"),
    ],
)
def test_images_that_do_not_fail(image):
    assert picked([image]) == {}


def test_splits_are_picked_apart_and_those_without_true_boxes_not_at_all():
    images = [
        (image_id, split, SIZE, found((0, 0.5, *AWAY))) for split in ("val", "test", "train") for image_id in "ab"
    ]
    known = {"val": TRUTH, "train": TRUTH, "test": {}}
    worst = worst_failures(images, known.__getitem__, 2, 1)
    assert {split: [f.image_id for f in fs] for split, fs in worst.items()} == {"train": ["a"], "val": ["a"]}


def test_no_more_failures_are_held_than_are_shown():
    rng = np.random.default_rng(0)
    scores = rng.permutation(200) / 200
    images = [(f"{n:03}", "val", SIZE, found((0, score, *AWAY))) for n, score in enumerate(scores)]
    known = {image_id: truth((0, *BOX)) for image_id, *_ in images}
    slow = sorted(((score, f"{n:03}") for n, score in enumerate(scores)), reverse=True)[:5]
    assert [name for name, *_ in picked(images, 5, known, 1)["val"]] == [name for _, name in slow]


# ----------------------------------------------------------------------------------------------------------------- pictures


def test_detections_are_drawn_from_a_score_on_and_listed_by_class():
    detections = found((1, 0.31, *BOX), (0, 0.95, *AWAY), (1, 0.5, *HALF), (0, 0.29, *BOX))
    picture = pictures.detections(IMAGE, detections, ("cat", "dog"), 64, name="mil", min_score=0.3)
    assert picture.caption == "mil: 3 detections score 0.3 or more"
    assert [text for _, text in picture.legend] == ["cat 0.95", "dog 0.5, 0.31"]
    assert len({colour for colour, _ in picture.legend}) == 2


@pytest.mark.parametrize(
    ("detections", "caption"),
    [
        pytest.param(found(), "mil: no detections", id="none"),
        pytest.param(
            found((0, 0.1, *BOX), (1, 0.2, *BOX)), "mil: no detection scores 0.3 or more; the best, dog 0.2", id="low"
        ),
        pytest.param(found((0, 0.3, *BOX)), "mil: 1 detection scores 0.3 or more", id="at-the-threshold"),
        pytest.param(
            found(*[(0, 0.5, *BOX)] * 12), "mil: 12 detections score 0.3 or more; the best 10", id="more-than-ten"
        ),
    ],
)
def test_captions_of_detections(detections, caption):
    drawn = pictures.detections(IMAGE, detections, ("cat", "dog"), 32, name="mil", min_score=0.3)
    assert drawn.caption == caption
    assert (drawn.width, drawn.height) == (32, 32)


@pytest.mark.parametrize("options", [{"detection_score": 1.5}, {"failures": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="report"):
        ReportConfig(**options)


# -------------------------------------------------------------------------------------------------------------------- pages


def write_detector(run_uri, dataset, *, class_names=None, empty=False):
    """Write a finished training and its detections: boxes shrunk more from object to object, every fourth image has none."""
    training = Instance(run_uri, "train-mil", "k")
    training.begin({})
    rows = [row_of_scalars(n, steps=40, mil=3 / n, refine1=1 / n, box1=0.2) for n in range(1, 41)]
    write_scalars(training.file("checkpoints", "k"), rows)
    training.finish({"text": "steps planned 40 = done 40", "seconds": 4.0})

    detect = Instance(run_uri, "detect.mil", "k")
    detect.begin({})
    table = detect.table(with_class_names(DETECTIONS, class_names or dataset.class_names))
    done = set(Instance(run_uri, "propose", "k").table(DETECTIONS).ids())
    records = [r for split in dataset.splits for r in dataset.records(split) if r.image_id in done]
    rows = []
    for n, record in enumerate(records):
        objects = dataset.ground_truth(record.split)[record.image_id]
        shown = slice(0, 0 if empty or n % 4 == 3 else None)
        boxes = objects.boxes_xyxy[shown].copy()
        count = np.arange(len(boxes))
        boxes[:, 2] -= (boxes[:, 2] - boxes[:, 0]) * ((n + count) % 3) / 3
        detections = Detections(
            boxes_xyxy=boxes,
            class_index=objects.class_index[shown],
            score=(0.95 - 0.05 * n - 0.1 * count).astype(np.float32),
            image_scores=np.array([c in objects.class_index for c in range(6)], np.float32),
        )
        rows.append(detections_to_row(record.image_id, record.split, (64, 64), detections))
    table.write_rows(rows, "part-0")
    detect.finish({"text": f"images {len(rows)}", "seconds": 1.0})


def make_page(run_uri, measured=None, upstream=DETECTOR_RUN, **changes):
    """Evaluate the detections, or take these metrics, and make the page."""
    recipe = drawn_recipe(**changes)
    job = job_for(recipe, run_uri, "evaluate.mil", ("detect.mil", "propose"))
    if measured is None:
        job.instance.finish(evaluate.execute(job))
    else:
        write_json(job.instance.file("metrics.json"), measured)
        job.instance.finish({"text": "measured"})
    text = report.render_page(report.gather(job_for(recipe, run_uri, "report", upstream)))
    return text, Page(text)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = str(tmp_path_factory.mktemp("run"))
    write_detector(run, write_run(run))
    return make_page(run, metrics())


@pytest.mark.parametrize(
    "shown",
    [
        "AP50, mil on val", "45.7 %", "whole image 12.3 %", "CorLoc, mil on val", "65.4 %", "whole image 23.4 %",
        "1,234 objects", "11.1", "22.2", "33.3", "50.0", "30.0", "20.0", "75.0", "12.5",
        "The true boxes of this split are not known, so nothing is measured: 3 images",
        "train-mil: loss by step. Last: total 0.3, mil 0.075, refine1 0.025, box1 0.2",
        "step 40: total 0.3, mil 0.075, refine1 0.025, box1 0.2",
        "a score of 0.3 or more", "missed class",
        "Object proposals and detections from image-level labels. Recall, average precision and CorLoc are measured",
    ],
)  # fmt: skip
def test_the_page_of_a_detector_shows(page, shown):
    assert shown in re.sub(r"\s+", " ", page[1].text)


def test_the_page_of_a_detector_is_well_formed_and_complete_in_itself(page):
    text, parsed = page
    assert parsed.open == []
    assert not {"script", "link"} & set(parsed.tags)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in parsed.of("img"))
    assert all("scope" in header for header in parsed.of("th"))
    assert parsed.tags.count("caption") == parsed.tags.count("table")
    ids = [attrs["id"] for _, attrs in parsed.attributes if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in parsed.of("a")]
    assert {"#training", "#detections", "#failures"} <= set(links)
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert len(text) < 8 * 2**20


def test_detections_stand_beside_the_true_objects_and_failures_are_named(page):
    captions = [re.sub("<.*?>", " ", c) for c in re.findall(r"<figcaption>(.*?)</figcaption>", page[0], re.S)]
    firsts = [n for n, caption in enumerate(captions) if caption.startswith("true objects")]
    assert len(firsts) == 3
    assert all(captions[n + 1].startswith("mil: ") for n in firsts)
    failed = [c for c in captions if re.match(r" *(part|elsewhere|missed class) ", c)]
    assert 2 <= len(failed) <= 12  # of two splits, at most six each


def test_measured_detections_make_a_page(tmp_path):
    write_detector(str(tmp_path), write_run(str(tmp_path)))
    _, parsed = make_page(str(tmp_path))
    assert "mil on train" in parsed.text
    assert "mil on val" in parsed.text


def test_names_of_classes_and_losses_are_escaped(tmp_path):
    run, names = str(tmp_path), tuple(f"<b>{NASTY}{n}" for n in range(6))
    write_detector(run, write_run(run), class_names=names)
    write_scalars(f"{run}/train-mil/k/checkpoints/k", [row_of_scalars(1, **{f"<b>{NASTY}": 1.0, "mil": 1.0})])
    text, parsed = make_page(run, metrics(names=names[:3]))
    assert NASTY not in text
    assert not {"script", "b"} & set(parsed.tags)
    assert parsed.text.count(f"<b>{NASTY}") >= 5


def test_a_detector_that_found_nothing_makes_a_page(tmp_path):
    write_detector(str(tmp_path), write_run(str(tmp_path)), empty=True)
    text, parsed = make_page(str(tmp_path))
    assert "mil: no detections" in text
    assert parsed.text.count("missed class") >= 2
    assert "AP50, mil on val" in text
    assert parsed.open == []


def test_a_split_without_true_boxes_has_detections_but_no_failures(tmp_path, monkeypatch):
    from weaksam.datasets.shapes import Shapes

    write_detector(str(tmp_path), write_run(str(tmp_path)))
    monkeypatch.setattr(Shapes, "ground_truth", lambda _self, _split: {})
    text, parsed = make_page(str(tmp_path))
    assert 'id="failures"' not in text
    assert "image, no true boxes" in text
    assert "detections score 0.3 or more" in text or "detection scores 0.3 or more" in text
    assert parsed.text.count("so nothing is measured") == 2


def test_a_failure_whose_image_is_gone_is_named(tmp_path):
    dataset = write_run(str(tmp_path))
    write_detector(str(tmp_path), dataset)

    def gone(_image_id):
        raise ImageError("missing", "deleted")

    upstream = {"detect.mil": Instance(str(tmp_path), "detect.mil", "k")}
    of_splits = report_detections.failures(upstream, dataset.ground_truth, gone, ReportConfig())
    assert [of_split["heading"] for of_split in of_splits] == ["mil on train", "mil on val"]
    entries = [entry for of_split in of_splits for entry in of_split["entries"]]
    assert len(entries) >= 2
    assert all((entry["picture"], entry["trouble"]) == (None, "missing: deleted") for entry in entries)


def test_failures_stop_before_the_page_grows_too_large(tmp_path, monkeypatch):
    write_detector(str(tmp_path), write_run(str(tmp_path)))
    monkeypatch.setattr(report_detections, "_FAILURE_BYTES", 1)
    _, parsed = make_page(str(tmp_path), metrics())
    assert "more would make this page too large" in parsed.text


def test_a_page_without_a_detector_says_nothing_of_detections(tmp_path):
    run = str(tmp_path)
    write_run(run)
    parsed = Page(report.render_page(report.gather(job_for(drawn_recipe(), run, "report", ("index", "propose")))))
    shown = re.sub(r"\s+", " ", parsed.text)
    assert "Object proposals from image-level labels. Recall is measured against true boxes" in shown
    assert "etection" not in shown[shown.index("Skip to the content") : shown.index("The whole recipe")]
    assert not {"training", "detections", "failures"} & {attrs.get("id") for _, attrs in parsed.attributes}
