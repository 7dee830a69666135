import numpy as np
import pytest

from tests.support.metric_images import (
    box_mask,
    filled,
    found,
    random_image,
    truth,
    with_masks,
    with_random_masks,
)
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle
from weaksam.metrics.detection import (
    VocAveragePrecision,
    area_average_precision,
    eleven_point_average_precision,
)

T, F = True, False
BOX = (0, 0, 10, 10)
OTHER = (50, 50, 60, 60)


def scores_of(*images, num_classes=1, style="devkit", iou_threshold=0.5, of="boxes"):
    voc = VocAveragePrecision(num_classes, style=style, of=of)
    for image_id, (detections, objects) in enumerate(images):
        voc.add(image_id, detections, objects)
    return voc.scores(iou_threshold)


@pytest.mark.parametrize(
    ("hit", "objects", "eleven_point", "area"),
    [
        # Precision 1, 1/2, 2/3, 3/4, 3/5 at recall 1/4, 1/4, 2/4, 3/4, 3/4: at best 1 up to 1/4 and 3/4 up to 3/4.
        # 11 points: 0, .1, .2 have 1; .3 ... .7 have 3/4; .8, .9, 1 have 0.
        pytest.param([T, F, T, T, F], 4, (3 + 5 * 0.75) / 11, 0.25 + 0.5 * 0.75, id="a-curve"),
        pytest.param([F, T], 1, 0.5, 0.5, id="the-last-finds-the-only-object"),
        pytest.param([T, F, F], 1, 1.0, 1.0, id="false-positives-after-the-last-object-are-free"),
        pytest.param([F, F], 3, 0.0, 0.0, id="only-false-positives"),
        pytest.param([], 3, 0.0, 0.0, id="no-detections"),
        pytest.param([F], 0, np.nan, np.nan, id="no-objects"),
        pytest.param([], 0, np.nan, np.nan, id="nothing"),
    ],
)
def test_average_precision_of_a_hand_made_ranking(hit, objects, eleven_point, area):
    hit = np.array(hit, bool)
    assert eleven_point_average_precision(hit, objects) == pytest.approx(eleven_point, nan_ok=True)
    assert area_average_precision(hit, objects) == pytest.approx(area, nan_ok=True)


@pytest.mark.parametrize(
    ("hits", "objects", "published", "exact"),
    [
        (3, 10, 3, 4),  # 0, .1 and .2; .3 is reached by the exact rule alone
        (6, 10, 6, 7),
        (7, 10, 7, 8),
        (6, 20, 3, 4),
        (1, 10, 2, 2),  # no other level is missed
        (2, 10, 3, 3),
        (4, 10, 5, 5),
        (5, 10, 6, 6),
        (8, 10, 9, 9),
        (9, 10, 10, 10),
        (10, 10, 11, 11),
        (3, 9, 4, 4),  # a recall of 1/3 is beyond .3
    ],
)
def test_a_recall_of_exactly_a_level_reaches_it_or_misses_it_by_the_published_rounding(hits, objects, published, exact):
    hit = np.full(hits, True)  # all right: the precision is 1 at every level that is reached
    assert eleven_point_average_precision(hit, objects) == pytest.approx(published / 11)
    assert eleven_point_average_precision(hit, objects, levels="published") == pytest.approx(published / 11)
    assert eleven_point_average_precision(hit, objects, levels="exact") == pytest.approx(exact / 11)


@pytest.mark.parametrize(("levels", "expected"), [("published", 3 / 11), ("exact", 4 / 11)])
def test_the_levels_arrive_at_the_eleven_points(levels, expected):
    corners = [(20 * n, 0, 20 * n + 10, 10) for n in range(10)]
    voc = VocAveragePrecision(1, levels=levels)
    voc.add("a", found(*((0, 0.9, *box) for box in corners[:3])), truth(*((0, *box) for box in corners)))
    assert voc.scores().mean_eleven_point == pytest.approx(expected)


