"""True boxes and masks, between a data set's annotations and the pictures that they are measured on: what all data sets share.

An annotation may state its picture's size. ``StatedSize`` says what that counts for: "check" refuses annotations of a picture
that has another size, "scale" takes the picture for a resized copy of the annotated one, "ignore" takes them for pixels of the
picture as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam.errors import DataError
from weaksam.masks_np import Rle, decode_rle, encode_rle
from weaksam.structures import GroundTruth, no_objects

StatedSize = Literal["check", "scale", "ignore"]

# Pixels by which a box may stick out of its image without being counted: COCO's corners are sums of rounded decimals.
_TOLERANCE = 0.02
# Pixels by which a resized copy may differ from the exact proportions: either side was rounded.
_ROUNDED = 1.0


class TrueObject(NamedTuple):
    """One annotated object; ``box_xyxy`` is exclusive and not yet cut to the image."""

    box_xyxy: tuple[float, float, float, float]
    class_index: int
    difficult: bool = False
    crowd: bool = False
    mask_rle: Rle | None = None  # of the stated size


@dataclass(frozen=True)
class MaskCounts:
    """What is known of the true masks of some images without a pixel."""

    images: int  # whose annotations state masks
    masks: int
    without: int  # objects of these images that have a box alone
    left_out: int  # masks that are of no object: see ``GroundTruth``


@dataclass(frozen=True)
class BoxCounts:
    """What is known of the true boxes of some images without a coordinate: see ``GroundTruth``."""

    images: int
    objects: int
    cut: int
    left_out: int


def ground_truth_of(
    objects: Sequence[TrueObject],
    size_hw: tuple[int, int],
    stated_size: StatedSize = "check",
    where: str = "",
    *,
    masks: bool = False,
    masks_left_out: int = 0,
) -> GroundTruth:
    """Cut the objects of one image to the size that its annotation states.

    Args:
        objects: In any number.
        size_hw: The stated size; 0 where it is not known, and then nothing is cut at that side.
        stated_size: What the size counts for; "ignore" makes it unknown.
        where: The file that they are from.
        masks: Whether the annotations state masks, and are asked for them.
        masks_left_out: Masks that they state and that are of none of the objects.

    Returns:
        The objects of which something lies inside the image, how many of them were cut, and how many others are left out
        because nothing of them remains (an empty or reversed box among them).
    """
    boxes = np.array([item.box_xyxy for item in objects], np.float64).reshape(-1, 4)
    truth = GroundTruth(
        boxes_xyxy=boxes.astype(np.float32),
        class_index=np.array([item.class_index for item in objects], np.int64),
        difficult=np.array([item.difficult for item in objects], bool),
        crowd=np.array([item.crowd for item in objects], bool),
        size_hw=(0, 0) if stated_size == "ignore" else size_hw,
        where=where,
        to_scale=stated_size == "scale",
        mask_rle=[item.mask_rle for item in objects] if masks else None,
        masks_left_out=masks_left_out,
    )
    return _cut(truth, boxes, truth.size_hw)


def true_objects(truth: Mapping[str, GroundTruth], image_id: str, size_hw: tuple[int, int]) -> GroundTruth:
    """Return the true objects of one picture, in its own pixels: the one way in which readers get them.

    Args:
        truth: By image id; an image that is not there holds nothing.
        image_id: Of the picture.
        size_hw: The size that the picture has, upright.

    Returns:
        The objects, cut to the picture where the annotations state no size, and scaled to it if they are ``to_scale``.

    Raises:
        DataError: The annotations have boxes and state another size.
    """
    known = truth.get(image_id) or no_objects()
    stated = known.size_hw
    if stated != size_hw and known.to_scale and min(stated) > 0:
        return _scaled(known, image_id, size_hw)
    boxes = len(known.boxes_xyxy) + known.left_out
    if boxes and any(side and side != actual for side, actual in zip(stated, size_hw, strict=True)):
        raise another_size(stated, image_id, size_hw, where=known.where, to_scale=known.to_scale)
    return known if stated == size_hw else _of_size(_cut(known, known.boxes_xyxy, size_hw), size_hw)


def count_boxes(truth: Mapping[str, GroundTruth]) -> BoxCounts:
    """Count the true boxes of a split."""
    known = truth.values()
    objects, cut, left_out = (
        sum(counts)
        for counts in ((len(t.boxes_xyxy) for t in known), (t.cut for t in known), (t.left_out for t in known))
    )
    return BoxCounts(len(truth), objects, cut, left_out)


def count_masks(truth: Mapping[str, GroundTruth]) -> MaskCounts:
    """Count the true masks of a split, which were asked for."""
    known = [of for of in truth.values() if of.mask_rle is not None]
    masks = [rle is not None for of in known for rle in of.mask_rle or ()]
    return MaskCounts(len(known), sum(masks), len(masks) - sum(masks), sum(of.masks_left_out for of in known))


def mask_digest_of(truth: Mapping[str, GroundTruth]) -> str:
    """Return 32 hexadecimal digits that tell the true masks of a split, which were asked for, from any others.

    They say nothing of boxes and classes, which have digits of their own, see ``digest_of``.
    """
    digest = hashlib.sha256()
    for image_id, of in sorted(truth.items()):
        masks = None if of.mask_rle is None else [rle and (rle["size"], rle["counts"].hex()) for rle in of.mask_rle]
        digest.update(json.dumps((image_id, masks, of.masks_left_out)).encode())
    return digest.hexdigest()[:32]


def digest_of(truth: Mapping[str, GroundTruth]) -> str:
    """Return 32 hexadecimal digits that tell the true boxes of a split from any others, down to the last bit.

    They do not depend on the order of the images, nor on the file that the boxes are from, nor on masks.
    """
    digest = hashlib.sha256()
    for image_id, of in sorted(truth.items()):
        height, width = of.size_hw
        stated = (image_id, len(of.boxes_xyxy), of.cut, of.left_out, height, width, of.to_scale)
        digest.update(json.dumps(stated).encode())
        digest.update(of.boxes_xyxy.astype("<f4").tobytes())
        digest.update(of.class_index.astype("<i8").tobytes())
        digest.update(of.difficult.astype(bool).tobytes())
        digest.update(of.crowd.astype(bool).tobytes())
    return digest.hexdigest()[:32]


def _cut(truth: GroundTruth, boxes_xyxy: NDArray[np.floating], size_hw: tuple[int, int]) -> GroundTruth:
    """Cut the boxes of ``truth`` to ``size_hw``, and count; nothing is cut at a side of 0."""
    height, width = (side or np.inf for side in size_hw)
    inside = boxes_xyxy.clip(0, (width, height, width, height))
    kept = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    cut = (np.abs(inside - boxes_xyxy) > _TOLERANCE).any(axis=1)
    return replace(
        truth.take(np.flatnonzero(kept).tolist()),
        boxes_xyxy=inside[kept].astype(np.float32),
        cut=truth.cut + int((cut & kept).sum()),
        left_out=truth.left_out + int((~kept).sum()),
    )


def _scaled(truth: GroundTruth, image_id: str, size_hw: tuple[int, int]) -> GroundTruth:
    (stated_height, stated_width), (height, width) = truth.size_hw, size_hw
    if not is_resized(truth.size_hw, size_hw):
        raise another_size(truth.size_hw, image_id, size_hw, where=truth.where, to_scale=True)
    factors: NDArray[np.float64] = np.array([width / stated_width, height / stated_height] * 2)
    return replace(
        truth,
        boxes_xyxy=(truth.boxes_xyxy * factors).astype(np.float32),
        size_hw=size_hw,
        mask_rle=None if truth.mask_rle is None else [_resized(rle, size_hw) for rle in truth.mask_rle],
    )


def is_resized(stated_hw: tuple[int, int], size_hw: tuple[int, int]) -> bool:
    """Whether a picture may be a resized copy of one of the stated size: one factor gives both sides, each of them rounded."""
    (stated_height, stated_width), (height, width) = stated_hw, size_hw
    least = max((height - _ROUNDED) / stated_height, (width - _ROUNDED) / stated_width)
    most = min((height + _ROUNDED) / stated_height, (width + _ROUNDED) / stated_width)
    return least <= most


def _resized(rle: Rle | None, size_hw: tuple[int, int]) -> Rle | None:
    """Scale a mask to a picture of another size: each pixel takes the nearest one's side."""
    if rle is None:
        return None
    scaled = Image.fromarray(decode_rle(rle)).resize(size_hw[::-1], Image.Resampling.NEAREST)
    return encode_rle(np.asarray(scaled, np.bool_))


