"""Selective Search, the classical proposal source that WeakSAM is compared with (Uijlings et al., IJCV 2013).

The search is opencv-contrib's. Its set of boxes is the same on every call, but it returns them ordered by C's global
``rand()``; the order matters because only the first ``max_boxes`` are kept. So the boxes are ordered here, by the
paper's rule (section 4.3 there) with a fixed seed: position in the hierarchy, the whole image first, times a random
number. The position is taken from the area, which grows towards the top of every hierarchy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weaksam.config import SelectiveSearchConfig
from weaksam.structures import SELECTIVE_SEARCH, Proposals


def selective_search(image: NDArray[np.uint8], config: SelectiveSearchConfig) -> Proposals:
    """Propose boxes for one image [H, W, 3] upright RGB, deterministically; needs no prompts and no network.

    Discards, in this order and counted: boxes with a side below ``min_side`` and those beyond ``max_boxes``. An image
    too small for any box of ``min_side`` gives none.
    """
    height, width = image.shape[:2]
    searched, scale = _resized(image, config.resize_width)
    boxes_xyxy = _ordered(_search(searched, config.mode))
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    large = (sides >= config.min_side).all(axis=1)
    kept = boxes_xyxy[large][: config.max_boxes]
    discarded = {"below min_side": int((~large).sum()), "beyond max_boxes": int(large.sum()) - len(kept)}

    in_image = np.clip(kept / scale, 0, (width, height, width, height)).astype(np.float32)
    return Proposals(
        size_hw=(height, width),
        boxes_xyxy=in_image,
        source=[SELECTIVE_SEARCH] * len(kept),
        prompt_index=np.full(len(kept), -1, np.int32),
        mask_index=np.full(len(kept), -1, np.int8),
        predicted_iou=np.full(len(kept), np.nan, np.float32),
        discarded={(SELECTIVE_SEARCH, reason): count for reason, count in discarded.items() if count},
    )


def _resized(image: NDArray[np.uint8], resize_width: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The image to search in and its scale as XYXY factors; its height stays within twice ``resize_width``."""
    height, width = image.shape[:2]
    if resize_width == 0:
        return image, np.ones(4)
    factor = min(resize_width / width, 2 * resize_width / height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return resized, np.array(size * 2) / np.array((width, height) * 2)


def _search(image: NDArray[np.uint8], mode: str) -> NDArray[np.float64]:
    """All boxes of opencv's search, XYXY with exclusive corners: [N, 4], N at least 1 (the whole image)."""
    import cv2

    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))  # opencv reads BGR
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    boxes = np.asarray(search.process(), dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _ordered(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    boxes_xyxy = np.unique(boxes_xyxy, axis=0)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    from_the_top = boxes_xyxy[np.argsort(-area, kind="stable")]
    position = 1 + np.arange(len(from_the_top))
    return from_the_top[np.argsort(position * np.random.default_rng(0).random(len(position)), kind="stable")]
