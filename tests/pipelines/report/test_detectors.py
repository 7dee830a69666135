"""Whole pages of a drawn run with a detector."""

import re

import pytest

from pipelines.evaluate.sections import failures
from pipelines.recipe.config import ReportConfig
from pipelines.report import stage as report
from pipelines.store.files import write_json
from pipelines.training.checkpoints import write_scalars
from tests.support.drawn_run import drawn_recipe, job_for, work, write_run
from tests.support.full_run import write_detector
from tests.support.measured import metrics, row_of_scalars
from tests.support.page import NASTY, Page, gone, shown_run
from weaksam.errors import ConfigError

DETECTOR_RUN = ("index", "propose", "train-mil", "detect.mil", "evaluate.mil")


@pytest.mark.parametrize("options", [{"detection_score": 1.5}, {"failures": -1}])
def test_options_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"^{name}: expected"):
        ReportConfig(**options)


def make_page(run_uri, measured=None, upstream=DETECTOR_RUN, **changes):
    """Evaluate the detections, or take these metrics, and make the page."""
    recipe = drawn_recipe(**changes)
    job = job_for(recipe, run_uri, "evaluate.mil", ("detect.mil", "propose"))
    if measured is None:
        job.instance.finish(work(job))
    else:
        write_json(job.instance.file("metrics.json"), measured)
        job.instance.finish({"text": "measured"})
    text = report.page_of(report.shown_run(job_for(recipe, run_uri, "report", upstream)))
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
        "The true boxes of this split are not known, so nothing is measured of boxes: 3 images",
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
    monkeypatch.setattr(Shapes, "ground_truth", lambda *_, **__: {})
    text, parsed = make_page(str(tmp_path))
    assert 'id="failures"' not in text
    assert "image, no true boxes" in text
    assert "detections score 0.3 or more" in text or "detection scores 0.3 or more" in text
    assert parsed.text.count("so nothing is measured of boxes") == 2


def test_a_failure_whose_image_is_gone_is_named(tmp_path):
    dataset = write_run(str(tmp_path))
    write_detector(str(tmp_path), dataset)
    run = shown_run(str(tmp_path), "detect.mil", ground_truth=dataset.ground_truth, read_image=gone)
    of_splits = failures.view(run)["failures"]
    assert [of_split["heading"] for of_split in of_splits] == ["mil on train", "mil on val"]
    entries = [entry for of_split in of_splits for entry in of_split["entries"]]
    assert len(entries) >= 2
    assert all((entry["picture"], entry["trouble"]) == (None, "missing: deleted") for entry in entries)


def test_failures_stop_before_the_page_grows_too_large(tmp_path, monkeypatch):
    write_detector(str(tmp_path), write_run(str(tmp_path)))
    monkeypatch.setattr(failures, "_MOST_BYTES", 1)
    _, parsed = make_page(str(tmp_path), metrics())
    assert "more would make this page too large" in parsed.text


def test_a_page_without_a_detector_says_nothing_of_detections(tmp_path):
    run = str(tmp_path)
    write_run(run)
    parsed = Page(report.page_of(report.shown_run(job_for(drawn_recipe(), run, "report", ("index", "propose")))))
    shown = re.sub(r"\s+", " ", parsed.text)
    assert "Object proposals from image-level labels. Recall is measured against true boxes" in shown
    assert "etection" not in shown[shown.index("Skip to the content") : shown.index("The whole recipe")]
    assert not {"training", "detections", "failures"} & {attrs.get("id") for _, attrs in parsed.attributes}
