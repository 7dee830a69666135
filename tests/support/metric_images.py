"""Hand-made images of detections and true objects for the tests of their measures."""

from dataclasses import replace

import numpy as np

from weaksam.masks_np import encode_rle
from weaksam.structures import Detections, GroundTruth


def found(*rows):
    """Detections of one image from rows of (class, score, x1, y1, x2, y2)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(
        boxes_xyxy=table[:, 2:].astype(np.float32),
        class_index=table[:, 0].astype(np.int64),
        score=table[:, 1].astype(np.float32),
        image_scores=np.full(1, np.nan, np.float32),
    )


def truth(*rows, difficult=(), crowd=()):
    """True objects of one image from rows of (class, x1, y1, x2, y2); the others are numbers of rows."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    return GroundTruth(
        boxes_xyxy=table[:, 1:],
        class_index=table[:, 0].astype(np.int64),
        difficult=np.isin(np.arange(len(table)), difficult),
        crowd=np.isin(np.arange(len(table)), crowd),
    )


def random_image(rng, *, classes, flags=("difficult", "crowd"), side=60):
    """Up to 6 objects, and up to 12 detections: jittered objects of any class and boxes anywhere, with tied scores."""
    corners = rng.integers(0, side, (rng.integers(0, 7), 2))
    objects = np.hstack((corners, corners + rng.integers(5, side, corners.shape)))
    object_classes = rng.integers(0, classes, len(objects))
    kind = rng.choice(["plain", *flags], len(objects), p=[1 - 0.15 * len(flags), *[0.15] * len(flags)])
    detections = []
    for _ in range(rng.integers(0, 13)):
        n = rng.integers(0, len(objects) + 1)
        anywhere = n == len(objects)
        box = np.array([5, 5, 30, 40]) if anywhere else objects[n] + rng.integers(-4, 5, 4)
        box[2:] = np.maximum(box[2:], box[:2] + 1)
        class_index = rng.integers(0, classes) if anywhere or rng.random() < 0.2 else object_classes[n]
        detections.append((class_index, rng.integers(1, 9) / 8, *box))
    return found(*detections), truth(
        *np.column_stack((object_classes, objects)).tolist(),
        difficult=np.flatnonzero(kind == "difficult"),
        crowd=np.flatnonzero(kind == "crowd"),
    )


def box_mask(size_hw, x1, y1, x2, y2):
    """The mask of a box of whole pixels, what sticks out of the image cut."""
    mask = np.zeros(size_hw, bool)
    mask[max(int(y1), 0) : int(y2), max(int(x1), 0) : int(x2)] = True
    return mask


def with_masks(boxes, *masks):
    """Detections, pseudo labels, proposals or true objects with these masks, the boxes left as they are; None is no mask."""
    rle = [mask if mask is None else encode_rle(np.asarray(mask, bool)) for mask in masks]
    return replace(boxes, mask_rle=rle)


def filled(boxes, size_hw=(128, 128)):
    """The same with the mask that fills each box."""
    return with_masks(boxes, *(box_mask(size_hw, *box) for box in boxes.boxes_xyxy))


def with_random_masks(rng, *of_one_image, size_hw=(128, 128)):
    """The same with a mask in each box: half of the image is missing in all of them, and some pixels in each."""
    holes = rng.random((size_hw[0] // 4, size_hw[1] // 4)).repeat(4, 0).repeat(4, 1) < 0.5
    return tuple(
        with_masks(boxes, *(box_mask(size_hw, *box) & holes & (rng.random(size_hw) < 0.97) for box in boxes.boxes_xyxy))
        for boxes in of_one_image
    )
