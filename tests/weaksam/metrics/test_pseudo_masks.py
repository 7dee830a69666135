import numpy as np
import pytest

from tests.support.metric_images import box_mask, filled, found, random_image, truth, with_masks, with_random_masks
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle
from weaksam.metrics.boundary import boundary_scores
from weaksam.metrics.pseudo_masks import BINS, PseudoMaskQuality, compare_masks
from weaksam.structures import PseudoGroundTruth

SIZE = (40, 50)
BOX, HALF, OTHER = (5, 5, 15, 15), (5, 5, 15, 10), (25, 25, 35, 35)


def pseudo(*rows):
    """Filled pseudo masks of one image from rows of (class, score, x1, y1, x2, y2)."""
    return as_pseudo(filled(found(*rows), SIZE))


def as_pseudo(detections):
    return PseudoGroundTruth(
        boxes_xyxy=detections.boxes_xyxy,
        class_index=detections.class_index,
        score=detections.score,
        score_normalised=detections.score,
        mask_rle=detections.mask_rle,
    )


def true(*rows, **flags):
    return filled(truth(*rows, **flags), SIZE)


def scores_of(*images, num_classes=2):
    quality = PseudoMaskQuality(num_classes)
    for image_id, image in enumerate(images):
        quality.add(image_id, *image)
    return quality.scores()


@pytest.mark.parametrize(
    ("masks", "objects", "index", "iou"),
    [
        pytest.param(pseudo((0, 0.9, *HALF)), true((0, *BOX)), [0], [0.5], id="half"),
        pytest.param(pseudo((0, 0.9, *HALF), (0, 0.1, *BOX)), true((0, *BOX)), [1], [1], id="best-not-best-scoring"),
        pytest.param(pseudo((0, 0.1, *BOX), (0, 0.9, *BOX)), true((0, *BOX)), [0], [1], id="a-tie-takes-the-first"),
        pytest.param(pseudo((0, 0.9, *BOX)), true((0, *BOX), (0, *HALF)), [0, 0], [1, 0.5], id="one-for-two"),
        pytest.param(pseudo((1, 0.9, *BOX)), true((0, *BOX)), [-1], [0], id="of-another-class"),
        pytest.param(pseudo((0, 0.9, *OTHER)), true((0, *BOX)), [-1], [0], id="elsewhere"),
        pytest.param(pseudo(), true((0, *BOX)), [-1], [0], id="no-masks"),
        pytest.param(pseudo((0, 0.9, *BOX)), true(), [], [], id="no-objects"),
        pytest.param(pseudo(), true(), [], [], id="nothing"),
        pytest.param(pseudo((0, 0.9, *BOX)), true((0, *BOX), (0, *BOX), difficult=[0], crowd=[1]), [], [],
                     id="difficult-and-crowds-do-not-count"),
        pytest.param(pseudo((0, 0.9, 49, 39, 50, 40)), true((0, 49, 39, 50, 40)), [0], [1], id="one-pixel-in-the-corner"),
    ],
)  # fmt: skip
def test_each_object_meets_the_mask_of_its_class_that_overlaps_it_most(masks, objects, index, iou):
    compared = compare_masks(7, masks, objects)
    assert (compared.pseudo_index.tolist(), compared.iou.tolist()) == (index, iou)
    assert len(compared.class_index) == len(compared.boundary_f) == len(index)
    full = np.array(iou) == 1
    assert compared.boundary_f[full].tolist() == [1] * full.sum()
    assert (compared.boundary_f[~full] < 1).all()
    assert (compared.boundary_f[np.array(index) < 0] == 0).all()


def test_the_mean_of_an_image_is_by_class():
    objects = true((1, *BOX), (0, *OTHER), (1, *HALF))
    compared = compare_masks(7, pseudo((1, 0.9, *BOX)), objects)
    assert compared.mean_iou() == {0: 0.0, 1: 0.75}
    assert compare_masks(7, pseudo(), true()).mean_iou() == {}


