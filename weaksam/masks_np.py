"""COCO's run-length encoding of masks and what is measured on it, without torch; ``masks.py`` is for what computes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weaksam.errors import DataError

Rle = dict[str, Any]  # COCO's compressed run-length encoding of a mask: ``size`` as [H, W] and ``counts`` as bytes


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """COCO's compressed run-length encoding of one mask.

    Args:
        mask: bool ``[H, W]``; an empty mask is fine.

    Returns:
        ``size`` as [H, W] and ``counts`` as bytes, which is what pycocotools reads.
    """
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": bytes(encoded["counts"])}


def rle_as_json(mask_rle: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoding as JSON holds it: ``size`` as [H, W] and ``counts`` as text."""
    return {"size": list(mask_rle["size"]), "counts": mask_rle["counts"].decode()}


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask behind COCO's compressed run-length encoding; the inverse of ``encode_rle``.

    Returns:
        bool ``[H, W]``.

    Raises:
        DataError: the runs are not those of a mask of its size.
    """
    from pycocotools import mask as coco_mask

    _check_runs(rle)
    with _of_older_numpy():
        decoded: NDArray[np.uint8] = coco_mask.decode(rle)
    return decoded.astype(np.bool_)


def decode_rles(masks_rle: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The masks behind several encodings of one image: bool ``[N, H, W]``; see ``decode_rle``."""
    masks: NDArray[np.bool_] = np.zeros((len(masks_rle), *size_hw), np.bool_)
    for mask, rle in zip(masks, masks_rle, strict=True):
        mask[:] = decode_rle(rle)
    return masks


def rle_area(masks_rle: Sequence[Rle]) -> NDArray[np.int64]:
    """Pixels of each mask, [N]. Raises DataError where the runs are not those of a mask of its size."""
    from pycocotools import mask as coco_mask

    for rle in masks_rle:
        _check_runs(rle)
    with _of_older_numpy():
        return np.array(coco_mask.area(list(masks_rle)), np.int64)


