import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.support.metric_images import (
    box_mask,
    filled,
    found,
    random_image,
    truth,
    with_masks,
    with_random_masks,
)
from tests.support.tolerances import assert_near
from weaksam.errors import DataError
from weaksam.masks_np import rle_area
from weaksam.metrics.coco import LOW_IOU, CocoAveragePrecision

BOX = (0, 0, 100, 100)
OTHER = (200, 200, 300, 300)
SIZE = (310, 320)


def scores_of(*images, num_classes=1, of="boxes"):
    coco = CocoAveragePrecision(num_classes, of=of)
    for image_id, image in enumerate(images):
        coco.add(image_id, *image)
    return coco.scores()


@pytest.mark.parametrize(
    ("detections", "objects", "expected"),
    [
        pytest.param(found((0, 0.9, *BOX)), truth((0, *BOX)), 1.0, id="found"),
        # IoU .82 reaches .50, .55, ... .80: seven of ten thresholds.
        pytest.param(found((0, 0.9, 0, 0, 100, 82)), truth((0, *BOX)), 0.7, id="seven-of-ten-thresholds"),
        pytest.param(found((0, 0.9, *OTHER)), truth((0, *BOX)), 0.0, id="missed"),
        pytest.param(found(), truth((0, *BOX)), 0.0, id="no-detections"),
        pytest.param(found((0, 0.9, *BOX)), truth(), np.nan, id="no-objects"),
        pytest.param(found(), truth(), np.nan, id="nothing"),
        # Of the 101 recall levels, 0 ... .50 have precision 1, the 50 above 2/3.
        pytest.param(
            found((0, 0.9, *BOX), (0, 0.8, *BOX), (0, 0.7, *OTHER)), truth((0, *BOX), (0, *OTHER)),
            (51 + 50 * 2 / 3) / 101, id="a-second-match-is-a-false-positive",
        ),
        pytest.param(
            found((0, 0.9, *OTHER), (0, 0.9, 200, 200, 250, 250), (0, 0.8, *BOX)),
            truth((0, *BOX), (0, *OTHER), crowd=[1]), 1.0, id="inside-a-crowd-is-ignored-however-often",
        ),
        pytest.param(
            found((0, 0.9, *OTHER), (0, 0.8, *BOX)), truth((0, *BOX), (0, *OTHER), difficult=[1]), 1.0,
            id="on-a-difficult-object-is-ignored",
        ),
        pytest.param(
            found((0, 0.9, 200, 200, 250, 250), (0, 0.8, *BOX)), truth((0, *BOX), (0, *OTHER), difficult=[1]), 0.5,
            id="inside-a-difficult-object-is-not",
        ),
        pytest.param(found((0, 0.9, *BOX)), truth((0, *BOX), crowd=[0]), np.nan, id="only-a-crowd"),
        pytest.param(found((0, 0.9, *BOX)), truth((0, *BOX), difficult=[0]), np.nan, id="only-a-difficult-object"),
    ],
)  # fmt: skip
def test_one_image_of_one_class(detections, objects, expected):
    assert scores_of((detections, objects)).mean() == pytest.approx(expected, nan_ok=True)
    masks = filled(detections, SIZE), filled(objects, SIZE)
    assert scores_of(masks, of="masks").mean() == pytest.approx(expected, nan_ok=True)


def test_the_six_numbers():
    # Objects of 20, 50 and 100 pixels; the medium one is found with IoU 30/50 = .6, the large one not at all.
    objects = truth((0, 0, 0, 20, 20), (0, 100, 0, 150, 50), (0, 200, 0, 300, 100))
    detections = found((0, 0.9, 0, 0, 20, 20), (0, 0.8, 100, 0, 150, 30))
    summary = scores_of((detections, objects)).summary()
    # Recall 2/3 at .50, .55 and .60 (levels 0 ... .66 of 101), 1/3 above (0 ... .33).
    assert summary["AP"] == pytest.approx((3 * 67 + 7 * 34) / 1010)
    assert summary["AP50"] == pytest.approx(67 / 101)
    assert summary["AP75"] == pytest.approx(34 / 101)
    assert summary["AP_small"] == pytest.approx(1.0)
    assert summary["AP_medium"] == pytest.approx(0.3)
    assert summary["AP_large"] == 0.0


