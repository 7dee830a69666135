"""The section of label maps: its figures, its matrix, and its pictures of the worst images and of others."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluate.sections import label_maps as section
from pipelines.page import pictures
from pipelines.page.pictures import IGNORED_COLOUR, Picture, fitted
from pipelines.page.render import render_section
from pipelines.page.section import View
from pipelines.page.shown_run import ShownRun
from tests.support.full_run import write_full_run
from tests.support.page import gone, text_of
from weaksam.drawing import CLASS_COLOURS
from weaksam.label_maps import IGNORED

GREY = np.full((8, 8, 3), 128, np.uint8)


def pixels_of(picture: Picture) -> np.ndarray:
    data = base64.b64decode(picture.data_uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ShownRun:
    return write_full_run(str(tmp_path_factory.mktemp("run")))


def view_of(run: ShownRun) -> View:
    view = section.view(run)
    assert view is not None
    return view


def test_a_split_is_shown_with_figures_matrix_mistakes_and_pictures(run: ShownRun) -> None:
    shown = {one["heading"]: one for one in view_of(run)["evaluations"]}
    assert list(shown) == ["seeds on test", "seeds on train", "maps on test", "maps on train"]
    seeds = shown["seeds on train"]
    assert seeds["mistakes"] == [
        {"true": "cat", "taken_for": "background", "share": 0.6},
        {"true": "background", "taken_for": "cat", "share": 10 / 400},
    ]
    ((worst, of_worst),) = seeds["groups"]  # others stand in the section of seeds
    assert (worst, [one["image_id"] for one in of_worst]) == ("Worst", ["train-00001"])  # the other one has no row
    captions = [picture.caption for picture in of_worst[0]["pictures"]]
    assert captions == ["image", "map, mean IoU 6.2 %", "true"]
    _, (by_chance, others) = shown["maps on train"]["groups"]
    assert by_chance == "By chance"
    assert "train-00001" not in [one["image_id"] for one in others]
    assert [picture.caption for picture in others[0]["pictures"]] == ["image", "map", "true"]
    assert "groups" in shown["seeds on test"]  # of which no image has a row
    assert not shown["seeds on test"]["groups"]


def test_what_seeds_were_painted_of_is_said_of_seeds_alone(run: ShownRun) -> None:
    text = text_of(render_section(section.SECTION, view_of(run)))
    assert text.count("7.5 superpixels an image, which cover 75.0 % of it; 1 images have none") == 2  # of both splits
    assert text.count("The true label maps of this split are not known") == 2
    assert "7 of 8 images with a true map; 6.2 of the pixels are undecided and count as background. In %." in text
    assert "classes in the image1550.0" in text  # and no line of the group without a pair
    assert "classes in the image2" not in text
    assert "emu" not in text.partition("By chance")[0].partition("Mistakes")[0]  # a class that occurs nowhere


def test_the_top_of_the_page_has_each_mean_with_what_needs_no_method(run: ShownRun) -> None:
    seeds, maps = section.tiles(view_of(run))
    assert (seeds.name, seeds.figure) == ("Mean IoU, seeds on train", "62.5 %")
    assert maps.figure == "68.8 %"
    assert seeds.remark == "background alone 37.5 %, the largest class alone 25.0 %"


def test_an_image_that_cannot_be_read_any_more_leaves_its_reason(run: ShownRun) -> None:
    view = view_of(replace(run, read_image=gone))
    text = text_of(render_section(section.SECTION, view))
    assert "The image cannot be read again: missing: deleted" in text


def test_without_its_table_an_evaluation_is_shown_without_pictures(run: ShownRun) -> None:
    products = {name: product for name, product in run.products.items() if name != "seeds"}
    view = view_of(replace(run, products=products))
    shown = {one["heading"]: one for one in view["evaluations"]}
    assert not shown["seeds on train"]["groups"]
    assert shown["maps on train"]["groups"]
    assert "seeds on train" in text_of(render_section(section.SECTION, view))


def test_a_class_has_one_colour_in_the_map_and_in_the_true_one() -> None:
    label_map, true_map = np.zeros((2, 8, 8), np.uint8)
    label_map[:4] = 2
    true_map[:4], true_map[4:], true_map[:, 0] = 1, 2, IGNORED
    of_map, of_truth = pictures.label_maps(fitted(GREY, 64), {"map": label_map, "true": true_map}, ("cat", "dog"))
    assert [text for _, text in of_map.legend] == ["dog"]
    assert [text for _, text in of_truth.legend] == ["cat", "dog", "undecided"]
    assert {text: colour for colour, text in of_truth.legend} == {
        "cat": CLASS_COLOURS[0], "dog": CLASS_COLOURS[1], "undecided": IGNORED_COLOUR,
    }  # fmt: skip
    assert of_map.legend[0] == of_truth.legend[1]
    found, true = pixels_of(of_map), pixels_of(of_truth)
    assert abs(found[8, 40] - true[56, 40]).max() < 12  # the dog's colour, in either
    assert abs(found[56, 40] - 128).max() < 12  # background is left as it is


def test_a_map_of_background_alone_says_so() -> None:
    (drawn,) = pictures.label_maps(fitted(GREY, 16), {"map": np.zeros((8, 8), np.uint8)}, ("cat",))
    assert (drawn.caption, list(drawn.legend)) == ("map: background alone", [])


def test_a_confusion_matrix_is_drawn_as_shares_of_its_rows() -> None:
    drawn = pixels_of(pictures.confusion(np.array([[900, 100], [1, 3]]), "alt", "caption")).sum(axis=2)
    assert drawn.shape == (324, 324)
    (right, wrong), (mistaken, found) = (drawn[y, [81, 243]] for y in (81, 243))
    assert right > found > mistaken > wrong  # .9, .75, .25, .1: lighter is more


def test_a_confusion_matrix_without_a_pixel_is_dark() -> None:
    drawn = pixels_of(pictures.confusion(np.zeros((81, 81), np.int64), "alt", "caption"))
    assert drawn.shape == (324, 324, 3)
    assert drawn.std(axis=(0, 1)).max() < 3
