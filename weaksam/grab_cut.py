"""GrabCut (Rother et al., 2004): what in an image has other colours than its surroundings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ITERATIONS = 5  # colours and cut hardly change after that


def grab_cut(
    image: NDArray[np.uint8], probably: NDArray[np.bool_], perhaps: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_] | None:
    """Cut one object out; this sets the seed of OpenCV's random numbers in this thread, so that the same gives the same.

    Args:
        image: [H, W, 3] RGB.
        probably: [H, W], where the object is at first.
        perhaps: [H, W], where else it may be found; None: nowhere. All other pixels are surely beside it.

    Returns:
        [H, W], of at least one pixel; None where nothing is found, or one side has too few pixels or colours to look.
    """
    import cv2

    kind = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    if perhaps is not None:
        kind[perhaps] = cv2.GC_PR_BGD
    kind[probably] = cv2.GC_PR_FGD
    colours = np.zeros((1, 65)), np.zeros((1, 65))  # the models of both, which it wants as places to write to
    cv2.setRNGSeed(0)  # its models start from k-means with random centres
    try:
        cv2.grabCut(image, kind, (0, 0, 0, 0), *colours, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None
    cut: NDArray[np.bool_] = kind == cv2.GC_PR_FGD
    return cut if cut.any() else None