def test_sizes_without_objects_are_nan():
    summary = scores_of((found((0, 0.9, *BOX)), truth((0, *BOX)))).summary()
    assert np.isnan(summary["AP_small"])
    assert np.isnan(summary["AP_medium"])
    assert summary["AP_large"] == pytest.approx(1.0)


def test_classes_do_not_meet_and_the_mean_leaves_out_those_without_objects():
    image = found((1, 0.9, *BOX), (0, 0.8, *BOX), (2, 0.7, *BOX)), truth((0, *BOX), (1, *OTHER))
    scores = scores_of(image, num_classes=3)
    assert scores.per_class() == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)
    assert scores.per_class(iou_threshold=0.75) == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)
    assert scores.mean(iou_threshold=0.5) == pytest.approx(0.5)
    assert scores.images == 1


def test_the_best_hundred_of_an_image_and_class_count():
    def image(better):
        return found(*[(0, 0.9, *OTHER)] * better, (0, 0.1, *BOX), (1, 0.05, *BOX)), truth((0, *BOX), (1, *BOX))

    # The hundredth is the first hit: precision .01 at recall 1.
    assert scores_of(image(99), num_classes=2).per_class() == pytest.approx([0.01, 1.0])
    assert scores_of(image(100), num_classes=2).per_class() == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("order", [("9", "10"), ("10", "9")])
def test_equal_scores_are_ranked_by_image_id_whatever_the_order_of_images(order):
    images = {"9": (found((0, 0.5, *OTHER)), truth()), "10": (found((0, 0.5, *BOX)), truth((0, *BOX)))}
    coco = CocoAveragePrecision(1)
    for image_id in order:
        coco.add(image_id, *images[image_id])
    assert coco.scores().mean() == pytest.approx(0.5)