@pytest.mark.parametrize(
    ("detections", "objects", "expected"),
    [
        pytest.param(found((0, 0.9, *BOX)), truth((0, *BOX)), 1.0, id="found"),
        pytest.param(found((0, 0.9, *OTHER)), truth((0, *BOX)), 0.0, id="missed"),
        pytest.param(found(), truth((0, *BOX)), 0.0, id="no-detections"),
        pytest.param(found((0, 0.9, *BOX)), truth(), np.nan, id="no-objects"),
        pytest.param(
            found((0, 0.9, *BOX), (0, 0.8, *BOX), (0, 0.7, *OTHER)),
            truth((0, *BOX), (0, *OTHER)),
            0.5 + 0.5 * 2 / 3,  # hit, false positive, hit: precision 1 at recall 1/2, 2/3 at recall 1
            id="a-second-match-is-a-false-positive",
        ),
        pytest.param(
            # Both overlap the first object most (100/100, 90/100); the second one has 90/110 with the 10 x 11 object.
            found((0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 10, 9)),
            truth((0, 0, 0, 10, 10), (0, 0, 0, 10, 11)),
            0.5,
            id="a-taken-object-is-not-exchanged-for-the-next-best",
        ),
        pytest.param(
            found((0, 0.8, *BOX), (0, 0.9, *OTHER)), truth((0, *BOX)), 0.5, id="ranked-by-score-not-as-given"
        ),
        pytest.param(
            found((0, 0.9, *OTHER), (0, 0.8, *BOX)), truth((0, *BOX), (0, *OTHER), difficult=[1]), 1.0,
            id="on-a-difficult-object-is-ignored",
        ),
        pytest.param(
            found((0, 0.9, *OTHER), (0, 0.9, *OTHER), (0, 0.8, *BOX)), truth((0, *BOX), (0, *OTHER), crowd=[1]), 1.0,
            id="on-a-crowd-is-ignored-however-often",
        ),
        pytest.param(
            found((0, 0.8, *BOX)), truth((0, *BOX), (0, *OTHER), difficult=[1]), 1.0,
            id="a-difficult-object-need-not-be-found",
        ),
        pytest.param(found((0, 0.9, *BOX)), truth((0, *BOX), difficult=[0]), np.nan, id="only-a-difficult-object"),
        pytest.param(
            found((0, 0.9, 0, 0, 10, 4), (0, 0.8, *BOX)), truth((0, *BOX), difficult=[]), 0.5,
            id="a-poor-overlap-does-not-take-the-object",
        ),
    ],
)  # fmt: skip
def test_one_image_of_one_class(detections, objects, expected):
    assert scores_of((detections, objects)).area[0] == pytest.approx(expected, nan_ok=True)
    assert scores_of((filled(detections), filled(objects)), of="masks").area[0] == pytest.approx(expected, nan_ok=True)


def test_classes_do_not_meet_and_the_mean_leaves_out_those_without_objects():
    image = found((1, 0.9, *BOX), (0, 0.8, *BOX), (2, 0.7, *BOX)), truth((0, *BOX), (1, *OTHER))
    scores = scores_of(image, num_classes=3)
    np.testing.assert_array_equal(scores.area, [1.0, 0.0, np.nan])
    np.testing.assert_array_equal(scores.eleven_point, [1.0, 0.0, np.nan])
    assert (scores.mean_area, scores.mean_eleven_point) == (0.5, 0.5)
    assert (scores.objects.tolist(), scores.images) == ([1, 1, 0], 1)


def test_an_object_belongs_to_its_image():
    here, there = (found(), truth((0, *BOX))), (found((0, 0.9, *BOX)), truth())
    assert scores_of(here, there).area[0] == 0.0


def test_nothing_added_gives_nan():
    scores = scores_of(num_classes=2)
    assert np.isnan(scores.area).all()
    assert np.isnan(scores.mean_area)
    assert np.isnan(scores.mean_eleven_point)
    assert scores.images == 0


@pytest.mark.parametrize(
    ("box", "iou_threshold", "devkit", "chainer"),
    [
        # 50/100 = .5; one pixel further out 66/121 = .55
        pytest.param((0, 0, 10, 5), 0.5, 0, 1, id="equal-in-exclusive-pixels"),
        pytest.param((0, 0, 10, 6), 0.5, 1, 1, id="above"),
        # 45/100; 60/121 = .496
        pytest.param((0, 0, 9, 5), 0.5, 0, 0, id="below"),
        pytest.param((0, 0, 10, 9), 0.9, 0, 1, id="nine-tenths"),
    ],
)
def test_styles_differ_at_the_border(box, iou_threshold, devkit, chainer):
    image = found((0, 0.9, *box)), truth((0, *BOX))
    assert scores_of(image, style="devkit", iou_threshold=iou_threshold).area[0] == devkit
    assert scores_of(image, style="chainer", iou_threshold=iou_threshold).area[0] == chainer