def rle_boxes(masks_rle: Sequence[Rle]) -> NDArray[np.float32]:
    """The tightest box around each mask, XYXY, [N, 4]; of one without a pixel 0 0 0 0. Raises DataError as ``rle_area``."""
    from pycocotools import mask as coco_mask

    for rle in masks_rle:
        _check_runs(rle)
    with _of_older_numpy():
        boxes: NDArray[np.float32] = np.asarray(coco_mask.toBbox(list(masks_rle)), np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The box around a mask's pixels: XYXY, right and bottom exclusive; ``0 0 0 0`` of one without a pixel.

    Args:
        mask: [H, W].
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(columns) else (0, 0, 0, 0)


def rle_iou(
    a_rle: Sequence[Rle], b_rle: Sequence[Rle], *, crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """IoU of every mask of one set with every mask of another, counted on their runs: no mask is drawn.

    Args:
        a_rle: N masks of one image.
        b_rle: M masks of the same image.
        crowd: [M]; how far a mask of the first set overlaps a crowd of the second is, as COCO has it, the share of the
            mask that lies inside. None: there are no crowds.

    Returns:
        [N, M] in [0, 1]; 0 where both masks are empty. No masks give [0, M] or [N, 0].

    Raises:
        DataError: two masks are of images of different sizes, or the runs of one are not those of a mask of its size.
    """
    from pycocotools import mask as coco_mask

    for rle in (*a_rle, *b_rle):
        _check_runs(rle)
    sizes = {tuple(rle["size"]) for rle in (*a_rle, *b_rle)}
    if len(sizes) > 1:
        shown = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise DataError(f"expected masks of one image, got masks of {shown} pixels (height x width)")
    if not len(a_rle) or not len(b_rle):
        return np.zeros((len(a_rle), len(b_rle)))
    flags = [0] * len(b_rle) if crowd is None else crowd.astype(int).tolist()
    with _of_older_numpy():
        return np.array(coco_mask.iou(list(a_rle), list(b_rle), flags), np.float64)


def mask_nms(
    masks_rle: Sequence[Rle], score: NDArray[np.float32], class_index: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.int64]:
    """Non-maximum suppression by masks, per class: those that overlap no better one by more than a threshold.

    Args:
        masks_rle: N masks of one image.
        score: [N]; of equals the first is better.
        class_index: [N]; masks of different classes do not suppress each other.
        iou_threshold: in [0, 1].

    Returns:
        the numbers of those that are kept, the best first.

    Raises:
        DataError: as ``rle_iou``.
    """
    order = np.argsort(-score, kind="stable")
    suppresses = (rle_iou(masks_rle, masks_rle) > iou_threshold) & (class_index[:, None] == class_index)
    kept: list[int] = []
    for n in order.tolist():
        if not suppresses[n, kept].any():
            kept.append(n)
    return np.array(kept, np.int64)


def rle_inside(masks_rle: Sequence[Rle]) -> NDArray[np.float64]:
    """Share of each mask that lies inside each of them, counted on their runs; 0 of one without a pixel.

    Args:
        masks_rle: N masks of one image.

    Returns:
        [N, N] in [0, 1]: row n is about mask n.

    Raises:
        DataError: as ``rle_iou``.
    """
    return rle_iou(masks_rle, masks_rle, crowd=np.ones(len(masks_rle), np.bool_))


class RunLengths(NamedTuple):
    """The runs of masks of one size, mask after mask, each in reading order down its columns: outside, inside, outside, …"""

    length: NDArray[np.int64]  # [R] pixels
    mask: NDArray[np.int64]  # [R] which of the masks, ascending
    place: NDArray[np.int64]  # [R] in its mask, from 0; odd ones are inside


def read_runs(masks_rle: Sequence[Mapping[str, Any]], size_hw: tuple[int, int]) -> RunLengths:
    """Read the runs of masks, of all at once: masks are many and short.

    A run is a number of 5-bit digits, the lowest first, each in a byte from 48 on; 32 is added to all digits but the last,
    whose bit 16 is the sign. From the fourth run of a mask on, it is the difference from the run before the last.

    Args:
        masks_rle: there may be none.
        size_hw: their size, as is expected.

    Raises:
        DataError: a mask is of another size, or its runs do not fill it.
    """
    height, width = size_hw
    other = next((rle["size"] for rle in masks_rle if tuple(rle["size"]) != size_hw), None)
    if other is not None:
        theirs = " x ".join(str(side) for side in other)
        raise DataError(f"expected a mask of {height} x {width} pixels (height x width), got one of {theirs}")
    found = _digits_to_runs([rle["counts"] for rle in masks_rle])
    if found is None or (np.bincount(found.mask, found.length, len(masks_rle)) != height * width).any():
        raise DataError(
            f"expected run lengths of a mask of {height} x {width} pixels (height x width), got others or none; "
            "the mask is cut or damaged: make it again"
        )
    return found


def _digits_to_runs(counts: Sequence[bytes]) -> RunLengths | None:
    """Return the runs that bytes spell; None where those of a mask spell none, or one below 0."""
    digits = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    ends_of_masks = np.cumsum([len(of_mask) for of_mask in counts], dtype=np.int64)
    last = digits & 32 == 0
    if not all(counts) or (digits < 0).any() or (digits >= 64).any() or not last[ends_of_masks - 1].all():
        return None
    ends = np.flatnonzero(last) + 1
    sizes = np.diff(ends, prepend=0)
    if (sizes > 8).any():  # 40 bits: longer than any run
        return None
    places = 5 * (np.arange(len(digits)) - np.repeat(ends - sizes, sizes))
    length = np.add.reduceat((digits & 31) << places, ends - sizes) if len(digits) else digits
    length -= np.where(digits[ends - 1] & 16, 1 << (5 * sizes), 0)
    runs_of_masks = np.diff(np.searchsorted(ends, ends_of_masks, side="right"), prepend=0)
    mask = np.repeat(np.arange(len(counts)), runs_of_masks)
    place = np.arange(len(length)) - np.repeat(runs_of_masks.cumsum() - runs_of_masks, runs_of_masks)
    for parity in (0, 1):
        differences = np.flatnonzero((place % 2 == parity) & (place > 0))
        sums, of = np.concatenate(([0], length[differences].cumsum())), mask[differences]
        length[differences] = sums[1:] - sums[np.searchsorted(of, of)]  # less those of earlier masks
    return None if (length < 0).any() else RunLengths(length, mask, place)


def _check_runs(rle: Mapping[str, Any]) -> None:
    """Raise DataError unless the runs fill the mask: pycocotools hangs, or reads beyond its memory, where they do not."""
    height, width = rle["size"]
    read_runs([rle], (height, width))


@contextmanager
def _of_older_numpy() -> Iterator[None]:
    """Silence what numpy says of pycocotools' array type, which predates numpy 2; it is read correctly."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        yield