def _of_size(truth: GroundTruth, size_hw: tuple[int, int]) -> GroundTruth:
    """Cut masks to a picture, or fill them up with pixels outside, where their annotations count as pixels of the picture."""
    if truth.mask_rle is None:
        return truth
    masks: list[Rle | None] = []
    for rle in truth.mask_rle:
        if rle is not None and tuple(rle["size"]) != size_hw:
            mask: NDArray[np.bool_] = np.zeros(size_hw, np.bool_)
            stated = decode_rle(rle)[: size_hw[0], : size_hw[1]]
            mask[: stated.shape[0], : stated.shape[1]] = stated
            rle = encode_rle(mask)
        masks.append(rle)
    return replace(truth, mask_rle=masks)


def another_size(
    stated_hw: tuple[int, int], image_id: str, size_hw: tuple[int, int], *, where: str, to_scale: bool
) -> DataError:
    """Say of a picture that it has another size than its annotations are for, and what to do; ``where`` these stand."""
    (stated_height, stated_width), (height, width) = stated_hw, size_hw
    if (stated_width, stated_height) == (height, width):
        remedy = (
            "width and height have changed places, as where a tool annotates without turning a picture by its EXIF "
            "orientation: remove that tag from the picture (exiftool -Orientation= FILE), or correct the stated size; "
            "data.stated_size=ignore takes the annotations for pixels of the upright picture"
        )
    elif to_scale:
        remedy = (
            "its proportions are others, so that it is no resized copy: annotate this picture or correct the stated size; "
            "data.stated_size=ignore takes the annotations for pixels of the pictures as they are"
        )
    else:
        remedy = (
            "annotate this picture, correct the stated size, or set data.stated_size=scale if the pictures are resized "
            "copies of the annotated ones (ignore: the annotations are pixels of the pictures as they are)"
        )
    return DataError(
        f"{f'{where}: ' if where else ''}image {image_id}: expected a picture of {stated_width or '?'} x "
        f"{stated_height or '?'} pixels (width x height), for which it is annotated, got one of {width} x {height}; "
        f"{remedy}"
    )