def test_chainer_counts_an_iou_equal_to_the_threshold():
    image = found((0, 0.9, 0, 0, 9, 4)), truth((0, 0, 0, 9, 9))  # 10 x 5 of 10 x 10 one pixel further out
    assert scores_of(image, style="chainer", iou_threshold=0.5).area[0] == 1.0
    assert scores_of(image, style="chainer", iou_threshold=0.501).area[0] == 0.0


def test_one_matching_answers_every_threshold():
    # IoU .6 comes first and takes the object below .6; above, it is a false positive in front of IoU .9.
    voc = VocAveragePrecision(1)
    voc.add("a", found((0, 0.9, 0, 0, 10, 6), (0, 0.8, 0, 0, 10, 9)), truth((0, *BOX)))
    expected = {0.5: 1.0, 0.6: 0.5, 0.8: 0.5, 0.9: 0.0, 1.0: 0.0}
    assert {threshold: voc.scores(threshold).area[0] for threshold in expected} == expected


@pytest.mark.parametrize("order", [("9", "10"), ("10", "9")])
def test_equal_scores_are_ranked_by_image_id_whatever_the_order_of_images(order):
    images = {"9": (found((0, 0.5, *OTHER)), truth()), "10": (found((0, 0.5, *BOX)), truth((0, *BOX)))}
    voc = VocAveragePrecision(1)
    for image_id in order:
        voc.add(image_id, *images[image_id])
    assert voc.scores().area[0] == 0.5  # the false positive of image 9, then the hit of image 10


def test_equal_scores_of_one_image_are_ranked_as_given():
    hit, wrong = (0, 0.5, *BOX), (0, 0.5, *OTHER)
    assert scores_of((found(hit, wrong), truth((0, *BOX)))).area[0] == 1.0
    assert scores_of((found(wrong, hit), truth((0, *BOX)))).area[0] == 0.5


def textbook(images, class_index, iou_threshold, style, of):
    """Hits and objects of one class: all detections of all images in one list, best first, matched one by one."""
    grow = 1 if style == "chainer" else 0

    def regions(boxes):
        return boxes.boxes_xyxy.tolist() if of == "boxes" else [decode_rle(rle) for rle in boxes.mask_rle]

    def iou(a, b):
        if of == "masks":
            return (a & b).sum() / (a | b).sum()
        width = min(a[2], b[2]) - max(a[0], b[0]) + grow
        height = min(a[3], b[3]) - max(a[1], b[1]) + grow
        overlap = max(width, 0) * max(height, 0)
        area_a, area_b = ((c[2] - c[0] + grow) * (c[3] - c[1] + grow) for c in (a, b))
        return overlap / (area_a + area_b - overlap)

    ranked = []
    objects = {}
    for image, (detections, true) in enumerate(images):
        objects[image] = [
            (box, hard)
            for box, c, hard in zip(regions(true), true.class_index, true.difficult | true.crowd, strict=True)
            if c == class_index
        ]
        for n, (box, c, score) in enumerate(
            zip(regions(detections), detections.class_index, detections.score, strict=True)
        ):
            if c == class_index:
                ranked.append((-score, image, n, box))
    hits, taken = [], set()
    for _, image, _, box in sorted(ranked, key=lambda row: row[:3]):
        overlaps = [iou(box, other) for other, _ in objects[image]]
        best = max(overlaps, default=0.0)
        key = (image, overlaps.index(best)) if overlaps else None
        if not (best > iou_threshold or (style == "chainer" and best == iou_threshold)):
            hits.append(False)
        elif not objects[image][key[1]][1]:
            hits.append(key not in taken)
            taken.add(key)
    return np.array(hits, bool), sum(not hard for rows in objects.values() for _, hard in rows)


