"""Detectors side by side, as a section of a page."""

from pathlib import Path
from typing import Any

from pipelines.evaluate.sections.detections import SECTION, tiles, view
from pipelines.page.render import render_section
from pipelines.store.files import write_json
from tests.support.measured import metrics, row_of_class, row_of_metrics
from tests.support.page import Page, shown_run, text_of
from tests.support.sets import instance_of


def measured(folder: Path, **of: dict[str, Any]) -> Any:
    """The view of evaluations with these metrics."""
    for label, content in of.items():
        write_json(instance_of(str(folder), f"evaluate.{label}").file("metrics.json"), content)
    found = view(shown_run(str(folder), *(f"evaluate.{label}" for label in of)))
    assert found is not None
    return found


def test_classes_come_best_first_and_unknown_ones_last(tmp_path: Path) -> None:
    unknown, known = measured(tmp_path, mil=metrics())["splits"]
    assert (unknown["split"], known["split"]) == ("test", "val")
    assert (len(unknown["unknown"]), unknown["rows"]) == (1, [])
    assert [row["name"] for row in known["classes"]] == ["dog", "cat", "emu"]
    assert 'width="75.0"' in known["classes"][0]["figures"][0]["ap50_bar"]
    assert known["classes"][2]["figures"][0]["ap50_bar"] == ""
    assert 'class="part" x="50.0" width="30.0"' in known["rows"][0]["bar"]
    assert known["rows"][2]["bar"] == ""


def test_two_detectors_stand_in_the_same_tables(tmp_path: Path) -> None:
    other = metrics(
        rows=[row_of_metrics(name, 0.9, 0.8) for name in ("detector", "whole image", "random proposal")],
        classes=[row_of_class("cat", 0.99), row_of_class("dog", 0.1), row_of_class("emu", None, None)],
    )
    marked = {**metrics(), "supervision": "boxes"}
    shown = measured(tmp_path, mil=metrics(), dino=other, true=marked)
    val = shown["splits"][1]
    assert [row["name"] for row in val["rows"] if row["is_detector"]] == ["mil", "dino", "true (supervision: boxes)"]
    assert len(val["rows"]) == 9
    # Best of any detector: .99 of the cat and .75 of the dog.
    assert [row["name"] for row in val["classes"]] == ["cat", "dog", "emu"]
    assert [of["ap50_eleven_point"] for of in val["classes"][0]["figures"]] == [0.25, 0.99, 0.25]
    markup = render_section(SECTION, shown)
    page = Page(markup)
    assert page.tags.count("table") == 2  # of val; nothing is measured on test
    assert text_of(markup).count("nothing is measured of boxes: 3 images") == 3


def test_a_class_that_one_detector_does_not_know_has_a_dash(tmp_path: Path) -> None:
    shown = measured(tmp_path, one=metrics(("cat", "dog", "emu")), two=metrics(("cat", "dog", "fox")))
    figures = {row["name"]: [of is not None for of in row["figures"]] for row in shown["splits"][1]["classes"]}
    assert figures == {"cat": [True, True], "dog": [True, True], "emu": [True, False], "fox": [False, True]}
    assert "–" in text_of(render_section(SECTION, shown))


def test_tiles_are_the_detector_beside_the_whole_image(tmp_path: Path) -> None:
    assert tiles(measured(tmp_path, mil=metrics())) == [
        ("AP50, mil on val", "45.7 %", "whole image 12.3 %"),
        ("CorLoc, mil on val", "65.4 %", "whole image 23.4 %"),
    ]
    rows = [row_of_metrics(name, None, None) for name in ("detector", "whole image", "random proposal")]
    assert tiles(measured(tmp_path, mil=metrics(rows=rows))) == []
