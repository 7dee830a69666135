import numpy as np
import pytest

from tests.support.metric_images import found, truth
from weaksam.errors import DataError
from weaksam.metrics.localisation import CorLoc, PartDomination

BOX = (0, 0, 10, 10)
OTHER = (50, 50, 60, 60)


def corloc_of(*images, difficult="count", num_classes=1):
    corloc = CorLoc(num_classes, difficult=difficult)
    for image_id, image in enumerate(images):
        corloc.add(image_id, *image)
    return corloc.scores()


@pytest.mark.parametrize(
    ("detections", "objects", "count", "exclude"),
    [
        pytest.param(found((0, 0.9, *BOX)), truth((0, *BOX)), 1, 1, id="found"),
        pytest.param(found((0, 0.9, *OTHER), (0, 0.8, *BOX)), truth((0, *BOX)), 0, 0, id="only-the-best-is-asked"),
        pytest.param(found((0, 0.8, *OTHER), (0, 0.9, *BOX)), truth((0, *BOX)), 1, 1, id="the-best-comes-second"),
        pytest.param(found((0, 0.5, *BOX), (0, 0.5, *OTHER)), truth((0, *BOX)), 1, 1, id="of-a-tie-the-first"),
        pytest.param(found((0, 0.9, *OTHER)), truth((0, *BOX), (0, *OTHER)), 1, 1, id="any-object-will-do"),
        pytest.param(found((0, 0.9, 0, 0, 10, 5)), truth((0, *BOX)), 0, 0, id="iou-of-one-half-is-not-enough"),
        pytest.param(found((0, 0.9, 0, 0, 10, 6)), truth((0, *BOX)), 1, 1, id="iou-of-six-tenths"),
        pytest.param(found(), truth((0, *BOX)), 0, 0, id="no-detection-is-wrong"),
        pytest.param(found((1, 0.9, *BOX)), truth((0, *BOX)), 0, 0, id="of-another-class"),
        pytest.param(found((0, 0.9, *BOX)), truth((1, *BOX)), np.nan, np.nan, id="class-is-not-there"),
        pytest.param(found((0, 0.9, *BOX)), truth(), np.nan, np.nan, id="no-objects"),
        pytest.param(found((0, 0.9, *BOX)), truth((0, *BOX), difficult=[0]), 1, np.nan, id="only-a-difficult-object"),
        pytest.param(found((0, 0.9, *BOX)), truth((0, *BOX), crowd=[0]), 1, np.nan, id="only-a-crowd"),
        pytest.param(
            found((0, 0.9, *OTHER)),
            truth((0, *BOX), (0, *OTHER), difficult=[1]),
            1,
            1,  # method 9.2: the plain object makes the image count, and then any object will do
            id="top-is-on-the-difficult-one",
        ),
        pytest.param(
            found((0, 0.9, *OTHER)),
            truth((0, *BOX), (0, *OTHER), crowd=[1]),
            1,
            1,
            id="top-is-on-the-crowd",
        ),
        pytest.param(
            found((0, 0.9, *OTHER), (1, 0.9, *BOX)),
            truth((0, *BOX), (1, *OTHER), difficult=[1]),
            0,
            0,  # the difficult object of class 1 does not help class 0
            id="top-is-on-a-difficult-one-of-another-class",
        ),
    ],
)
def test_corloc_of_one_image_in_both_variants(detections, objects, count, exclude):
    image = detections, objects
    np.testing.assert_equal(corloc_of(image, num_classes=2).per_class[0], float(count))
    np.testing.assert_equal(corloc_of(image, num_classes=2, difficult="exclude").per_class[0], float(exclude))


def test_corloc_is_a_share_of_images_and_its_mean_one_of_classes():
    images = [
        (found((0, 0.9, *BOX), (1, 0.9, *BOX)), truth((0, *BOX), (1, *BOX), (1, *OTHER))),
        (found((0, 0.9, *OTHER)), truth((0, *BOX))),
        (found((0, 0.9, *OTHER)), truth((0, *BOX))),
        (found((0, 0.9, *OTHER), (2, 0.9, *OTHER)), truth((0, *BOX))),
    ]
    scores = corloc_of(*images, num_classes=3)
    np.testing.assert_array_equal(scores.per_class, [1 / 4, 1.0, np.nan])
    assert scores.images.tolist() == [4, 1, 0]
    assert scores.mean == (1 / 4 + 1) / 2


def test_corloc_without_images_is_nan():
    assert np.isnan(corloc_of().per_class).all()
    assert np.isnan(corloc_of().mean)