@pytest.mark.parametrize("style", ["devkit", "chainer"])
@pytest.mark.parametrize("iou_threshold", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("of", ["boxes", "masks"])
def test_scores_equal_the_textbook_algorithm(style, iou_threshold, of):
    rng = np.random.default_rng(0)
    images = [random_image(rng, classes=3) for _ in range(60)]
    if of == "masks":
        images = [with_random_masks(rng, *image) for image in images]
    scores = scores_of(*images, num_classes=3, style=style, iou_threshold=iou_threshold, of=of)
    for c in range(3):
        hits, objects = textbook(images, c, iou_threshold, style, of)
        assert 0 < hits.sum() < len(hits)
        assert scores.objects[c] == objects
        assert scores.eleven_point[c] == eleven_point_average_precision(hits, objects)
        assert scores.area[c] == area_average_precision(hits, objects)


@pytest.mark.parametrize(
    ("detections", "objects", "message"),
    [
        pytest.param(
            found((2, 0.5, *BOX)), truth(), "img7: expected detections of classes 0..1, got class 2", id="class"
        ),
        pytest.param(found((-1, 0.5, *BOX)), truth(), "got class -1", id="background"),
        pytest.param(found(), truth((2, *BOX)), "expected true objects of classes 0..1", id="true-class"),
        pytest.param(found((0, np.nan, *BOX)), truth(), "img7: expected finite scores", id="nan"),
    ],
)
def test_what_cannot_be_measured_is_an_error(detections, objects, message):
    with pytest.raises(DataError, match=message):
        VocAveragePrecision(2).add("img7", detections, objects)


def test_an_image_counts_once():
    voc = VocAveragePrecision(1)
    voc.add("img7", found(), truth())
    with pytest.raises(DataError, match="img7: expected each image once"):
        voc.add("img7", found(), truth())


@pytest.mark.parametrize("threshold", [0.0, 1.1, -0.5])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match="IoU threshold"):
        VocAveragePrecision(1).scores(threshold)


def test_masks_in_one_box_are_told_apart():
    upper = np.triu(np.ones((10, 10), bool))
    detections = with_masks(found((0, 0.9, *BOX), (0, 0.8, *BOX)), upper.T, upper)
    objects = with_masks(truth((0, *BOX)), upper)
    assert scores_of((detections, objects)).area[0] == 1.0
    assert scores_of((detections, objects), of="masks").area[0] == 0.5  # they share the diagonal, 10 of 100 pixels


def test_a_mask_is_an_iou_of_the_threshold_away_from_being_right():
    image = with_masks(found((0, 0.9, *BOX)), np.eye(10)), with_masks(truth((0, *BOX)), np.eye(10, k=1) + np.eye(10))
    assert scores_of(image, of="masks", iou_threshold=0.5).area[0] == 1.0  # 10 of 19 pixels
    image = (
        with_masks(found((0, 0.9, *BOX)), box_mask((9, 9), 3, 3, 4, 4)),
        with_masks(truth((0, *BOX)), np.eye(9, k=9)),
    )
    assert scores_of(image, of="masks", iou_threshold=0.01).area[0] == 0.0  # a true mask without a pixel is never found


@pytest.mark.parametrize(("style", "expected"), [("devkit", 0.0), ("chainer", 1.0)])
def test_styles_of_masks_differ_at_an_iou_equal_to_the_threshold(style, expected):
    image = filled(found((0, 0.9, 0, 0, 10, 5))), filled(truth((0, *BOX)))
    assert scores_of(image, of="masks", style=style).area[0] == expected


def test_an_object_without_a_mask_is_not_there():
    detections = filled(found((0, 0.9, *OTHER), (0, 0.8, *BOX)))
    objects = with_masks(truth((0, *BOX), (0, *OTHER)), box_mask((128, 128), *BOX), None)
    scores = scores_of((detections, objects), of="masks")
    assert (scores.objects.tolist(), scores.area.tolist()) == ([1], [0.5])  # what was found on it is wrong


def test_masks_that_are_missing_or_of_another_size_are_an_error():
    voc = VocAveragePrecision(1, of="masks")
    with pytest.raises(DataError, match="image img7: expected a mask for each of 1 boxes, got boxes alone"):
        voc.add("img7", found((0, 0.9, *BOX)), filled(truth((0, *BOX))))
    with pytest.raises(DataError, match="image img7: expected a mask for each of 1 boxes, got boxes alone"):
        voc.add("img7", filled(found()), truth((0, *BOX)))
    with pytest.raises(DataError, match="image img7: expected masks of one image"):
        voc.add("img7", filled(found((0, 0.9, *BOX))), filled(truth((0, *BOX)), (70, 128)))
    assert (voc.scores().images, voc.objects.tolist()) == (0, [0])
