"""Pictures of what was found in an image."""

import numpy as np
import pytest

from pipelines.page import pictures
from tests.support.metric_images import found
from weaksam.structures import Prompts, Proposals

IMAGE = np.zeros((100, 100, 3), np.uint8)
BOX, HALF, AWAY = (0, 0, 50, 50), (0, 0, 50, 25), (60, 60, 90, 90)


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
    (picture,) = pictures.proposals(np.zeros((10, 10, 3), np.uint8), many, 64)
    assert picture.caption == "selective-search: first 200 of 205 boxes"
    assert (picture.width, picture.height) == (64, 64)


def test_pictures_of_nothing_are_the_image_itself():
    image = np.zeros((1, 1, 3), np.uint8)
    assert pictures.true_objects(image, None, (), 32).caption == "image, no true boxes"
    assert pictures.prompts(image, [], 32).caption == "prompts: none"
    assert pictures.prompts(image, [Prompts(source="fine", points_xy=[], kind=[], class_index=[])], 32).width == 32
    assert pictures.heat_maps(image, {}, (), 32) == []