def test_scores_of_two_images_by_hand():
    # Class 0: IoU 1 and 0 (missed); class 1: IoU .5; class 2 has no object.
    scores = scores_of(
        (pseudo((0, 0.9, *BOX), (1, 0.9, *HALF)), true((0, *BOX), (1, *BOX))),
        (pseudo((2, 0.9, *BOX)), true((0, *BOX))),
        num_classes=3,
    )
    assert scores.objects.tolist() == [2, 1, 0]
    assert scores.iou == pytest.approx([0.5, 0.5, np.nan], nan_ok=True)
    assert scores.mean_iou == 0.5
    histogram = np.zeros((3, BINS), int)
    histogram[0, [0, -1]], histogram[1, BINS // 2] = 1, 1
    assert scores.histogram.tolist() == histogram.tolist()
    # Within a pixel of the contour of the box (36 pixels) lie the upper 6 rows of it, 10 + 2 * 5 pixels. Of the half's 26,
    # its upper row (10), its sides (6 more) and the ends of its lower row (4: the outer two on each side).
    precision, recall = 20 / 26, 20 / 36
    assert scores.boundary_f == pytest.approx([0.5, 2 * precision * recall / (precision + recall), np.nan], nan_ok=True)
    assert scores.mean_boundary_f == pytest.approx(np.nanmean(scores.boundary_f))
    # An IoU equal to the threshold is not above it: one of three masks is right.
    assert (scores.labels.boxes.tolist(), scores.labels.correct.tolist()) == ([1, 1, 1], [1, 0, 0])
    assert scores.labels.recall == pytest.approx([0.5, 0, np.nan], nan_ok=True)


def test_nothing_added_is_not_a_number():
    scores = scores_of()
    assert np.isnan([*scores.iou, *scores.boundary_f, scores.mean_iou, scores.mean_boundary_f]).all()
    assert scores.histogram.tolist() == [[0] * BINS] * 2


def test_objects_without_a_mask_do_not_count():
    objects = with_masks(truth((0, *BOX), (0, *OTHER)), box_mask(SIZE, *BOX), None)
    scores = scores_of((pseudo((0, 0.9, *BOX)), objects))
    assert (scores.objects.tolist(), scores.iou[0], scores.labels.objects.tolist()) == ([1, 0], 1.0, [1, 0])


def test_what_cannot_be_compared_is_an_error():
    quality = PseudoMaskQuality(2)
    quality.add("img7", pseudo(), true())
    with pytest.raises(DataError, match="img7: expected each image once"):
        quality.add("img7", pseudo(), true())
    with pytest.raises(DataError, match="image img8: expected a mask for each of 1 boxes, got boxes alone"):
        quality.add("img8", as_pseudo(found((0, 0.9, *BOX))), true())
    with pytest.raises(DataError, match="image img9: expected masks of one image"):
        quality.add("img9", pseudo((0, 0.9, *BOX)), filled(truth((0, *BOX)), (41, 50)))
    assert quality.scores().objects.tolist() == [0, 0]


def test_random_masks_agree_with_comparing_pixels_one_by_one():
    rng = np.random.default_rng(5)
    images = [with_random_masks(rng, *random_image(rng, classes=2)) for _ in range(15)]
    iou, boundary = [[], []], [[], []]
    for detections, objects in images:
        for n, c in enumerate(objects.class_index.tolist()):
            if objects.difficult[n] or objects.crowd[n]:
                continue
            mask = decode_rle(objects.mask_rle[n])
            best = 0.0, 0.0
            for m in np.flatnonzero(detections.class_index == c):
                other = decode_rle(detections.mask_rle[m])
                of_pair = (mask & other).sum() / (mask | other).sum()
                if of_pair > best[0]:
                    best = of_pair, boundary_scores(other, mask).f
            iou[c].append(best[0])
            boundary[c].append(best[1])
    scores = scores_of(*((as_pseudo(detections), objects) for detections, objects in images))
    assert scores.iou == pytest.approx([np.mean(of_class) for of_class in iou])
    assert scores.boundary_f == pytest.approx([np.mean(of_class) for of_class in boundary])
    assert (scores.histogram.sum(axis=1) == scores.objects).all()
    assert scores.histogram[0].tolist() == np.histogram(iou[0], np.arange(BINS + 1) / BINS)[0].tolist()
    assert 0.1 < scores.mean_iou < 0.9
