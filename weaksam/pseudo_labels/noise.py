"""True boxes made wrong on purpose: what a loss drop should find, in an amount that is known.

A given share of all boxes becomes noise, in equal thirds: moved to a wrong place, given a wrong class, or missing. Which
boxes, and what becomes of them, depends on a seed and the image ids alone, not on the order of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weaksam.boxes_np import paired_iou
from weaksam.random import derive_seed

# What was done to a box.
CLEAN, PLACE, CLASS, MISSING = NOISE_KINDS = ("clean", "place", "class", "missing")

MOST_IOU = 0.3  # of a moved box with any true box of its class in the image; strictly less
_TRIES = 100  # random places, before the farthest corner is taken


@dataclass(frozen=True, kw_only=True)
class TrueBoxes:
    """The objects of one image."""

    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]  # [N, 4], inside the image
    class_index: NDArray[np.int64]  # [N]


@dataclass(frozen=True, kw_only=True)
class NoisyBoxes:
    """What noise left of one image's objects, in their order, and what it removed."""

    boxes_xyxy: NDArray[np.float32]  # [M, 4]
    class_index: NDArray[np.int64]  # [M]
    kind: list[str]  # [M] "clean", "place" or "class"
    missing: NDArray[np.int64]  # [N - M] rows of the objects that are gone


def add_noise(images: Mapping[str, TrueBoxes], *, num_classes: int, share: float, seed: int) -> dict[str, NoisyBoxes]:
    """Turn a share of all boxes into noise.

    A box in the wrong place keeps its size and class and lies inside the image, with an IoU below .3 with every true box
    of its class there, or at least with its old place. Boxes too large to get that far away are never moved, but may become
    noise of another kind: the thirds stay equal as long as the chosen boxes that can be moved are a third. A wrong class is
    drawn uniformly from the others; of a single class there is none, and noise is in halves, moved and missing.

    Args:
        images: image id -> its objects, in any order.
        num_classes: C.
        share: of all boxes, in [0, 1]; the number of boxes is rounded. The noise of a larger share falls on the same boxes
            and others.
        seed: another seed chooses other boxes.

    Returns:
        image id -> its boxes with noise, in the order of ``images``.
    """
    ids = sorted(images)
    draws = [_generator("which", seed, image_id).random(len(images[image_id].boxes_xyxy)) for image_id in ids]
    order = np.argsort(np.concatenate([np.zeros(0), *draws]), kind="stable")
    chosen = order[: round(share * len(order))]
    movable = np.concatenate([np.zeros(0, np.bool_), *(_movable(images[image_id]) for image_id in ids)])
    kinds = np.zeros(len(order), np.int64)  # indices into NOISE_KINDS
    kinds[chosen] = _in_equal_parts(movable[chosen], num_classes)
    by_image = dict(zip(ids, np.split(kinds, np.cumsum([len(draw) for draw in draws])), strict=False))
    return {
        image_id: _apply(truth, [NOISE_KINDS[kind] for kind in by_image[image_id]], image_id, num_classes, seed)
        for image_id, truth in images.items()
    }


def _movable(truth: TrueBoxes) -> NDArray[np.bool_]:
    """Say which boxes have a place in the image whose IoU with the old one is low enough, [N]."""
    boxes = truth.boxes_xyxy.astype(np.float64)
    farthest = np.stack([_at_farthest_corner(box, truth.size_hw) for box in boxes]) if len(boxes) else boxes
    movable: NDArray[np.bool_] = paired_iou(boxes, farthest) < MOST_IOU
    return movable


def _in_equal_parts(movable: NDArray[np.bool_], num_classes: int) -> NDArray[np.int64]:
    """Share kinds of noise out among n boxes in random order, the wrong place only to those that can be moved: [n] -> [n]."""
    others = (CLASS, MISSING) if num_classes > 1 else (MISSING,)
    kinds = np.full(len(movable), NOISE_KINDS.index(PLACE))
    moved = np.flatnonzero(movable)[: -(-len(movable) // (1 + len(others)))]
    rest = np.setdiff1d(np.arange(len(movable)), moved)
    kinds[rest] = np.resize([NOISE_KINDS.index(kind) for kind in others], len(rest))
    return kinds


def _apply(truth: TrueBoxes, kinds: list[str], image_id: str, num_classes: int, seed: int) -> NoisyBoxes:
    boxes_xyxy, class_index = truth.boxes_xyxy.copy(), truth.class_index.copy()
    for n, kind in enumerate(kinds):
        if kind == PLACE:
            of_class = truth.boxes_xyxy[truth.class_index == truth.class_index[n]]
            generator = _generator("where", seed, image_id, n)
            boxes_xyxy[n] = _moved(truth.boxes_xyxy[n], of_class, truth.size_hw, generator)
        elif kind == CLASS:
            step = 1 + int(_generator("what", seed, image_id, n).integers(num_classes - 1))
            class_index[n] = (truth.class_index[n] + step) % num_classes
    missing = np.array([kind == MISSING for kind in kinds], np.bool_)
    return NoisyBoxes(
        boxes_xyxy=boxes_xyxy[~missing],
        class_index=class_index[~missing],
        kind=[kind for kind in kinds if kind != MISSING],
        missing=np.flatnonzero(missing),
    )


def _moved(
    box_xyxy: NDArray[np.float32],
    of_class_xyxy: NDArray[np.float32],
    size_hw: tuple[int, int],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Return a box of the same size at a random place, [4]; the farthest corner if no other that was tried is free."""
    box = box_xyxy.astype(np.float64)
    sides, room = _sides_and_room(box, size_hw)
    starts = generator.random((_TRIES, 2)) * room
    places = np.concatenate([starts, starts + sides], axis=1)
    free = np.flatnonzero((paired_iou(places[:, None], of_class_xyxy.astype(np.float64)) < MOST_IOU).all(axis=1))
    return places[free[0]] if len(free) else _at_farthest_corner(box, size_hw)


def _at_farthest_corner(box: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return a box [4] moved to the corner of the image where it overlaps its old place least."""
    sides, room = _sides_and_room(box, size_hw)
    start = np.where(box[:2] > room / 2, 0, room)
    return np.concatenate([start, start + sides])


def _sides_and_room(
    box: NDArray[np.float64], size_hw: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return width and height of a box, and how far right and down its left top corner may lie: [2], [2]."""
    sides = box[2:] - box[:2]
    return sides, (np.array(size_hw[::-1]) - sides).clip(min=0)


def _generator(what: str, seed: int, *of: str | int) -> np.random.Generator:
    return np.random.default_rng(derive_seed("noise", what, seed, *of))