def shares_of(*images, num_classes=1):
    parts = PartDomination(num_classes)
    for image_id, image in enumerate(images):
        parts.add(image_id, *image)
    return parts.scores()


CAT = (0, 100, 0, 200, 100)  # class 0, 100 x 100 pixels


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        pytest.param((100, 0, 200, 60), "correct", id="covers-six-tenths"),
        pytest.param((100, 0, 200, 50), "part", id="covers-exactly-half"),
        pytest.param((110, 10, 130, 30), "part", id="well-inside"),
        pytest.param((90, 0, 190, 30), "part", id="nine-tenths-of-it-inside"),
        pytest.param((89, 0, 189, 30), "elsewhere", id="less-than-nine-tenths-inside"),
        # 52 x 90 = 4,680 of 5,200 pixels are inside: .9; IoU 4680 / (5200 + 10000 - 4680) = .445
        pytest.param((90, 0, 190, 52), "part", id="inside-by-nine-tenths-and-nearly-half"),
        pytest.param((0, 0, 300, 100), "elsewhere", id="too-large"),
        pytest.param((0, 0, 50, 50), "elsewhere", id="beside"),
        pytest.param((120, 20, 120, 40), "elsewhere", id="without-area"),
        pytest.param((120, 20, 110, 10), "elsewhere", id="reversed"),
    ],
)
def test_what_a_top_detection_is(box, kind):
    scores = shares_of((found((0, 0.9, *box)), truth(CAT)))
    assert scores.shares == {"correct": 0.0, "part": 0.0, "elsewhere": 0.0} | {kind: 1.0}


def test_a_part_of_one_object_that_is_another_object_is_correct():
    kitten = (0, 110, 10, 130, 30)
    scores = shares_of((found((0, 0.9, 110, 10, 130, 30)), truth(CAT, kitten)))
    assert scores.correct.tolist() == [1]


def test_nine_tenths_must_lie_inside_one_object_not_two():
    left, right = (0, 0, 0, 100, 100), (0, 100, 0, 200, 100)
    scores = shares_of((found((0, 0.9, 80, 40, 120, 60)), truth(left, right)))
    assert scores.elsewhere.tolist() == [1]


def test_shares_count_the_best_detection_of_each_present_class_and_sum_to_one():
    images = [
        (found((0, 0.9, 110, 10, 130, 30), (0, 0.8, *CAT[1:])), truth(CAT)),  # a part is better than the whole
        (found((0, 0.9, *CAT[1:]), (1, 0.9, 110, 10, 130, 30)), truth(CAT, (1, *CAT[1:]))),
        (found((1, 0.9, 0, 0, 9, 9), (2, 1.0, 110, 10, 130, 30)), truth((1, *CAT[1:]))),  # class 2 is not there
        (found((1, 0.9, *CAT[1:])), truth(CAT)),  # nothing of class 0 is detected
    ]
    scores = shares_of(*images, num_classes=3)
    assert scores.correct.tolist() == [1, 0, 0]
    assert scores.part.tolist() == [1, 1, 0]
    assert scores.elsewhere.tolist() == [0, 1, 0]
    assert scores.undetected.tolist() == [1, 0, 0]
    assert scores.shares == {"correct": 0.25, "part": 0.5, "elsewhere": 0.25}
    np.testing.assert_array_equal(scores.part_per_class, [0.5, 0.5, np.nan])


def test_difficult_objects_count_and_a_class_with_a_crowd_is_not_judged():
    head = found((0, 0.9, 110, 10, 130, 30), (1, 0.9, 110, 10, 130, 30))
    scores = shares_of((head, truth(CAT, (1, *CAT[1:]), (1, 0, 0, 9, 9), difficult=[0], crowd=[1])), num_classes=2)
    assert scores.part.tolist() == [1, 0]
    assert (scores.correct + scores.elsewhere + scores.undetected).tolist() == [0, 0]


def test_no_top_detection_has_no_shares():
    assert all(np.isnan(share) for share in shares_of((found(), truth(CAT))).shares.values())
    assert np.isnan(shares_of().part_per_class).all()


@pytest.mark.parametrize("measure", [CorLoc, PartDomination])
def test_wrong_classes_and_repeated_images_are_errors(measure):
    corloc = measure(1)
    corloc.add("img7", found(), truth(CAT))
    with pytest.raises(DataError, match="img7: expected each image once"):
        corloc.add("img7", found(), truth(CAT))
    with pytest.raises(DataError, match=r"img8: expected detections of classes 0\.\.0, got class 1"):
        corloc.add("img8", found((1, 0.5, *BOX)), truth())