def the_usual_way(images, num_classes, of):
    """One run of pycocotools over all classes and images, as its demo has it: the six numbers, and AP25 and AP70."""
    annotations, results = [], []

    def columns(of_image):
        boxes = of_image.boxes_xyxy.astype(float)
        sides = boxes[:, 2:] - boxes[:, :2]
        of_boxes = {"bbox": np.hstack((boxes[:, :2], sides)).tolist(), "area": sides.prod(axis=1).tolist()}
        if of == "masks":
            of_boxes |= {"segmentation": of_image.mask_rle, "area": rle_area(of_image.mask_rle).tolist()}
        return of_boxes | {"category_id": (of_image.class_index + 5).tolist()}

    def rows(columns):
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    for image_id, (detections, objects) in enumerate(images, start=1):
        for row in rows(columns(objects) | {"iscrowd": objects.crowd.astype(int).tolist()}):
            annotations.append({**row, "id": len(annotations) + 1, "image_id": image_id})
        for row in rows(columns(detections) | {"score": detections.score.tolist()}):
            if of == "masks":
                del row["bbox"], row["area"]  # a result with a box is read as one of boxes
            results.append({**row, "image_id": image_id})
    data = COCO()
    data.dataset = {
        "info": {},
        "images": [{"id": n, "height": 448, "width": 448} for n in range(1, len(images) + 1)],
        "categories": [{"id": c + 5} for c in range(num_classes)],
        "annotations": annotations,
    }
    data.createIndex()
    evaluation = COCOeval(data, data.loadRes(results), "bbox" if of == "boxes" else "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    at_70 = evaluation.eval["precision"][4, :, :, 0, -1]
    six = evaluation.stats[:6].tolist()
    evaluation.params.iouThrs = np.array([0.25])
    evaluation.evaluate()
    evaluation.accumulate()
    at_25 = evaluation.eval["precision"][0, :, :, 0, -1]
    return [*six, *(precision[precision > -1].mean() for precision in (at_25, at_70))]


@pytest.mark.parametrize("of", ["boxes", "masks"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_classes_one_by_one_give_what_one_run_of_pycocotools_over_all_gives(of):
    rng = np.random.default_rng(1)
    side = 110 if of == "boxes" else 220  # half of a box is its mask, and there are to be large ones
    images = [random_image(rng, classes=4, flags=("crowd",), side=side) for _ in range(40)]
    if of == "masks":
        images = [with_random_masks(rng, *image, size_hw=(448, 448)) for image in images]
    coco = CocoAveragePrecision(5, of=of)  # class 4 never occurs
    for n in rng.permutation(len(images)).tolist():
        coco.add(str(n), *images[n])
    ours = coco.scores()
    expected = np.array(the_usual_way(images, 5, of))
    assert ((expected > 0) & (expected < 1)).all()
    found_aps = [*ours.summary().values(), ours.mean(iou_threshold=LOW_IOU), ours.mean(iou_threshold=0.7)]
    assert_near(found_aps, expected, length=4 * 10 * 101)  # classes, IoUs, recalls
    assert np.isnan(ours.per_class()[4])


def test_an_iou_of_a_quarter_counts_at_the_low_threshold_and_not_in_the_mean():
    scores = scores_of((found((0, 0.9, 0, 0, 100, 25)), truth((0, *BOX))))
    assert scores.mean(iou_threshold=LOW_IOU) == pytest.approx(1.0)
    assert scores.mean(iou_threshold=0.5) == scores.mean() == 0.0


def test_masks_in_one_box_are_told_apart_and_have_their_own_size():
    stripe = box_mask((100, 100), 0, 0, 100, 10)  # 1,000 pixels of a box of 10,000
    objects = with_masks(truth((0, *BOX)), stripe)
    detections = with_masks(found((0, 0.9, *BOX), (0, 0.8, *BOX)), ~stripe, stripe)
    assert scores_of((detections, objects)).summary()["AP_large"] == pytest.approx(1.0)
    summary = scores_of((detections, objects), of="masks").summary()
    assert summary["AP"] == pytest.approx(0.5)
    assert summary["AP_small"] == pytest.approx(1.0)  # the other mask found nothing and is large
    assert np.isnan(summary["AP_large"])


def test_a_mask_of_one_pixel_is_found_and_one_of_none_is_not():
    pixel, empty = box_mask((9, 9), 8, 8, 9, 9), np.zeros((9, 9), bool)
    objects = with_masks(truth((0, *BOX), (1, *BOX)), pixel, empty)
    detections = with_masks(found((0, 0.9, *BOX), (1, 0.9, *BOX)), pixel, empty)
    assert scores_of((detections, objects), num_classes=2, of="masks").per_class() == pytest.approx([1.0, 0.0])


def test_objects_without_a_mask_are_not_there_and_detections_without_one_are_an_error():
    objects = with_masks(truth((0, *BOX), (0, *OTHER)), box_mask(SIZE, *BOX), None)
    detections = filled(found((0, 0.9, *OTHER), (0, 0.8, *BOX)), SIZE)
    assert scores_of((detections, objects), of="masks").mean() == pytest.approx(0.5)
    with pytest.raises(DataError, match="image 0: expected a mask for each of 1 boxes, got boxes alone"):
        scores_of((found((0, 0.9, *BOX)), objects), of="masks")


def test_nothing_added_gives_nan():
    scores = scores_of(num_classes=2)
    assert np.isnan(scores.per_class()).all()
    assert all(np.isnan(value) for value in scores.summary().values())
    assert scores.images == 0


def test_wrong_classes_and_repeated_images_are_errors():
    coco = CocoAveragePrecision(1)
    coco.add("img7", found(), truth())
    with pytest.raises(DataError, match="img7: expected each image once"):
        coco.add("img7", found(), truth())
    with pytest.raises(DataError, match=r"img8: expected detections of classes 0\.\.0, got class 1"):
        coco.add("img8", found((1, 0.5, *BOX)), truth())
