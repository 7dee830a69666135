import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.support.metric_images import found, random_image, truth
from tests.support.tolerances import assert_near
from weaksam.errors import DataError
from weaksam.metrics.coco import CocoAveragePrecision

BOX = (0, 0, 100, 100)
OTHER = (200, 200, 300, 300)


def scores_of(*images, num_classes=1):
    coco = CocoAveragePrecision(num_classes)
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


def the_usual_way(images, num_classes):
    """One run of COCOeval over all classes and images, as its demo has it; the six numbers, -1 for NaN."""
    annotations, results = [], []
    for image_id, (detections, objects) in enumerate(images, start=1):
        for (x1, y1, x2, y2), c, crowd in zip(
            objects.boxes_xyxy.tolist(), objects.class_index.tolist(), objects.crowd.tolist(), strict=True
        ):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": c + 5}
            annotations.append({**box, **ids, "iscrowd": int(crowd)})
        for (x1, y1, x2, y2), c, score in zip(
            detections.boxes_xyxy.tolist(), detections.class_index.tolist(), detections.score.tolist(), strict=True
        ):
            ids = {"image_id": image_id, "category_id": c + 5}
            results.append({"bbox": [x1, y1, x2 - x1, y2 - y1], "score": score, **ids})
    data = COCO()
    data.dataset = {
        "info": {},
        "images": [{"id": n} for n in range(1, len(images) + 1)],
        "categories": [{"id": c + 5} for c in range(num_classes)],
        "annotations": annotations,
    }
    data.createIndex()
    evaluation = COCOeval(data, data.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6]


def test_classes_one_by_one_give_what_one_run_over_all_gives(capsys):
    rng = np.random.default_rng(1)
    images = [random_image(rng, classes=4, flags=("crowd",), side=110) for _ in range(40)]
    coco = CocoAveragePrecision(5)  # class 4 never occurs
    for n in rng.permutation(len(images)).tolist():
        coco.add(str(n), *images[n])
    ours = coco.scores()
    assert capsys.readouterr().out == ""
    expected = the_usual_way(images, 5)
    assert ((expected > 0) & (expected < 1)).all()
    assert_near(list(ours.summary().values()), expected, length=4 * 10 * 101)  # classes, IoUs, recalls
    assert np.isnan(ours.per_class()[4])


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
