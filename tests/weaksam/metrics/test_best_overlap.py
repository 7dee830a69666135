import numpy as np
import pytest

from tests.support.metric_images import filled, random_image, truth, with_masks, with_random_masks
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle
from weaksam.metrics.best_overlap import BestOverlap
from weaksam.structures import Proposals

BOX, HALF, OTHER = (0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60)


def proposed(*boxes):
    return Proposals(
        size_hw=(128, 128),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        source=["grid"] * len(boxes),
        prompt_index=np.zeros(len(boxes), np.int32),
        mask_index=np.zeros(len(boxes), np.int8),
        predicted_iou=np.zeros(len(boxes), np.float32),
    )


def scores_of(*images, num_classes=2, of="boxes", **options):
    best = BestOverlap(num_classes, of=of, **options)
    for image_id, image in enumerate(images):
        best.add(image_id, *image)
    return best.scores()


@pytest.mark.parametrize(
    ("proposals", "objects", "per_class", "count"),
    [
        pytest.param(proposed(HALF, OTHER), truth((0, *BOX)), [0.5, np.nan], [1, 0], id="half"),
        pytest.param(proposed(HALF, BOX, BOX), truth((0, *BOX), (1, *HALF)), [1, 1], [1, 1], id="whatever-the-class"),
        pytest.param(proposed(BOX), truth((0, *BOX), (0, *HALF)), [0.75, np.nan], [2, 0], id="one-proposal-for-two"),
        pytest.param(proposed(OTHER), truth((0, *BOX)), [0, np.nan], [1, 0], id="elsewhere"),
        pytest.param(proposed(), truth((1, *BOX)), [np.nan, 0], [0, 1], id="no-proposals"),
        pytest.param(proposed(BOX), truth(), [np.nan, np.nan], [0, 0], id="no-objects"),
        pytest.param(proposed(), truth(), [np.nan, np.nan], [0, 0], id="nothing"),
        pytest.param(
            proposed(BOX), truth((0, *BOX), (0, *OTHER), crowd=[1]), [1, np.nan], [1, 0], id="a-crowd-does-not-count"
        ),
        pytest.param(
            proposed(BOX), truth((0, *BOX), (0, *OTHER), difficult=[1]), [0.5, np.nan], [2, 0], id="difficult-does"
        ),
        pytest.param(
            proposed((9, 9, 10, 10)), truth((0, 9, 9, 10, 10), (1, *BOX)), [1, 0.01], [1, 1], id="one-pixel"
        ),
    ],
)  # fmt: skip
def test_one_image(proposals, objects, per_class, count):
    for scores in (
        scores_of((proposals, objects)),
        scores_of((filled(proposals), filled(objects)), of="masks"),
    ):
        assert scores.per_class == pytest.approx(per_class, nan_ok=True)
        assert scores.objects.tolist() == count


def test_the_mean_is_over_classes_and_not_over_objects():
    scores = scores_of((proposed(BOX), truth((0, *BOX), (1, *OTHER))), (proposed(), truth((1, *BOX))), num_classes=3)
    assert scores.per_class == pytest.approx([1, 0, np.nan], nan_ok=True)
    assert scores.mean == 0.5
    assert np.isnan(scores_of().mean)


def test_difficult_objects_can_be_left_out():
    image = proposed(BOX), truth((0, *BOX), (0, *OTHER), difficult=[1])
    assert scores_of(image, include_difficult=False).per_class[0] == 1.0


def test_masks_and_boxes_are_not_mixed():
    masks = with_masks(proposed(BOX), np.eye(10))
    objects = with_masks(truth((0, *BOX), (0, *OTHER)), np.ones((10, 10)), None)  # the second has no mask: not there
    assert scores_of((masks, objects), of="masks").per_class[0] == 0.1
    assert scores_of((masks, objects)).per_class[0] == 0.5
    with pytest.raises(DataError, match="image 0: expected a mask for each of 1 boxes, got boxes alone"):
        scores_of((proposed(BOX), objects), of="masks")
    with pytest.raises(DataError, match="got boxes alone"):
        scores_of((masks, truth((0, *BOX))), of="masks")


def test_wrong_classes_and_repeated_images_are_errors():
    best = BestOverlap(1)
    best.add("img7", proposed(), truth())
    with pytest.raises(DataError, match="img7: expected each image once"):
        best.add("img7", proposed(), truth())
    with pytest.raises(DataError, match=r"img8: expected true objects of classes 0\.\.0, got class 1"):
        best.add("img8", proposed(), truth((1, *BOX)))


def test_random_masks_agree_with_counting_pixels():
    rng = np.random.default_rng(3)
    images, values = [], [[], []]
    for _ in range(20):
        detections, objects = with_random_masks(rng, *random_image(rng, classes=2))
        proposals = with_masks(proposed(*detections.boxes_xyxy), *map(decode_rle, detections.mask_rle))
        images.append((proposals, objects))
        for c, crowd, rle in zip(objects.class_index, objects.crowd, objects.mask_rle, strict=True):
            true, masks = decode_rle(rle), map(decode_rle, proposals.mask_rle)
            if not crowd:
                values[c].append(max(((mask & true).sum() / (mask | true).sum() for mask in masks), default=0.0))
    scores = scores_of(*images, of="masks")
    assert scores.objects.tolist() == [len(of_class) for of_class in values]
    assert scores.per_class == pytest.approx([np.mean(of_class) for of_class in values])
    assert (scores.per_class > 0.1).all()
    assert (scores.per_class < 0.9).all()
