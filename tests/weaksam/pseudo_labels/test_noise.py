from collections import Counter

import numpy as np
import pytest

from tests.support.tolerances import assert_near
from weaksam.boxes_np import iou_float64
from weaksam.pseudo_labels.noise import CLASS, CLEAN, MISSING, PLACE, TrueBoxes, add_noise

SIZE_HW = (60, 80)


def image(*boxes, classes=None, size_hw=SIZE_HW):
    return TrueBoxes(
        size_hw=size_hw,
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        class_index=np.array(classes if classes is not None else [0] * len(boxes), np.int64),
    )


def random_images(count, *, classes=4, longest=40, seed=0):
    """Images of up to five boxes with sides of 5 to ``longest`` pixels."""
    generator = np.random.default_rng(seed)
    images = {}
    for n in range(count):
        number = generator.integers(6)
        sides = generator.integers(5, longest + 1, (number, 2))
        corners = generator.integers(0, np.array(SIZE_HW[::-1]) - sides, endpoint=True)
        boxes = np.concatenate([corners, corners + sides], axis=1)
        images[f"{n:04}"] = image(*boxes, classes=generator.integers(0, classes, number))
    return images


def kinds(images, noisy):
    """What was done to every box of every image, in order."""
    found = []
    for image_id, truth in images.items():
        left = iter(noisy[image_id].kind)
        gone = set(noisy[image_id].missing.tolist())
        found += [MISSING if n in gone else next(left) for n in range(len(truth.boxes_xyxy))]
        assert next(left, None) is None
    return found


def test_the_share_is_exact_and_in_equal_thirds():
    images = random_images(200)
    total = sum(len(truth.boxes_xyxy) for truth in images.values())
    found = Counter(kinds(images, add_noise(images, num_classes=4, share=0.3, seed=0)))
    chosen = round(0.3 * total)
    assert found[CLEAN] == total - chosen
    assert max(found[kind] for kind in (PLACE, CLASS, MISSING)) <= chosen // 3 + 1
    assert min(found[kind] for kind in (PLACE, CLASS, MISSING)) >= chosen // 3


def test_what_was_said_to_be_done_was_done():
    images = random_images(200)
    for image_id, noisy in add_noise(images, num_classes=4, share=0.6, seed=0).items():
        truth = images[image_id]
        old = np.delete(np.arange(len(truth.boxes_xyxy)), noisy.missing)
        for n, kind, box, c in zip(old, noisy.kind, noisy.boxes_xyxy, noisy.class_index, strict=True):
            before = truth.boxes_xyxy[n]
            assert (c != truth.class_index[n]) == (kind == CLASS)
            assert 0 <= c < 4
            if kind != PLACE:
                assert box.tolist() == before.tolist()
                continue
            assert_near(box[2:] - box[:2], before[2:] - before[:2], length=4, magnitude=80.0)  # the image's width
            assert (box >= 0).all()
            assert (box <= np.array([80, 60, 80, 60])).all()
            assert iou_float64(box[None], before[None])[0, 0] < 0.3


def test_neither_the_order_of_images_nor_another_run_changes_anything():
    images = random_images(30)
    shuffled = dict(sorted(images.items(), reverse=True))
    one, other = (add_noise(i, num_classes=4, share=0.5, seed=1) for i in (images, shuffled))
    assert list(other) == list(shuffled)
    for image_id, noisy in one.items():
        assert noisy.boxes_xyxy.tolist() == other[image_id].boxes_xyxy.tolist()
        assert noisy.class_index.tolist() == other[image_id].class_index.tolist()
        assert (noisy.kind, noisy.missing.tolist()) == (other[image_id].kind, other[image_id].missing.tolist())


def test_another_seed_chooses_other_boxes():
    images = random_images(50)
    one, other = (kinds(images, add_noise(images, num_classes=4, share=0.3, seed=seed)) for seed in (0, 1))
    assert one != other


def test_more_noise_falls_on_the_same_boxes_and_others():
    images = random_images(50)
    little, much = (kinds(images, add_noise(images, num_classes=4, share=share, seed=0)) for share in (0.2, 0.5))
    assert all(more != CLEAN for less, more in zip(little, much, strict=True) if less != CLEAN)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_noise_and_nothing_but_noise(share):
    images = random_images(20)
    found = kinds(images, add_noise(images, num_classes=4, share=share, seed=0))
    assert (CLEAN in found, len(set(found) - {CLEAN})) == ((True, 0) if share == 0 else (False, 3))


def test_no_images_and_no_boxes():
    assert add_noise({}, num_classes=4, share=0.5, seed=0) == {}
    noisy = add_noise({"a": image()}, num_classes=4, share=1.0, seed=0)["a"]
    assert (noisy.boxes_xyxy.shape, noisy.class_index.shape, noisy.kind, len(noisy.missing)) == ((0, 4), (0,), [], 0)


def test_boxes_that_have_no_other_place_become_noise_of_other_kinds():
    # A box over 9 of 10 columns and rows overlaps itself everywhere.
    images = {str(n): image((0, 0, 72, 54)) for n in range(30)}
    found = Counter(kinds(images, add_noise(images, num_classes=4, share=1.0, seed=0)))
    assert found == {CLASS: 15, MISSING: 15}


def test_few_boxes_that_can_move_are_all_moved():
    images = {str(n): image((0, 0, 72, 54)) for n in range(10)} | {"a": image((0, 0, 9, 9)), "b": image((0, 0, 9, 9))}
    noisy = add_noise(images, num_classes=4, share=1.0, seed=0)
    assert Counter(kinds(images, noisy)) == {PLACE: 2, CLASS: 5, MISSING: 5}
    assert noisy["a"].kind == noisy["b"].kind == [PLACE]


def test_the_only_class_cannot_be_wrong():
    images = random_images(40, classes=1)
    found = Counter(kinds(images, add_noise(images, num_classes=1, share=0.5, seed=0)))
    assert found[CLASS] == 0
    assert abs(found[PLACE] - found[MISSING]) <= 1


def test_of_two_classes_the_other_is_the_wrong_one():
    images = random_images(40, classes=2)
    for image_id, noisy in add_noise(images, num_classes=2, share=0.5, seed=0).items():
        old = np.delete(images[image_id].class_index, noisy.missing)
        for kind, before, after in zip(noisy.kind, old, noisy.class_index, strict=True):
            assert after == (1 - before if kind == CLASS else before)


def test_a_moved_box_does_not_land_on_another_object_of_its_class():
    # Four objects of one class fill the corners; only the middle is free.
    corners = [(0, 0, 25, 20), (55, 0, 80, 20), (0, 40, 25, 60), (55, 40, 80, 60)]
    images = {str(n): image(*corners) for n in range(30)}
    moved = 0
    for noisy in add_noise(images, num_classes=2, share=1.0, seed=0).values():
        for box in noisy.boxes_xyxy[np.array(noisy.kind) == PLACE]:
            moved += 1
            assert iou_float64(box[None], images["0"].boxes_xyxy).max() < 0.3
    assert moved == 40
