"""Pictures of what was found in an image."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.page import pictures
from pipelines.page.pictures import fitted
from tests.support.automatic_masks import automatic_masks
from tests.support.metric_images import found
from weaksam.structures import Prompts, Proposals, PseudoGroundTruth

IMAGE = np.zeros((100, 100, 3), np.uint8)
BOX, HALF, AWAY = (0, 0, 50, 50), (0, 0, 50, 25), (60, 60, 90, 90)


def test_detections_are_drawn_from_a_score_on_and_listed_by_class():
    detections = found((1, 0.31, *BOX), (0, 0.95, *AWAY), (1, 0.5, *HALF), (0, 0.29, *BOX))
    picture = pictures.detections(fitted(IMAGE, 64), detections, ("cat", "dog"), name="mil", min_score=0.3)
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
    drawn = pictures.detections(fitted(IMAGE, 32), detections, ("cat", "dog"), name="mil", min_score=0.3)
    assert drawn.caption == caption
    assert (drawn.width, drawn.height) == (32, 32)


def test_many_boxes_of_a_source_are_drawn_in_part_and_say_so():
    count = 205
    boxes = np.tile(np.float32([(1, 1, 9, 9)]), (count, 1))
    many = Proposals(
        size_hw=(10, 10),
        boxes_xyxy=boxes,
        source=["selective-search"] * count,
        prompt_index=np.full(count, -1, np.int32),
        mask_index=np.full(count, -1, np.int8),
        predicted_iou=np.full(count, np.nan, np.float32),
    )
    (picture,) = pictures.proposals(fitted(np.zeros((10, 10, 3), np.uint8), 64), many)
    assert picture.caption == "selective-search: first 200 of 205 boxes"
    assert (picture.width, picture.height) == (64, 64)


def test_pictures_of_nothing_are_the_image_itself():
    image = fitted(np.zeros((1, 1, 3), np.uint8), 32)
    assert pictures.true_objects(image, None, ()).caption == "image, no true boxes"
    assert pictures.prompts(image, []).caption == "prompts: none"
    assert pictures.prompts(image, [Prompts(source="fine", points_xy=[], kind=[], class_index=[])]).width == 32
    assert pictures.heat_maps(image, {}, ()) == []
    assert pictures.superpixels(image, automatic_masks([], size_hw=(1, 1)), name="mine").caption == "mine: none"


def test_heat_maps_stand_class_by_class_and_of_a_class_as_they_come():
    heat = np.zeros((2, 2), np.float32)
    maps = {(1, "late"): heat, (1, "early"): heat, (0, "early"): heat}
    drawn = pictures.heat_maps(fitted(IMAGE, 16), maps, ("cat", "dog"))
    assert [picture.caption for picture in drawn] == ["cat, early map", "dog, late map", "dog, early map"]


def test_superpixels_are_counted_and_coloured():
    halves = np.zeros((2, 100, 100), np.bool_)
    halves[0, :50] = halves[1, 50:] = True
    drawn = pictures.superpixels(
        fitted(IMAGE, 20), automatic_masks(list(halves), size_hw=(100, 100)), name="superpixels"
    )
    assert drawn.caption == "superpixels: 2"
    assert drawn.data_uri != pictures.plain(fitted(IMAGE, 20)).data_uri


def test_pseudo_boxes_are_listed_by_class() -> None:
    ones = np.ones(3, np.float32)
    truth = PseudoGroundTruth(
        boxes_xyxy=np.float32([BOX, HALF, AWAY]), class_index=np.array([1, 0, 1]), score=ones, score_normalised=ones
    )
    picture = pictures.pseudo_labels(fitted(IMAGE, 32), truth, ("cat", "dog"), name="label")
    assert picture.caption == "label: 3 pseudo boxes"
    assert [text for _, text in picture.legend] == ["2 dog", "1 cat"]


def test_the_best_proposals_are_those_that_sam_rates_best() -> None:
    count = 12
    boxes = np.tile(np.float32([BOX]), (count, 1))
    boxes[[0, 5]] = AWAY  # rated worst, and not at all
    ratings = np.linspace(0, 1, count).astype(np.float32)
    ratings[5] = np.nan
    rated = Proposals(
        size_hw=(100, 100), boxes_xyxy=boxes, source=["grid"] * count, prompt_index=np.zeros(count, np.int32),
        mask_index=np.zeros(count, np.int8), predicted_iou=ratings,
    )  # fmt: skip
    picture = pictures.best_proposals(fitted(IMAGE, 100), rated, name="propose")
    assert picture.caption == "propose: 10 of 12 boxes"
    others = replace(rated, boxes_xyxy=np.tile(np.float32([BOX]), (count, 1)))
    assert pictures.best_proposals(fitted(IMAGE, 100), others, name="propose") == picture
