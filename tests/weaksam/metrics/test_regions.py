import numpy as np
import pytest

from tests.support.metric_images import box_mask, filled, found, truth, with_masks
from weaksam.errors import DataError
from weaksam.metrics.regions import areas, measurable, objects_without_mask, overlap, regions

BOX, HALF = (0, 0, 10, 10), (0, 0, 10, 5)
SIZE = (12, 14)


def pair(of):
    """Two detections and three true objects, boxes and the masks that fill them."""
    detections = filled(found((0, 0.9, *BOX), (0, 0.8, *HALF)), SIZE)
    objects = filled(truth((0, *HALF), (0, *BOX), (0, 10, 10, 14, 12)), SIZE)
    return regions(of, 7, detections), regions(of, 7, objects)


@pytest.mark.parametrize("of", ["boxes", "masks"])
def test_boxes_of_whole_pixels_and_the_masks_that_fill_them_measure_alike(of):
    detections, objects = pair(of)
    assert overlap(7, detections, objects).tolist() == [[0.5, 1, 0], [1, 0.5, 0]]
    crowd = np.array([True, False, False])
    assert overlap(7, detections, objects, crowd=crowd).tolist() == [[0.5, 1, 0], [1, 0.5, 0]]
    assert overlap(7, objects, detections, crowd=crowd[:2]).tolist() == [[1, 1], [1, 0.5], [0, 0]]
    assert areas(objects).tolist() == [50, 100, 8]
    assert areas(objects[[2, 0]]).tolist() == [8, 50]


@pytest.mark.parametrize("of", ["boxes", "masks"])
def test_no_regions_have_no_overlap(of):
    detections, objects = pair(of)
    assert overlap(7, detections[:0], objects).shape == (0, 3)
    assert overlap(7, detections, objects[:0], crowd=np.zeros(0, bool)).shape == (2, 0)
    assert areas(objects[:0]).shape == (0,)


def test_masks_are_never_made_of_boxes():
    with pytest.raises(DataError, match="image img7: expected a mask for each of 1 boxes, got boxes alone"):
        regions("masks", "img7", found((0, 0.9, *BOX)))
    with pytest.raises(DataError, match="got boxes alone"):
        regions("masks", "img7", found())
    with pytest.raises(DataError, match="image img7: expected a mask for each of 2 boxes, got 1"):
        regions("masks", "img7", with_masks(found((0, 0.9, *BOX), (0, 0.9, *BOX)), box_mask(SIZE, *BOX)))


def test_objects_without_a_mask_are_not_there_where_masks_are_measured():
    boxes = truth((0, *BOX), (1, *HALF), (2, *BOX), difficult=[2], crowd=[1])
    objects = with_masks(boxes, None, box_mask(SIZE, *HALF), box_mask(SIZE, *BOX))
    assert measurable("boxes", 7, objects) is objects
    left = measurable("masks", 7, objects)
    assert left.class_index.tolist() == [1, 2]
    assert left.boxes_xyxy.tolist() == [[*HALF], [*BOX]]
    assert (left.difficult.tolist(), left.crowd.tolist()) == ([False, True], [True, False])
    assert areas(regions("masks", 7, left)).tolist() == [50, 100]
    assert [objects_without_mask(objects), objects_without_mask(left), objects_without_mask(boxes)] == [1, 0, 3]
    assert len(measurable("masks", 7, with_masks(truth())).class_index) == 0
    with pytest.raises(DataError, match="got boxes alone"):
        measurable("masks", 7, boxes)


def test_masks_of_different_sizes_are_not_compared():
    objects = regions("masks", 7, filled(truth((0, *BOX)), (12, 15)))
    with pytest.raises(
        DataError, match="image img7: expected masks of one image, got masks of 12 x 14, 12 x 15 pixels"
    ):
        overlap("img7", pair("masks")[0], objects)
