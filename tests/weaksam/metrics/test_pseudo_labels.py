import numpy as np
import pytest

from tests.support.metric_images import filled, found, random_image, truth, with_masks
from weaksam.boxes_np import iou_float64
from weaksam.errors import DataError
from weaksam.metrics.pseudo_labels import PseudoLabelQuality
from weaksam.structures import PseudoGroundTruth, no_objects


def pseudo(*rows):
    """Pseudo ground truth of one image from rows of (class, score, x1, y1, x2, y2)."""
    return as_pseudo(found(*rows))


def as_pseudo(detections):
    return PseudoGroundTruth(
        boxes_xyxy=detections.boxes_xyxy,
        class_index=detections.class_index,
        score=detections.score,
        score_normalised=detections.score,
    )


def quality(*images, num_classes=2, of="boxes"):
    measured = PseudoLabelQuality(num_classes, of=of)
    for n, (boxes, objects) in enumerate(images):
        measured.add(n, boxes, objects)
    return measured


def test_precision_and_recall_by_hand():
    # Class 0: one of its two boxes is on the one object. Class 1: its box is on one of two objects.
    scores = quality(
        (pseudo((0, 0.9, 0, 0, 10, 10), (0, 0.5, 40, 40, 50, 50)), truth((0, 0, 0, 10, 10))),
        (pseudo((1, 0.5, 0, 0, 10, 10)), truth((1, 0, 0, 10, 10), (1, 40, 40, 50, 50))),
    ).scores()
    assert (scores.boxes.tolist(), scores.correct.tolist(), scores.objects.tolist()) == ([2, 1], [1, 1], [1, 2])
    assert (scores.precision.tolist(), scores.recall.tolist()) == ([0.5, 1.0], [1.0, 0.5])
    assert scores.summary == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "mean_precision": 0.75, "mean_recall": 0.75}
    )


def test_an_iou_at_the_threshold_is_not_enough():
    half, more = pseudo((0, 1, 0, 0, 10, 5)), pseudo((0, 1, 0, 0, 10, 6))
    objects = truth((0, 0, 0, 10, 10))
    assert quality((half, objects)).scores().correct.tolist() == [0, 0]
    assert quality((more, objects)).scores().correct.tolist() == [1, 0]
    assert quality((more, objects)).scores(0.75).correct.tolist() == [0, 0]


def test_an_object_is_matched_once_by_the_best_score():
    objects = truth((0, 0, 0, 10, 10))
    # The worse box fits better; the better-scoring one is correct all the same at .5, and only the worse one at .75.
    boxes = pseudo((0, 0.25, 0, 0, 10, 10), (0, 0.75, 0, 0, 10, 7))
    measured = quality((boxes, objects))
    assert (measured.scores().boxes.tolist(), measured.scores().correct.tolist()) == ([2, 0], [1, 0])
    assert measured.scores(0.75).correct.tolist() == [1, 0]


def test_a_box_of_another_class_is_wrong():
    scores = quality((pseudo((1, 1, 0, 0, 10, 10)), truth((0, 0, 0, 10, 10)))).scores()
    assert scores.summary["precision"] == scores.summary["recall"] == 0


def test_difficult_objects_and_crowds_neither_count_nor_hurt():
    boxes = pseudo((0, 0.9, 0, 0, 10, 10), (0, 0.8, 40, 0, 50, 10), (0, 0.7, 80, 0, 90, 10))
    objects = truth((0, 0, 0, 10, 10), (0, 40, 0, 50, 10), (0, 80, 0, 90, 10), difficult=[1], crowd=[2])
    scores = quality((boxes, objects)).scores()
    assert (scores.boxes.tolist(), scores.correct.tolist(), scores.objects.tolist()) == ([1, 0], [1, 0], [1, 0])


def test_boxes_in_an_image_without_objects_are_wrong_and_objects_without_boxes_are_missed():
    scores = quality((pseudo((0, 1, 0, 0, 10, 10)), no_objects()), (pseudo(), truth((0, 0, 0, 10, 10)))).scores()
    assert (scores.summary["precision"], scores.summary["recall"]) == (0, 0)


def test_nothing_to_measure_is_not_a_number():
    for measured in (quality(), quality((pseudo(), no_objects()))):
        scores = measured.scores()
        assert np.isnan([*scores.precision, *scores.recall, *scores.summary.values()]).all()


def test_an_image_twice_and_a_threshold_out_of_range_are_refused():
    measured = quality((pseudo(), no_objects()))
    with pytest.raises(DataError, match="expected each image once"):
        measured.add(0, pseudo(), no_objects())
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        measured.scores(0)


def test_masks_are_matched_as_boxes_are():
    boxes = pseudo((0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 10, 10), (1, 0.7, 0, 0, 10, 10))
    left, right = np.tile([1, 0], (10, 5)), np.tile([0, 1], (10, 5))
    objects = with_masks(truth((0, 0, 0, 10, 10), (0, 0, 0, 10, 10)), right, left | right)
    # The first is on the second object with 50 of 100 pixels, the second is the first object.
    masks = with_masks(boxes, left, right, right)
    assert quality((masks, objects)).scores().correct.tolist() == [1, 0]
    scores = quality((masks, objects), of="masks").scores()
    assert (scores.boxes.tolist(), scores.correct.tolist(), scores.objects.tolist()) == ([2, 1], [1, 0], [2, 0])
    assert quality((masks, objects), of="masks").scores(0.4).correct.tolist() == [2, 0]
    with pytest.raises(DataError, match="got boxes alone"):
        quality((boxes, filled(objects)), of="masks")


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_random_images_agree_with_matching_box_by_box(threshold):
    generator = np.random.default_rng(11)
    images = [random_image(generator, classes=3) for _ in range(150)]
    scores = quality(*((as_pseudo(boxes), objects) for boxes, objects in images), num_classes=3).scores(threshold)
    counted, correct = np.zeros(3, int), np.zeros(3, int)
    for boxes, objects in images:
        taken = set()
        for n in np.argsort(-boxes.score, kind="stable"):
            c = boxes.class_index[n]
            same = np.flatnonzero(objects.class_index == c)
            iou = iou_float64(boxes.boxes_xyxy[n : n + 1], objects.boxes_xyxy[same])[0]
            on = same[iou.argmax()] if len(same) and iou.max() > threshold else None
            if on is not None and (objects.difficult[on] or objects.crowd[on]):
                continue
            counted[c] += 1
            correct[c] += on is not None and on not in taken
            taken.add(on)
    assert (scores.boxes.tolist(), scores.correct.tolist()) == (counted.tolist(), correct.tolist())
    assert 0 < correct.sum() < counted.sum()
