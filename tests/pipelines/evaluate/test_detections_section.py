"""Detectors side by side, as a section of a page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluate.sections.detections import SECTION, tiles, view
from pipelines.page.render import render_section
from pipelines.products.detections import DetectionTable
from pipelines.store.files import write_json
from pipelines.store.schemas import DETECTIONS, detections_to_row, with_class_names
from tests.support.drawn_run import SHAPES
from tests.support.full_run import write_full_run
from tests.support.measured import metrics, row_of_class, row_of_metrics
from tests.support.page import Page, shown_run, text_of
from tests.support.sets import FROM_NOTHING, instance_of
from weaksam.datasets.shapes import Shapes
from weaksam.structures import Detections


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


def test_detected_masks_stand_beside_the_true_ones_the_worst_first(tmp_path: Path) -> None:
    run = write_full_run(str(tmp_path))
    dataset = Shapes(SHAPES)
    detect = instance_of(str(tmp_path), "detect.final")
    detect.begin({})
    rows = []
    for image_id, truth in dataset.ground_truth("val", masks=True).items():
        detections = Detections(
            boxes_xyxy=truth.boxes_xyxy,
            class_index=truth.class_index,
            score=np.full(len(truth.boxes_xyxy), 0.9, np.float32),
            image_scores=np.zeros(6, np.float32),
            mask_rle=[rle for rle in truth.mask_rle or () if rle is not None],
        )
        rows.append(detections_to_row(image_id, FROM_NOTHING, (64, 64), detections))
    detect.table(with_class_names(DETECTIONS, dataset.class_names)).write_rows(rows, "part-0")
    detect.finish({})
    shown = view(replace(run, products={**run.products, "detect.final": DetectionTable(detect)}))
    assert shown is not None
    (masked,) = (of for split in shown["splits"] for of in split["masked"])
    (worst, of_worst), (by_chance, others) = masked["groups"]
    assert (worst, by_chance) == ("Worst", "By chance")
    assert [(one["image_id"], [p.caption for p in one["pictures"]]) for one in of_worst] == [
        ("val-00001", ["detected, mean IoU 6.2 %: 1 detection scores 0.3 or more", "true: 1 mask"])
    ]
    assert {one["image_id"] for one in others} == {"val-00000", "val-00002", "val-00003"}
    page = text_of(render_section(SECTION, shown))
    assert "Masks of final beside the true ones" in page
    assert "detected, mean IoU 6.2 %" in page
