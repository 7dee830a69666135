"""The gallery and the row of pictures at the top of the page."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.report import stage as report
from pipelines.report.sections.gallery import opening, view
from pipelines.store.schemas import PROPOSALS, proposals_from_row, proposals_to_row
from tests.support.drawn_run import drawn_recipe, job_for, with_instances, write_run
from tests.support.full_run import write_detector, write_labels, write_masks
from tests.support.page import Page
from tests.support.sets import instance_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with proposals twice, detections and pseudo labels."""
    run = tmp_path_factory.mktemp("run")
    dataset = write_run(str(run))
    write_detector(str(run), dataset)
    write_labels(str(run), dataset)
    shutil.copytree(run / "propose", run / "propose.other")
    return str(run)


def shown(folder: str, *names: str):
    return report.shown_run(
        job_for(with_instances(drawn_recipe(), propose_other={}), folder, "report", ("index", *names))
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        pytest.param(("propose", "label", "detect.mil"), "mil", id="detections"),
        pytest.param(("propose", "label"), "label", id="pseudo-labels"),
        pytest.param(("propose",), "propose", id="proposals"),
        pytest.param(("propose", "propose.other"), "other", id="of-two-the-last"),
        pytest.param(("label",), "label", id="pseudo-labels-alone"),
    ],
)
def test_the_page_opens_with_what_was_found_last(folder: str, names: tuple[str, ...], found: str) -> None:
    pictures = opening(view(shown(folder, *names)))
    assert pictures
    assert {picture.caption.partition(" · ")[2] for picture in pictures} == {found}
    text = report.page_of(shown(folder, *names))
    assert 0 < text.index('class="opening"') < text.index('class="tiles"') < text.index("<nav")


def test_images_in_which_nothing_was_found_do_not_open_the_page(tmp_path: Path) -> None:
    write_detector(str(tmp_path), write_run(str(tmp_path)), empty=True)
    (tmp_path / "propose").rename(tmp_path / "unused")
    run = shown(str(tmp_path), "detect.mil")
    assert len(view(run)["entries"]) == 3
    assert opening(view(run)) == []
    assert 'class="opening"' not in report.page_of(run)


def test_proposals_of_several_instances_are_shown_apart(folder: str) -> None:
    text = report.page_of(shown(folder, "propose", "propose.other"))
    parsed = Page(text)
    for part in ("<h3>{}</h3>", "<h4>{}</h4>", "boxes an image, {}", "SAM, {}"):
        assert part.format("propose") in text
        assert part.format("propose.other") in text
    counts = text[text.index('id="counts"') : text.index('id="stages"')]
    assert counts.count("<svg") == 4  # two splits of each
    assert parsed.open == []
    alone = report.page_of(shown(folder, "propose"))
    assert "<h4>" not in alone
    assert "boxes an image, propose" not in alone


def test_proposals_that_nothing_prompted_have_no_picture_of_prompts(tmp_path: Path) -> None:
    write_run(str(tmp_path))
    prompted, unprompted = (instance_of(str(tmp_path), name) for name in ("propose", "propose.other"))
    rows = prompted.table(PROPOSALS).iter_rows()
    found = [(row, replace(proposals_from_row(row), prompts=())) for row in rows]
    unprompted.begin({})
    unprompted.table(PROPOSALS).write_rows(
        [proposals_to_row(row["image_id"], row["input"], proposals) for row, proposals in found], "part-0"
    )
    unprompted.finish({"text": "by hand"})
    pages = {name: report.page_of(shown(str(tmp_path), name)) for name in ("propose", "propose.other")}
    captioned = re.compile(r"prompts: (\d|none)")
    assert {name: (bool(captioned.search(page)), "Prompts:" in page) for name, page in pages.items()} == {
        "propose": (True, True),
        "propose.other": (False, False),
    }


def test_masks_that_were_found_stand_beside_the_true_ones(tmp_path: Path) -> None:
    dataset = write_run(str(tmp_path))
    write_detector(str(tmp_path), dataset)
    write_masks(str(tmp_path), dataset)
    truth = dataset.ground_truth("train")
    text = report.page_of(shown(str(tmp_path), "segment"))
    ids = re.findall(r'<h3 id="image-\d+">(train\S+)', text)
    assert ids
    for image_id in ids:
        assert f"true: {len(truth[image_id].boxes_xyxy)} mask" in text
    assert "true: " not in report.page_of(shown(str(tmp_path), "detect.mil"))


def test_a_page_of_detections_alone_says_nothing_of_proposals(folder: str) -> None:
    text = report.page_of(shown(folder, "detect.mil"))
    assert 'id="counts"' not in text
    assert "Prompts:" not in text
    assert "Detections from image-level labels. Average precision and CorLoc are measured" in text
    assert "None: every image has detections where they were asked for." in text
    body = Page(text).text
    assert "roposal" not in body[body.index("Skip to the content") : body.index("not finished")]


def test_a_detector_that_learnt_from_true_boxes_is_named_beside_what_its_figures_are_measured_by(
    tmp_path: Path,
) -> None:
    write_detector(str(tmp_path), write_run(str(tmp_path)))
    instance_of(str(tmp_path), "train-mil").finish({"supervision": "boxes"})
    text = report.page_of(shown(str(tmp_path), "train-mil", "detect.mil"))
    assert "Average precision and CorLoc are measured against true boxes, which train-mil learnt from." in text
    assert "image-level labels" not in text[text.index("<footer>") :]


def test_a_page_of_detections_alone_names_the_detector_that_learnt_from_true_boxes(tmp_path: Path) -> None:
    write_detector(str(tmp_path), write_run(str(tmp_path)))
    instance_of(str(tmp_path), "detect.mil").finish({"supervision": "boxes"})
    text = report.page_of(shown(str(tmp_path), "detect.mil"))
    assert "against true boxes, which the detector of detect.mil learnt from." in text
    assert "image-level labels" not in text[text.index("<footer>") :]
